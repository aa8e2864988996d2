"""A quantized model becomes `model.mlpackage` for iOS 18."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from edgeq.core.artifact import Artifact, Interface
from edgeq.core.target import TargetProfile
from edgeq.lowering.capture import CapturedModel, capture
from edgeq.lowering.coreml.constants import Constants
from edgeq.lowering.coreml.conversion import convert
from edgeq.lowering.coreml.converters import Converters
from edgeq.lowering.coreml.kernels import EncoderFunction, Model, TextFunction, build_model
from edgeq.lowering.coreml.package import FILES, PACKAGE, assemble, write_package
from edgeq.lowering.interface import special_tokens, vocabulary
from edgeq.lowering.stateful import dense_weights
from edgeq.progress import Progress
from edgeq.store import QuantizedModel

CHUNK = 64
"""Tokens that `prefill` reads at once; the rest of a prompt is padded, or goes through `decode`."""
TEXT_INPUTS = ("input_ids", "position", "last")


def lower(store: QuantizedModel, target: TargetProfile, directory: Path, progress: Progress) -> Artifact:
    """Write `model.mlpackage` into `directory`: functions `decode` and `prefill` that share weights and key-value
    states for text generation, one function for an encoder.

    Raises UnsupportedModelError where the model cannot be converted or Core ML cannot hold its schemes, OutputError.
    """
    info = store.info
    context_length = min(info.context_length or target.context_length, target.context_length)
    progress.stage("capturing the graph")
    captured = capture(info, store.source_directory, context_length)
    model = build_model(captured, store, context_length)
    constants = Constants(target.compute_unit)
    is_text = info.task == "text-generation"
    names = TEXT_INPUTS if is_text else _encoder_inputs(captured)
    progress.stage("converting for Core ML")
    functions = _text_functions(model, constants) if is_text else _encoder_functions(model, names, constants)
    program = assemble(functions, constants)
    progress.stage("writing the weights")
    write_package(program, directory)
    return Artifact(
        format="coreml",
        directory=directory,
        entry=PACKAGE,
        files=FILES,
        interface=_interface(store, model, names, program, context_length),
        weights_digest=store.weights_digest,
        weights=constants.locations,
        notes=_notes(captured, store),
    )


def _text_functions(model: Model, constants: Constants) -> dict[str, Any]:
    chunk = min(CHUNK, model.kernels.context_length)
    number = torch.zeros(1, dtype=torch.int32)
    ids = torch.zeros(1, chunk, dtype=torch.int32)
    function = TextFunction(model)
    examples = {"decode": (ids[:, :1], number), "prefill": (ids, number, number.clone())}
    return {
        name: convert(function, inputs, None, _converters(model, constants)) for name, inputs in examples.items()
    }


def _encoder_functions(model: Model, names: tuple[str, ...], constants: Constants) -> dict[str, Any]:
    longest = model.kernels.context_length
    examples = tuple(torch.ones(1, min(8, longest), dtype=torch.int32) for _ in names)
    return {"main": convert(EncoderFunction(model, names), examples, longest, _converters(model, constants))}


def _converters(model: Model, constants: Constants) -> Converters:
    return Converters(model.store, model.kernels.numbers, constants)


def _encoder_inputs(captured: CapturedModel) -> tuple[str, ...]:
    return tuple(str(name) for name in captured.program.graph_signature.user_inputs)


def _notes(captured: CapturedModel, store: QuantizedModel) -> tuple[str, ...]:
    dense = sorted(dense_weights(captured, store))
    return tuple(f"{name} is also stored as float16, as another operation than a product reads it" for name in dense)


def _interface(
    store: QuantizedModel, model: Model, names: tuple[str, ...], program: Any, context_length: int  # noqa: ANN401
) -> Interface:
    info = store.info
    end, begin = special_tokens(store.source_directory)
    shapes = model.kernels.cache_shapes
    outputs = program.functions[program.default_function_name].outputs
    return Interface(
        task=info.task,
        inputs=names,
        outputs=tuple(str(value.name) for value in outputs),
        vocabulary=vocabulary(info),
        context_length=context_length,
        cache=tuple(shapes[layer] for layer in sorted(shapes)),
        end_of_text_ids=end,
        begin_of_text_id=begin,
        pooling=info.pooling,
        normalize=info.normalize,
    )
