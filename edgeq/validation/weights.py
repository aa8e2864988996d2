"""The weights digest of an artifact, read back out of the file that ships."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, assert_never

from edgeq.core.target import Format


def artifact_digest(format: Format, model_path: Path, weights: Mapping[str, Any]) -> str:
    """The digest as the store computes it. weights: each quantized weight's WeightLocation in plain form.

    Raises BadInputError where the weights cannot be found or read.
    """
    match format:
        case "onnx" | "transformersjs":
            from edgeq.validation import onnx_weights

            return onnx_weights.artifact_digest(model_path, weights)
        case "executorch":
            from edgeq.validation import executorch_weights

            return executorch_weights.artifact_digest(model_path, weights)
        case "coreml":
            from edgeq.validation import coreml_weights

            return coreml_weights.artifact_digest(model_path, weights)
    assert_never(format)
