"""What most users call: `edgeq.export` for one bundle, `edgeq.load` for one that is ready to be called."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from edgeq.bundle.manifest import MANIFEST, verify
from edgeq.errors import UsageError
from edgeq.runtimes.opening import open_bundle

if TYPE_CHECKING:
    from torch import nn

    from edgeq.core.artifact import TokenizerForm
    from edgeq.core.model import Task
    from edgeq.core.recipe import Effort
    from edgeq.core.report import Report
    from edgeq.models.examples import ExampleInputs
    from edgeq.progress import Progress
    from edgeq.runtimes.generation import Encoder, TextGenerator
    from edgeq.runtimes.tensors import TensorModel


@overload
def export(
    model: nn.Module,
    example_inputs: ExampleInputs,
    *,
    target: str = "android",
    bits: int = 4,
    method: str = "auto",
    effort: Effort = "default",
    group_size: int | None = None,
    symmetric: bool | None = None,
    embedding_bits: int | None = None,
    format: str | None = None,
    accuracy_level: int | None = None,
    max_memory: int | None = None,
    max_drift: float | None = None,
    max_size: int | None = None,
    recipe: Path | None = None,
    output: Path | None = None,
    validate: bool = True,
    force: bool = False,
    progress: Progress | None = None,
) -> Report: ...


@overload
def export(
    model: str | Path | None = None,
    *,
    target: str = "android",
    bits: int | Literal["auto"] = 4,
    method: str = "auto",
    effort: Effort = "default",
    calibration: Path | None = None,
    group_size: int | None = None,
    symmetric: bool | None = None,
    embedding_bits: int | None = None,
    format: str | None = None,
    task: Task | None = None,
    accuracy_level: int | None = None,
    max_memory: int | None = None,
    max_drift: float | None = None,
    max_size: int | None = None,
    recipe: Path | None = None,
    evaluation: Path | None = None,
    tokenizer: TokenizerForm = "files",
    output: Path | None = None,
    validate: bool = True,
    force: bool = False,
    progress: Progress | None = None,
) -> Report: ...


def export(
    model: str | Path | nn.Module | None = None,
    example_inputs: ExampleInputs | None = None,
    *,
    target: str = "android",
    bits: int | Literal["auto"] = 4,
    method: str = "auto",
    effort: Effort = "default",
    calibration: Path | None = None,
    group_size: int | None = None,
    symmetric: bool | None = None,
    embedding_bits: int | None = None,
    format: str | None = None,
    task: Task | None = None,
    accuracy_level: int | None = None,
    max_memory: int | None = None,
    max_drift: float | None = None,
    max_size: int | None = None,
    recipe: Path | None = None,
    evaluation: Path | None = None,
    tokenizer: TokenizerForm = "files",
    output: Path | None = None,
    validate: bool = True,
    force: bool = False,
    progress: Progress | None = None,
) -> Report:
    """One bundle in one format: `edgeq.export_formats`, which explains the arguments and takes "all", with one report.

    Or of any torch module, which is traced with `example_inputs`: a tuple of tensors, or a dict by `forward`'s names.
    It is judged against itself on those and on perturbed ones. Raises EdgeqError, each with its exit code and a remedy.
    """
    arguments = locals()  # every one is an argument of export_formats, but the second
    from edgeq.pipeline import export_formats
    from edgeq.targets.profiles import ALL_FORMATS

    if example_inputs is not None or not isinstance(model, str | Path | None):
        from edgeq.module_export import export_module

        module = arguments.pop("model")
        for name in ("calibration", "evaluation", "task"):
            if arguments.pop(name) is not None:
                raise UsageError(f"{name} does not go with a plain torch module.", remedy="Leave it out.")
        if arguments.pop("tokenizer") != "files":
            raise UsageError("A plain torch module has no tokenizer.", remedy="Leave tokenizer out.")
        return export_module(module, **arguments)
    del arguments["example_inputs"]
    if format == ALL_FORMATS:
        raise UsageError("edgeq.export returns one report.", remedy="Call edgeq.export_formats for all formats.")
    return export_formats(**arguments)[0]


def load(path: str | Path | None = None, *, bits: int = 4, threads: int = 0) -> TextGenerator | Encoder | TensorModel:
    """A language model with `generate(prompt)`, an encoder with `encode(sentences)`, a plain module with `run(inputs)`.

    path: a bundle that `edgeq export` wrote, whose files are checked first; or a Hugging Face directory, a hub id, or
    None for the demo model, which is then quantized to `bits` for this process. threads 0: one per core.
    Raises EdgeqError.
    """
    if path is not None and (Path(path) / MANIFEST).is_file():
        verify(Path(path))
        return open_bundle(Path(path), threads=threads)
    directory = Path(tempfile.mkdtemp(prefix="edgeq-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    export(path, target="edge", bits=bits, output=directory / "bundle", validate=False)
    return open_bundle(directory / "bundle", threads=threads)
