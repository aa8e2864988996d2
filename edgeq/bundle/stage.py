"""Stage: a bundle's files under a temporary name beside the place where the finished bundle goes."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, assert_never

import edgeq
from edgeq.bundle import android, browser, edge, ios
from edgeq.bundle.golden import Golden
from edgeq.bundle.licence import write_licence
from edgeq.bundle.manifest import MANIFEST, Manifest, ReportEntry, RuntimeSettings, list_files
from edgeq.bundle.text import installed_version
from edgeq.bundle.text_cases import write_text_cases
from edgeq.core.artifact import Artifact, FileEntry
from edgeq.core.model import ModelInfo
from edgeq.core.report import Verdict
from edgeq.core.target import Format, Surface, TargetProfile
from edgeq.errors import OutputError
from edgeq.files import output_errors
from edgeq.runtimes.browser.packages import package_version

_TOKENIZER_FILES = (
    "tokenizer*.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.*",
    "config.json",
    "generation_config.json",
    "sentence_bert_config.json",
    "preprocessor_config.json",
    "processor_config.json",
)


class Quantized(Protocol):
    """What a bundle takes from the store's QuantizedModel: who the model is, and the files that came with it."""

    @property
    def info(self) -> ModelInfo: ...

    @property
    def source_directory(self) -> Path: ...


@dataclass(frozen=True, kw_only=True)
class StagedBundle:
    """A bundle without its report and manifest, in `directory`; `seal` finishes it at `final`.

    manifest: all that is known before validation; its `files` are those staged so far, its report is
    empty. `to_plain(manifest)` is what a validation of the staged directory needs.
    As a context manager it removes `directory` on the way out, unless the bundle was sealed.
    """

    directory: Path
    final: Path
    force: bool
    manifest: Manifest

    @property
    def model_files(self) -> tuple[FileEntry, ...]:
        """The artifact's files, paths as in the bundle: what the report's artifact section lists."""
        folder = self.manifest.model.rpartition("/")[0] + "/"
        return tuple(entry for entry in self.manifest.files if entry.path.startswith(folder))

    def __enter__(self) -> StagedBundle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        discard(self)


def discard(staged: StagedBundle) -> None:
    """Remove what was staged; nothing happens to a sealed bundle."""
    shutil.rmtree(staged.directory, ignore_errors=True)


def check_output(out: Path, *, force: bool) -> None:
    """Raises OutputError where a bundle may not go to `out`; worth asking before hours of work.

    `force` replaces a bundle or an empty directory, never anything else.
    """
    if not out.name:
        raise OutputError(f"{out} cannot be a bundle.", remedy="Name a directory that edgeq may create.")
    with output_errors(out):
        exists = out.exists()
    if not exists:
        return
    if not force:
        raise OutputError(f"{out} exists.", remedy="Name another --output, or say --force to replace it.")
    if not out.is_dir() or (any(out.iterdir()) and not (out / MANIFEST).is_file()):
        raise OutputError(
            f"{out} is no edgeq bundle, so --force does not replace it.", remedy="Remove it yourself or name another."
        )


def stage(
    artifact: Artifact,
    quantized: Quantized,
    target: TargetProfile,
    golden: Golden,
    out: Path,
    *,
    name: str | None = None,
    force: bool = False,
) -> StagedBundle:
    """Gather the bundle for `out`. The artifact's files are moved, not copied: its directory is empty afterwards.

    name: the model's name in paths and texts, by default that of its source. Raises OutputError; nothing is left behind
    then.
    """
    out = out.resolve()
    check_output(out, force=force)
    name = bundle_name(name or quantized.info.source)
    directory = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    with output_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(out)
        directory.mkdir()
        try:
            manifest = _fill(directory, artifact, quantized, target=target, golden=golden, name=name)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
    return StagedBundle(directory=directory, final=out, force=force, manifest=manifest)


def bundle_name(source: str) -> str:
    """A name for paths, packages and texts: the last part of `source` in lower case, [a-z0-9._-] only."""
    last = re.split(r"[/\\]", source.rstrip("/\\"))[-1].lower()
    return re.sub(r"[^a-z0-9._-]+", "-", last).strip("-._") or "model"


