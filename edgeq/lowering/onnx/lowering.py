"""A quantized model becomes `model.onnx` with its weights beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from edgeq.core.artifact import Artifact, Interface, container_notes
from edgeq.core.model import ModelInfo
from edgeq.core.target import TargetProfile
from edgeq.files import write_atomic
from edgeq.lowering.capture import CapturedModel, capture
from edgeq.lowering.interface import special_tokens, vocabulary
from edgeq.lowering.onnx.attention import ATTENTION
from edgeq.lowering.onnx.elementwise import ELEMENTWISE
from edgeq.lowering.onnx.external_data import DATA_FILE, ExternalData
from edgeq.lowering.onnx.graph import MICROSOFT, GraphBuilder
from edgeq.lowering.onnx.neural import NEURAL
from edgeq.lowering.onnx.reductions import REDUCTIONS
from edgeq.lowering.onnx.shapes import SHAPES
from edgeq.lowering.onnx.signature import Signature
from edgeq.lowering.onnx.translator import Translator, decompose_unsupported
from edgeq.lowering.onnx.weights import Weights
from edgeq.progress import Progress
from edgeq.store import QuantizedModel

MODEL_FILE = "model.onnx"
OPSET = 23
IR_VERSION = 11
CONVERTERS = ELEMENTWISE | REDUCTIONS | SHAPES | NEURAL | ATTENTION
PLAIN_NOTE = "attention was captured operation by operation, so it runs without the fused kernel"


def lower(store: QuantizedModel, target: TargetProfile, directory: Path, progress: Progress) -> Artifact:
    """Write `model.onnx` and `model.onnx_data` into `directory`.

    Raises UnsupportedModelError where the model cannot be traced or has operators without an ONNX form, OutputError
    where the disk is full.
    """
    info = store.info
    context_length = min(info.context_length or target.context_length, target.context_length)
    progress.stage("capturing the graph")
    captured = capture(info, store.source_directory, context_length)
    captured = replace(captured, program=decompose_unsupported(captured.program, CONVERTERS))
    data = ExternalData(directory)
    weights = Weights(store, data, target.accuracy_level)
    signature = Signature(info, GraphBuilder(), captured.tables)
    if not signature.is_language_model:
        _declare_encoder_inputs(captured, signature)
    translator = Translator(captured, weights, signature, CONVERTERS)
    results = translator.run()
    model = _assemble(signature, data, results, info)
    progress.stage("writing the weights")
    data.write(progress)
    write_atomic(directory / MODEL_FILE, lambda path: ir.save(model, path))
    placed = weights.placed()
    return Artifact(
        format="onnx",
        directory=directory,
        entry=MODEL_FILE,
        files=(MODEL_FILE, DATA_FILE),
        interface=_interface(store, signature, model, context_length),
        weights_digest=store.weights_digest,
        weights=placed,
        notes=((PLAIN_NOTE,) if captured.plain else ()) + container_notes(placed, "ONNX Runtime's CPU kernels"),
    )


def _declare_encoder_inputs(captured: CapturedModel, signature: Signature) -> None:
    for name in captured.program.graph_signature.user_inputs:
        signature.declare(str(name), ["batch_size", "sequence_length"])


def _assemble(signature: Signature, data: ExternalData, results: list[ir.Value], info: ModelInfo) -> ir.Model:
    builder = signature.graph
    graph = ir.Graph(
        signature.graph_inputs(),
        signature.graph_outputs(results, info),
        nodes=builder.nodes,
        opset_imports={"": OPSET, MICROSOFT: 1},
        name="edgeq",
    )
    for name, value in (builder.initializers | data.values).items():
        if value.uses():
            graph.initializers[name] = value
    model = ir.Model(graph, ir_version=IR_VERSION, producer_name="edgeq")
    RemoveUnusedNodesPass()(model)
    _drop_unused_outputs(model)
    return model


def _drop_unused_outputs(model: ir.Model) -> None:
    """An optional output without a name is not computed: norms would write statistics that nobody reads."""
    kept = set(model.graph.outputs)
    for node in model.graph:
        for output in node.outputs:
            if node.domain == MICROSOFT and not output.uses() and output not in kept:
                output.name = ""


def _interface(store: QuantizedModel, signature: Signature, model: ir.Model, context_length: int) -> Interface:
    info = store.info
    end, begin = special_tokens(store.source_directory)
    outputs = model.graph.outputs
    return Interface(
        task=info.task,
        inputs=tuple(str(value.name) for value in model.graph.inputs),
        outputs=tuple(str(value.name) for value in outputs),
        vocabulary=vocabulary(info),
        context_length=context_length,
        cache=tuple(signature.cache_shapes[layer] for layer in sorted(signature.cache_shapes)),
        end_of_text_ids=end,
        begin_of_text_id=begin,
        pooling=info.pooling,
        normalize=info.normalize,
    )
