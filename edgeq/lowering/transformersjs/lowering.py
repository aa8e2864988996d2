"""A quantized model becomes the ONNX files that transformers.js opens, one graph for each data type."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from edgeq.core.artifact import Artifact, Variant, container_notes
from edgeq.core.scheme import ScaleDtype
from edgeq.core.target import TargetProfile
from edgeq.lowering.capture import CapturedModel
from edgeq.lowering.onnx.external_data import WEB_FILE_BYTES, ExternalData
from edgeq.lowering.onnx.graph import GraphBuilder
from edgeq.lowering.onnx.model import PLAIN_NOTE, OnnxModel, captured_model, context_length, onnx_model
from edgeq.lowering.onnx.weights import Weights
from edgeq.lowering.transformersjs.providers import check_wasm, fallback_notes
from edgeq.progress import Progress
from edgeq.store import QuantizedModel


@dataclass(frozen=True, kw_only=True)
class DataType:
    """What transformers.js calls a variant, the ending of its file's name, what it computes in, and the accuracy level
    that it has at most."""

    name: str
    suffix: str
    floats: ScaleDtype
    accuracy_level: int = 4


_TWO_BITS = (
    DataType(name="q2", suffix="_q2", floats="float32"),
    DataType(name="q2f16", suffix="_q2f16", floats="float16"),
)
_FOUR_BITS = (
    DataType(name="q4", suffix="_q4", floats="float32", accuracy_level=1),
    DataType(name="q4f16", suffix="_q4f16", floats="float16"),
)
DATA_TYPES: dict[int, tuple[DataType, ...]] = {
    2: _TWO_BITS,
    3: _FOUR_BITS,
    4: _FOUR_BITS,
    8: (DataType(name="q8", suffix="_quantized", floats="float32", accuracy_level=1),),
    16: (DataType(name="fp16", suffix="_fp16", floats="float16"),),
}
"""By the bits that most of the weights have; transformers.js knows no 3 bits, and 4 hold them.

What processors run keeps float activations: WebAssembly gains nothing from int8, and Node then says what browsers say.
Two bits have integer products only. GPUs that compute in float16 have the fast ones."""


def lower(store: QuantizedModel, target: TargetProfile, directory: Path, progress: Progress) -> Artifact:
    """Write `model_q4.onnx`, `model_q4.onnx_data`, `model_q4.onnx_data_1`, ... and the same for the other variants.

    Raises UnsupportedModelError where the model cannot be traced, has operators without an ONNX form or that no
    browser's runtime has, or tensors that no browser takes; OutputError where the disk is full.
    """
    progress.stage("capturing the graph")
    captured = captured_model(store, context_length(store.info, target), token_vectors=True)
    models: list[OnnxModel] = []
    variants: list[Variant] = []
    files: list[str] = []
    for data_type in DATA_TYPES[main_bits(store)]:
        model = _model(store, captured, target, directory, data_type)
        check_wasm(model.graph.graph)
        progress.stage(f"writing {data_type.name}")
        written = model.write(_file(data_type), progress)
        models.append(model)
        variants.append(Variant(dtype=data_type.name, entry=written[0], float_dtype=data_type.floats))
        files += written
    first = models[0]
    return Artifact(
        format="transformersjs",
        directory=directory,
        entry=variants[0].entry,
        files=tuple(files),
        interface=first.interface,
        weights_digest=store.weights_digest,
        weights=first.weights,
        variants=tuple(variants),
        notes=(
            *((PLAIN_NOTE,) if captured.plain else ()),
            *container_notes(first.weights, "ONNX Runtime's kernels for the web"),
            *(fallback_notes(first.graph.graph) if "webgpu" in target.execution_providers else ()),
        ),
    )


def main_bits(store: QuantizedModel) -> int:
    """The bits in which most of a store's linears are; 16 where none are quantized.

    Embeddings keep more bits, and are most of a small model: they do not give it its name.
    """
    sizes: Counter[int] = Counter()
    for name, assignment in store.plan.assignments.items():
        weight = store.info.weights[name]
        outputs, inputs = weight.outputs_inputs
        sizes[assignment.scheme.bits] += 0 if weight.role == "embedding" else outputs * inputs
    return sizes.most_common(1)[0][0] if sizes else 16


def _file(data_type: DataType) -> str:
    return f"model{data_type.suffix}.onnx"


def _model(
    store: QuantizedModel, captured: CapturedModel, target: TargetProfile, directory: Path, data_type: DataType
) -> OnnxModel:
    limit = WEB_FILE_BYTES if target.file_limit_mib is None else min(target.file_limit_mib << 20, WEB_FILE_BYTES)
    data = ExternalData(directory, file=f"{_file(data_type)}_data", file_bytes=limit)
    half = data_type.floats == "float16"
    weights = Weights(store, data, min(target.accuracy_level, data_type.accuracy_level), half=half)
    return onnx_model(captured, weights, GraphBuilder(half=half, web=True), context_length(store.info, target))
