"""From the store to a runtime's own format: capture once, then one package per format."""

from __future__ import annotations

from pathlib import Path
from typing import assert_never

from edgeq.core.artifact import Artifact
from edgeq.core.model import Task
from edgeq.core.target import Format, TargetProfile
from edgeq.errors import UnsupportedModelError
from edgeq.progress import Progress
from edgeq.store import QuantizedModel

TASK_FORMATS: dict[Task, tuple[Format, ...]] = {
    "text-generation": ("onnx", "executorch", "coreml", "transformersjs"),
    "feature-extraction": ("onnx", "executorch", "coreml", "transformersjs"),
    "text-classification": ("onnx",),
    "token-classification": ("onnx",),
    "image-classification": ("onnx",),
    "image-feature-extraction": ("onnx",),
    "module": ("onnx",),
}
"""Which formats a task's models can be lowered to."""


def check_task(task: Task, format: Format) -> None:
    """Raises UnsupportedModelError where a format does not take models for a task."""
    if format not in TASK_FORMATS[task]:
        raise UnsupportedModelError(
            f"edgeq does not lower models for {task} to {format}.",
            remedy=f"Use a target with {' or '.join(TASK_FORMATS[task])}, such as android or edge, or --format onnx.",
        )


def lower(
    store: QuantizedModel, target: TargetProfile, format: Format, directory: Path, progress: Progress
) -> Artifact:
    """Write the model's files for `format` into `directory`. Raises UnsupportedModelError, OutputError."""
    check_task(store.info.task, format)
    match format:
        case "onnx":
            from edgeq.lowering.onnx.lowering import lower as lower_onnx

            return lower_onnx(store, target, directory, progress)
        case "executorch":
            from edgeq.lowering.executorch.lowering import lower as lower_executorch

            return lower_executorch(store, target, directory, progress)
        case "coreml":
            from edgeq.lowering.coreml.lowering import lower as lower_coreml

            return lower_coreml(store, target, directory, progress)
        case "transformersjs":
            from edgeq.lowering.transformersjs.lowering import lower as lower_transformersjs

            return lower_transformersjs(store, target, directory, progress)
    assert_never(format)
