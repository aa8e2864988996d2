"""From the store to a runtime's own format: capture once, then one package per format."""

from __future__ import annotations

from pathlib import Path
from typing import assert_never

from edgeq.core.artifact import Artifact, TokenizerForm
from edgeq.core.model import ModelInfo, Task
from edgeq.core.target import Format, TargetProfile
from edgeq.errors import UnsupportedModelError, UsageError
from edgeq.progress import Progress
from edgeq.runtimes import extensions
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


def check_tokenizer_form(form: TokenizerForm, formats: tuple[Format, ...]) -> None:
    """Raises UsageError where a format has no place for a tokenizer in a graph, RuntimeUnavailableError where ONNX
    Runtime Extensions are not installed."""
    if form == "files":
        return
    if other := [format for format in formats if format != "onnx"]:
        raise UsageError(
            f"A bundle in the format {other[0]} cannot have its tokenizer in a graph.",
            remedy="Say --format onnx, for a target that has it, or leave out --tokenizer graph.",
        )
    extensions.library()


def check_tokenizer(form: TokenizerForm, directory: Path, info: ModelInfo, target: TargetProfile) -> None:
    """Raises UnsupportedModelError where the tokenizer in `directory` should go into a graph and would not be the same
    there, with the first text that tells."""
    if form == "graph":
        from edgeq.lowering.onnx.text.writing import check_text_graphs

        check_text_graphs(directory, info, target)


def with_tokenizer(artifact: Artifact, form: TokenizerForm, store: QuantizedModel, target: TargetProfile) -> Artifact:
    """The artifact, with graphs that read text beside the model where the tokenizer is to be one.

    Raises UnsupportedModelError as `check_tokenizer`, OutputError.
    """
    if form == "files":
        return artifact
    from edgeq.lowering.onnx.text.writing import with_text_graphs

    check_tokenizer(form, store.source_directory, store.info, target)
    return with_text_graphs(artifact, store.source_directory)