def remove_stale(out: Path) -> None:
    """Clear what a killed run left beside `out`: its staged files go, and a bundle that it had set aside comes back."""
    pattern = re.compile(rf"\.{re.escape(out.name)}\.(\d+)\.(tmp|old)")
    for path in sorted(out.parent.iterdir()):
        match = pattern.fullmatch(path.name)
        if match is None or not path.is_dir() or path.is_symlink() or _is_other_process(int(match.group(1))):
            continue
        if match.group(2) == "old" and not out.exists():
            path.rename(out)
        else:
            shutil.rmtree(path)


def _is_other_process(pid: int) -> bool:
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _fill(
    directory: Path,
    artifact: Artifact,
    quantized: Quantized,
    *,
    target: TargetProfile,
    golden: Golden,
    name: str,
) -> Manifest:
    root = _root(target.surface, name)
    prefix = "" if root == "." else f"{root}/"
    content = directory / root
    model, tokenizer = _folders(target.surface)
    for folder in (model, "golden"):
        (content / folder).mkdir(parents=True)
    for file in artifact.files:
        (content / model / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(artifact.directory / file, content / model / file)
    has_tokenizer = _copy_tokenizer(quantized.source_directory, content / tokenizer)
    if target.surface == "browser":
        browser.write_configuration(artifact, content / tokenizer)
    (content / "golden" / "golden.json").write_text(golden.to_json(), encoding="utf-8")
    if artifact.text is not None:
        write_text_cases(content / tokenizer / "tokenizer.json", artifact.interface, content / "golden")
    write_licence(quantized.source_directory, quantized.info.licence, name, directory)
    manifest = Manifest(
        edgeq_version=edgeq.__version__,
        name=name,
        target=target.name,
        surface=target.surface,
        format=artifact.format,
        root=root,
        model=f"{prefix}{model}/{artifact.entry}",
        variants=tuple(dataclasses.replace(one, entry=f"{prefix}{model}/{one.entry}") for one in artifact.variants),
        tokenizer=f"{prefix}{tokenizer}" if has_tokenizer else None,
        text=artifact.text and artifact.text.under(f"{prefix}{model}/"),
        picture=artifact.picture and f"{prefix}{model}/{artifact.picture}",
        golden=f"{prefix}golden/golden.json",
        interface=artifact.interface,
        weights_digest=artifact.weights_digest,
        weights=artifact.weights,
        runtime=_runtime(artifact.format, target),
        profile=target,
        files=list_files(directory),
        report=ReportEntry(verdict=Verdict.NOT_VALIDATED, files=()),
    )
    _write_surface(manifest, directory)
    return dataclasses.replace(manifest, files=list_files(directory, manifest.files))


def _runtime(format: Format, target: TargetProfile) -> RuntimeSettings:
    match format:
        case "onnx":
            name, version = "onnxruntime", installed_version("onnxruntime")
        case "executorch":
            name, version = "executorch", installed_version("executorch")
        case "coreml":  # the system's own: what can be named is the package that wrote the model
            name, version = "Core ML", installed_version("coremltools")
        case "transformersjs":
            name, version = "onnxruntime-web", package_version("onnxruntime-web")
        case _:
            assert_never(format)
    return RuntimeSettings(name=name, version=version, threads=target.threads, accuracy_level=target.accuracy_level)


def _root(surface: Surface, name: str) -> str:
    match surface:
        case "ios":
            return ios.root(name)
        case "android":
            return android.root(name)
        case "edge":
            return edge.ROOT
        case "browser":
            return browser.ROOT
    assert_never(surface)


def _folders(surface: Surface) -> tuple[str, str]:
    """Where the model's and the tokenizer's files are below the root."""
    return (browser.MODEL_FOLDER, ".") if surface == "browser" else ("model", "tokenizer")


def _write_surface(manifest: Manifest, directory: Path) -> None:
    match manifest.surface:
        case "ios":
            ios.write(manifest, directory)
        case "android":
            android.write(manifest, directory)
        case "edge":
            edge.write(manifest, directory)
        case "browser":
            browser.write(manifest, directory)
        case _:
            assert_never(manifest.surface)


def _copy_tokenizer(source: Path, destination: Path) -> bool:
    """Copy tokenizer and configuration files; whether there was a `tokenizer.json`."""
    destination.mkdir(parents=True, exist_ok=True)
    for pattern in _TOKENIZER_FILES:
        for path in sorted(source.glob(pattern)):
            shutil.copyfile(path, destination / path.name)
    return (destination / "tokenizer.json").is_file()
