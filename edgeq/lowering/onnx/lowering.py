"""A quantized model becomes `model.onnx` with its weights beside it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import onnx_ir as ir

from edgeq.core.artifact import Artifact, container_notes, unpacking_notes
from edgeq.core.images import ImageInput
from edgeq.core.target import TargetProfile
from edgeq.files import write_atomic
from edgeq.lowering.onnx.external_data import ExternalData
from edgeq.lowering.onnx.graph import GraphBuilder
from edgeq.lowering.onnx.model import PLAIN_NOTE, captured_model, context_length, onnx_model
from edgeq.lowering.onnx.pictures import PICTURE_FILE, picture_model
from edgeq.lowering.onnx.weights import Weights
from edgeq.progress import Progress
from edgeq.store import QuantizedModel

MODEL_FILE = "model.onnx"


def lower(store: QuantizedModel, target: TargetProfile, directory: Path, progress: Progress) -> Artifact:
    """Write `model.onnx` and `model.onnx_data` into `directory`.

    Raises UnsupportedModelError where the model cannot be traced or has operators without an ONNX form, OutputError
    where the disk is full.
    """
    progress.stage("capturing the graph")
    length = context_length(store.info, target)
    captured = captured_model(store, length)
    weights = Weights(store, ExternalData(directory), target.accuracy_level)
    model = onnx_model(captured, weights, GraphBuilder(), length)
    progress.stage("writing the weights")
    files = model.write(MODEL_FILE, progress)
    picture = _write_picture_graph(store.info.image, directory)
    return Artifact(
        format="onnx",
        directory=directory,
        entry=MODEL_FILE,
        files=files if picture is None else (*files, picture),
        picture=picture,
        interface=model.interface,
        weights_digest=store.weights_digest,
        weights=model.weights,
        notes=(
            *((PLAIN_NOTE,) if captured.plain else ()),
            *container_notes(model.weights, "ONNX Runtime's CPU kernels"),
            *unpacking_notes(model.weights),
        ),
    )


def _write_picture_graph(image: ImageInput | None, directory: Path) -> str | None:
    """The file's name, None for models of text and where edgeq does not know how pictures are scaled."""
    if image is None or image.resizing is None:
        return None
    write_atomic(directory / PICTURE_FILE, partial(ir.save, picture_model(image, image.resizing)))
    return PICTURE_FILE
