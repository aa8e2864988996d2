"""What is validated: the parts of a manifest that a verdict needs, resolved to paths within the bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeq.core.artifact import FileEntry, Interface, TextGraphs, Variant
from edgeq.core.records import from_plain
from edgeq.core.target import ComputeUnit, Cpu, ExecutionProvider, Format
from edgeq.errors import CorruptInputError
from edgeq.files import contained, sha256_file
from edgeq.runtimes.opening import (
    is_reference_executed,
    manifest_path,
    model_path,
    read_compute_unit,
    read_execution_providers,
    read_format,
    read_interface,
    tokenizer_path,
)

VALIDATION = "validation"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A bundle as its manifest describes it; `weights` is the map that leads back to each quantized tensor.
    `text` has absolute paths."""

    directory: Path
    root: str
    model: Path
    tokenizer: Path | None
    text: TextGraphs | None
    picture: Path | None
    golden: Path | None
    interface: Interface
    weights: dict[str, Any]
    weights_digest: str
    format: Format
    threads: int
    compute_unit: ComputeUnit
    variants: tuple[Variant, ...]
    execution_providers: tuple[ExecutionProvider, ...]
    file_limit_bytes: int | None
    buffer_limit_bytes: int | None
    files: tuple[FileEntry, ...]
    validate_cpus: tuple[Cpu, ...]
    report_files: frozenset[str]

    @classmethod
    def from_manifest(cls, bundle: Path, manifest: Mapping[str, Any]) -> Subject:
        """Raises CorruptInputError or UnsafeInputError."""
        try:
            report = manifest.get("report", {}).get("files", [])
            entries = from_plain(tuple[FileEntry, ...], [*manifest["files"], *report], "files")
            profile = manifest["profile"]
            reports = frozenset(str(entry["path"]) for entry in report)
            return cls(
                directory=bundle,
                root=str(manifest["root"]),
                model=model_path(bundle, manifest),
                tokenizer=tokenizer_path(bundle, manifest),
                text=_text_graphs(bundle, manifest),
                picture=manifest_path(bundle, manifest, "picture"),
                golden=manifest_path(bundle, manifest, "golden"),
                interface=read_interface(manifest["interface"]),
                weights=dict(manifest["weights"]),
                weights_digest=str(manifest["weights_digest"]),
                format=read_format(manifest),
                threads=int(manifest["runtime"]["threads"]),
                compute_unit=read_compute_unit(manifest),
                variants=from_plain(tuple[Variant, ...], manifest.get("variants", []), "variants"),
                execution_providers=read_execution_providers(manifest),
                file_limit_bytes=_mib(profile.get("file_limit_mib")),
                buffer_limit_bytes=_mib(profile.get("buffer_limit_mib")),
                files=entries,
                validate_cpus=from_plain(tuple[Cpu, ...], profile.get("validate_cpus", []), "profile.validate_cpus"),
                report_files=reports,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CorruptInputError(
                f"The manifest of {bundle} is incomplete ({error}).", remedy="Export the bundle again."
            ) from error

    @property
    def is_reference(self) -> bool:
        """Whether a reference interpreter stands in for the format's runtime on this machine."""
        return is_reference_executed(self.format)

    def models(self) -> dict[str, Path]:
        """The file that a runtime opens, by variant; "" is the only one of a bundle without variants.

        Raises UnsafeInputError where one leaves the bundle.
        """
        if not self.variants:
            return {"": self.model}
        return {variant.dtype: contained(self.directory, variant.entry) for variant in self.variants}

    @property
    def app_bytes(self) -> int:
        """The files that go into the app: those below `root`, without its reports and the reference for later."""
        prefix = "" if self.root == "." else f"{self.root}/"
        inside = (entry for entry in self.files if entry.path.startswith(prefix))
        shipped = (entry for entry in inside if entry.path not in self.report_files)
        return sum(entry.bytes for entry in shipped if not entry.path.startswith(f"{VALIDATION}/"))

    def wrong_file(self) -> str:
        """The first listed file that is missing or changed, in words; empty where all are as listed.

        Reading every file also brings the weights into the page cache, outside of the child's limit.
        """
        for entry in self.files:
            path = contained(self.directory, entry.path)
            if not path.is_file():
                return f"{entry.path} is missing"
            if path.stat().st_size != entry.bytes:
                return f"{entry.path} has {path.stat().st_size} bytes, not {entry.bytes}"
            if sha256_file(path) != entry.sha256:
                return f"{entry.path} was changed"
        return ""


def _text_graphs(bundle: Path, manifest: Mapping[str, Any]) -> TextGraphs | None:
    """The graphs that read text, as absolute paths. Raises CorruptInputError, UnsafeInputError."""
    plain = manifest.get("text")
    if plain is None:
        return None
    text = from_plain(TextGraphs, plain, "text")
    for path in text.files:
        contained(bundle, path)
    return text.under(f"{bundle.absolute()}/")


def _mib(size: int | None) -> int | None:
    return None if size is None else int(size) * 2**20
