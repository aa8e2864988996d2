"""A plain module becomes `model.onnx` with its weights beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
import torch

from edgeq.core.artifact import Artifact, Interface, TensorSpec, container_notes, unpacking_notes
from edgeq.core.target import TargetProfile
from edgeq.errors import UnsupportedModelError
from edgeq.lowering.module_capture import CapturedModule
from edgeq.lowering.onnx.external_data import ExternalData
from edgeq.lowering.onnx.graph import DTYPES, GraphBuilder
from edgeq.lowering.onnx.lowering import MODEL_FILE
from edgeq.lowering.onnx.model import CONVERTERS, OnnxModel, assemble
from edgeq.lowering.onnx.signature import Signature
from edgeq.lowering.onnx.translator import Translator, decompose_unsupported
from edgeq.lowering.onnx.weights import Weights
from edgeq.progress import Progress
from edgeq.store import QuantizedModel


def simplified(captured: CapturedModule) -> CapturedModule:
    """The graph in operators that all have converters. Raises UnsupportedModelError, also where it changes a buffer."""
    program = decompose_unsupported(captured.graph.program, CONVERTERS)
    changed = program.graph_signature.buffers_to_mutate or program.graph_signature.user_inputs_to_mutate
    if changed:
        raise UnsupportedModelError(
            f"forward changes {next(iter(changed.values()))!r}, and an ONNX model keeps nothing between two runs.",
            remedy="Pass what is to be kept in and out of forward.",
        )
    return replace(captured, graph=replace(captured.graph, program=program))


def lower_module(
    captured: CapturedModule, store: QuantizedModel, target: TargetProfile, directory: Path, progress: Progress
) -> Artifact:
    """Write `model.onnx` and `model.onnx_data` into `directory`. Raises UnsupportedModelError, OutputError."""
    progress.stage("writing the weights")
    weights = Weights(store, ExternalData(directory), target.accuracy_level)
    signature = Signature(store.info, GraphBuilder(), [])
    for placeholder, spec in zip(captured.graph.program.graph_signature.user_inputs, captured.inputs, strict=True):
        value = signature.declare(spec.name, list(spec.shape), _type(spec))
        signature.inputs[str(placeholder)] = value
    results = Translator(captured.graph, weights, signature, CONVERTERS).run()
    outputs = _named(signature.graph, results, captured.outputs)
    graph = assemble(signature, weights.data, outputs)
    interface = Interface(
        task="module",
        inputs=tuple(spec.name for spec in captured.inputs),
        outputs=tuple(spec.name for spec in captured.outputs),
        vocabulary=0,
        context_length=0,
        tensors=(*captured.inputs, *captured.outputs),
    )
    model = OnnxModel(graph=graph, data=weights.data, weights=weights.placed(), interface=interface)
    return Artifact(
        format="onnx",
        directory=directory,
        entry=MODEL_FILE,
        files=model.write(MODEL_FILE, progress),
        interface=interface,
        weights_digest=store.weights_digest,
        weights=model.weights,
        notes=container_notes(model.weights, "ONNX Runtime's CPU kernels") + unpacking_notes(model.weights),
    )


def _named(graph: GraphBuilder, results: list[ir.Value], specs: tuple[TensorSpec, ...]) -> list[ir.Value]:
    """The results under their public names. What is an input, a constant, or an output already, is copied."""
    outputs: list[ir.Value] = []
    for result, spec in zip(results, specs, strict=True):
        is_taken = result.producer() is None or any(result is other for other in outputs)
        value = graph.op("Identity", result) if is_taken else result
        value.name, value.type, value.shape = spec.name, ir.TensorType(_type(spec)), ir.Shape(spec.shape)
        outputs.append(value)
    return outputs


def _type(spec: TensorSpec) -> ir.DataType:
    kind = DTYPES.get(getattr(torch, spec.dtype))
    if kind is None:
        raise UnsupportedModelError(
            f"{spec.name!r} is {spec.dtype}, which edgeq does not pass in or out of a model.",
            remedy=f"Use one of: {', '.join(str(dtype).removeprefix('torch.') for dtype in DTYPES)}.",
        )
    return kind
