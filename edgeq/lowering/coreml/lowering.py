"""A quantized model becomes `model.mlpackage` for iOS 18."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from edgeq.core.artifact import Artifact, Interface, container_notes
from edgeq.core.model import ModelInfo
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
    names = TEXT_INPUTS if info.task == "text-generation" else _encoder_inputs(captured)
    progress.stage("converting for Core ML")
    output = _output_name(info)
    functions = _functions(model, names, output, constants)
    program = assemble(functions, constants)
    progress.stage("writing the weights")
    write_package(program, directory)
    return Artifact(
        format="coreml",
        directory=directory,
        entry=PACKAGE,
        files=FILES,
        interface=_interface(store, model, names, output),
        weights_digest=store.weights_digest,
        weights=constants.locations,
        notes=(*_notes(captured, store), *container_notes(constants.locations, "Core ML's integers")),
    )


def _functions(model: Model, names: tuple[str, ...], output: str, constants: Constants) -> dict[str, Any]:
    """Converted programs by the name of the function that each becomes."""
    longest = model.kernels.context_length
    if names != TEXT_INPUTS:
        examples = tuple(torch.ones(1, min(8, longest), dtype=torch.int32) for _ in names)
        return {"main": convert(EncoderFunction(model), examples, longest, output, _converters(model, constants))}
    number = torch.zeros(1, dtype=torch.int32)
    ids = torch.zeros(1, min(CHUNK, longest), dtype=torch.int32)
    inputs = {"decode": (ids[:, :1], number), "prefill": (ids, number, number.clone())}
    return {
        name: convert(TextFunction(model), examples, None, output, _converters(model, constants))
        for name, examples in inputs.items()
    }


def _converters(model: Model, constants: Constants) -> Converters:
    return Converters(model.store, model.kernels.numbers, constants)


def _encoder_inputs(captured: CapturedModel) -> tuple[str, ...]:
    return tuple(str(name) for name in captured.program.graph_signature.user_inputs)


def _notes(captured: CapturedModel, store: QuantizedModel) -> tuple[str, ...]:
    dense = sorted(dense_weights(captured, store))
    notes = [f"{name} is also stored as float16, as another operation than a product reads it" for name in dense]
    schemes = [store.scheme(name) for name in store.names()]
    if any(scheme is not None and scheme.codebook == "nf4" for scheme in schemes):
        notes.append("NF4 is stored as a table below scales, an order that coremltools itself writes for iOS 26 only")
    return tuple(notes)


def _output_name(info: ModelInfo) -> str:
    if info.task == "text-generation":
        return "logits"
    return "last_hidden_state" if info.pooling == "none" else "sentence_embedding"


def _interface(store: QuantizedModel, model: Model, names: tuple[str, ...], output: str) -> Interface:
    info = store.info
    end, begin = special_tokens(store.source_directory)
    shapes = model.kernels.cache_shapes
    return Interface(
        task=info.task,
        inputs=names,
        outputs=(output,),
        vocabulary=vocabulary(info),
        context_length=model.kernels.context_length,
        cache=tuple(shapes[layer] for layer in sorted(shapes)),
        end_of_text_ids=end,
        begin_of_text_id=begin,
        pooling=info.pooling,
        normalize=info.normalize,
    )
