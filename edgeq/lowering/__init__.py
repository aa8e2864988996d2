"""From the store to a runtime's own format: capture once, then one package per format."""

from __future__ import annotations

from pathlib import Path
from typing import assert_never

from edgeq.core.artifact import Artifact
from edgeq.core.target import Format, TargetProfile
from edgeq.progress import Progress
from edgeq.store import QuantizedModel


def lower(
    store: QuantizedModel, target: TargetProfile, format: Format, directory: Path, progress: Progress
) -> Artifact:
    """Write the model's files for `format` into `directory`. Raises UnsupportedModelError, OutputError."""
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
