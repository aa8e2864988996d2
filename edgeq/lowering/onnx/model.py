"""A captured model with the store's weights as an ONNX graph, before anything of it is written."""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from edgeq.core.artifact import Interface, WeightLocation
from edgeq.core.model import ModelInfo
from edgeq.core.target import TargetProfile
from edgeq.files import write_atomic
from edgeq.lowering.capture import CapturedModel, capture
from edgeq.lowering.interface import special_tokens, vocabulary
from edgeq.lowering.onnx.attention import ATTENTION
from edgeq.lowering.onnx.elementwise import ELEMENTWISE
from edgeq.lowering.onnx.external_data import ExternalData
from edgeq.lowering.onnx.graph import MICROSOFT, GraphBuilder
from edgeq.lowering.onnx.neural import NEURAL
from edgeq.lowering.onnx.reductions import REDUCTIONS
from edgeq.lowering.onnx.shapes import SHAPES
from edgeq.lowering.onnx.signature import Signature
from edgeq.lowering.onnx.translator import Translator, decompose_unsupported
from edgeq.lowering.onnx.vision import VISION
from edgeq.lowering.onnx.weights import Weights
from edgeq.progress import Progress
from edgeq.store import QuantizedModel

OPSET = 23
IR_VERSION = 11
CONVERTERS = ELEMENTWISE | REDUCTIONS | SHAPES | NEURAL | ATTENTION | VISION
PLAIN_NOTE = "attention was captured operation by operation, so it runs without the fused kernel"


@dataclass(frozen=True, kw_only=True)
class OnnxModel:
    """A graph, the data that its initializers lie in, and where each quantized weight is."""

    graph: ir.Model
    data: ExternalData
    weights: dict[str, WeightLocation]
    interface: Interface

    def write(self, file: str, progress: Progress) -> tuple[str, ...]:
        """The data files, then the graph as `file` beside them; their names, the graph's first. Raises OutputError."""
        self.data.write(progress)
        write_atomic(self.data.directory / file, lambda path: ir.save(self.graph, path))
        return (file, *self.data.files)


def captured_model(store: QuantizedModel, context_length: int, *, token_vectors: bool = False) -> CapturedModel:
    """The model of a store as a graph of operators that all have converters. Raises UnsupportedModelError."""
    captured = capture(store.info, store.source_directory, context_length, token_vectors=token_vectors)
    return replace(captured, program=decompose_unsupported(captured.program, CONVERTERS))


def context_length(info: ModelInfo, target: TargetProfile) -> int:
    """The longest sequence: the profile's, or what the model was trained on where that is less."""
    return min(info.context_length or target.context_length, target.context_length)


def onnx_model(captured: CapturedModel, weights: Weights, builder: GraphBuilder, context_length: int) -> OnnxModel:
    """Translate a captured model with the weights of a store into the graph that `builder` holds.

    Raises UnsupportedModelError.
    """
    store, data = weights.store, weights.data
    signature = Signature(store.info, builder, captured.tables)
    if not signature.is_language_model:
        for name in captured.program.graph_signature.user_inputs:
            _declare(signature, str(name), store.info)
    results = Translator(captured, weights, signature, CONVERTERS).run()
    graph = assemble(signature, data, signature.graph_outputs(results, store.info))
    for value in weights.unread():
        graph.graph.initializers[str(value.name)] = value
    interface = _interface(store, signature, graph, context_length)
    return OnnxModel(graph=graph, data=data, weights=weights.placed(), interface=interface)


def _declare(signature: Signature, name: str, info: ModelInfo) -> None:
    """An input of a model that answers in one forward."""
    if info.image is None:
        signature.declare(name, ["batch_size", "sequence_length"])
    else:
        axes: list[str | int] = ["batch_size", info.image.channels, info.image.height, info.image.width]
        signature.declare(name, axes, signature.graph.float_type)


def assemble(signature: Signature, data: ExternalData, outputs: list[ir.Value]) -> ir.Model:
    """The model of all nodes that lead to named outputs."""
    builder = signature.graph
    graph = ir.Graph(
        signature.graph_inputs(),
        outputs,
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
        image=info.image,
        labels=info.labels,
        multi_label=info.multi_label,
    )
