"""`edgeq.json`: what a bundle is, and the sha256 of every file. It is written last: without it there is no bundle."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from edgeq.core.artifact import FileEntry, Interface, TextGraphs, Variant, WeightLocation
from edgeq.core.records import from_plain, to_plain
from edgeq.core.report import Verdict
from edgeq.core.target import Format, Surface, TargetProfile
from edgeq.errors import CorruptInputError, UnsafeInputError, UsageError
from edgeq.files import contained, sha256_file

MANIFEST = "edgeq.json"
MANIFEST_SCHEMA = 1
REPORT_FILES = ("report.json", "report.md", "report.html")
_MANIFEST_LIMIT = 32 * 2**20


@dataclass(frozen=True, kw_only=True)
class RuntimeSettings:
    """The runtime that the bundle is made for and the settings that its verdict belongs to."""

    name: str
    version: str
    threads: int
    accuracy_level: int


@dataclass(frozen=True, kw_only=True)
class ReportEntry:
    """The verdict, and the files that hold measurements. They are kept apart from `files`: two exports of the same
    input differ in nothing else."""

    verdict: Verdict
    files: tuple[FileEntry, ...]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The contents of `edgeq.json`; `seal`, the sha256 of all the rest, is added when it is written.

    root: the directory that goes into the app, "." for the whole bundle. model, tokenizer and golden are paths in the
    bundle; tokenizer is None where the checkpoint brought none, text where no graph reads text, picture where none
    prepares pictures. variants are the models of a bundle that has several, the one at `model` first, their entries as
    paths in the bundle. weights says per tensor where the artifact holds it. files lists every file but `edgeq.json`
    and the report's. profile is the target as it was, so that a later validation needs no TOML.
    """

    schema: int = MANIFEST_SCHEMA
    edgeq_version: str
    name: str
    target: str
    surface: Surface
    format: Format
    root: str
    model: str
    variants: tuple[Variant, ...] = ()
    tokenizer: str | None
    text: TextGraphs | None = None
    picture: str | None = None
    golden: str
    interface: Interface
    weights_digest: str
    weights: dict[str, WeightLocation]
    runtime: RuntimeSettings
    profile: TargetProfile
    files: tuple[FileEntry, ...]
    report: ReportEntry


def manifest_bytes(manifest: Manifest) -> bytes:
    """The one spelling of a manifest: sorted keys, two spaces, a final newline."""
    plain = to_plain(manifest)
    return _canonical({**plain, "seal": hashlib.sha256(_canonical(plain)).hexdigest()})


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a bundle, itself checked, its files not.

    Raises UsageError where there is no such directory, CorruptInputError where `edgeq.json` is missing, was changed
    after it was written, or is of another schema.
    """
    if not directory.is_dir():
        raise UsageError(f"There is no bundle at {directory}.", remedy="Name the directory that edgeq export wrote.")
    path = directory / MANIFEST
    try:
        if path.stat().st_size > _MANIFEST_LIMIT:
            raise CorruptInputError(f"{path} is too large for a manifest.", remedy="Export the bundle again.")
        data = path.read_bytes()
    except FileNotFoundError:
        raise CorruptInputError(
            f"{directory} has no {MANIFEST}: it is no finished bundle.", remedy="Export the bundle again."
        ) from None
    return _parse(data, str(path))


def verify(directory: Path) -> Manifest:
    """The manifest of a bundle whose files are exactly those it lists, byte for byte.

    Raises CorruptInputError for a file that is missing, extra or changed, UnsafeInputError for a path or a link that
    leaves the bundle, UsageError where there is no such directory.
    """
    manifest = read_manifest(directory)
    entries = (*manifest.files, *manifest.report.files)
    listed = [entry.path for entry in entries]
    for path in listed:
        _check_path(directory, path)
    if len(set(listed)) != len(listed):
        raise CorruptInputError(f"{directory}: {MANIFEST} lists a file twice.", remedy="Export the bundle again.")
    found = set(bundle_files(directory)) - {MANIFEST}
    if extra := sorted(found - set(listed)):
        raise CorruptInputError(
            f"{directory}: {extra[0]} is not part of the bundle.", remedy="Remove it, or export the bundle again."
        )
    for entry in entries:
        _check_file(directory, entry)
    return manifest


def bundle_files(directory: Path) -> Iterator[str]:
    """POSIX paths of all files under `directory`, sorted. Raises UnsafeInputError for links and special files."""
    paths = []
    for parent, folders, names in os.walk(directory):
        for name in (*folders, *names):
            path = Path(parent) / name
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise UnsafeInputError(
                    f"{path} is a link or a special file.", remedy="A bundle holds plain files: export it again."
                )
        paths += [(Path(parent) / name).relative_to(directory).as_posix() for name in names]
    return iter(sorted(paths))


def list_files(directory: Path, known: tuple[FileEntry, ...] = ()) -> tuple[FileEntry, ...]:
    """All files under `directory`, sorted by path; those in `known` are not hashed again."""
    listed = {entry.path: entry for entry in known}
    return tuple(listed.get(path) or file_entry(directory, path) for path in bundle_files(directory))


def file_entry(directory: Path, path: str) -> FileEntry:
    """Size and sha256 of `directory / path`."""
    file = contained(directory, path)
    return FileEntry(path=path, bytes=file.stat().st_size, sha256=sha256_file(file))


def _parse(data: bytes, where: str) -> Manifest:
    changed = CorruptInputError(f"{where} was changed after it was written.", remedy="Export the bundle again.")
    try:
        plain = json.loads(data)
    except (ValueError, RecursionError):
        raise changed from None
    if not isinstance(plain, dict) or "seal" not in plain:
        raise changed
    if plain.get("schema") != MANIFEST_SCHEMA:
        raise CorruptInputError(
            f"{where} is of schema {plain.get('schema')}; this edgeq reads {MANIFEST_SCHEMA}.",
            remedy="Use the edgeq that wrote it, or export the bundle again.",
        )
    seal = plain.pop("seal")
    if hashlib.sha256(_canonical(plain)).hexdigest() != seal or _canonical({**plain, "seal": seal}) != data:
        raise changed
    return from_plain(Manifest, plain, where)


def _canonical(plain: dict[str, Any]) -> bytes:
    return (json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode(errors="surrogatepass")


def _check_path(directory: Path, path: str) -> None:
    contained(directory, path)
    if str(PurePosixPath(path)) != path or "\\" in path or path == MANIFEST:
        raise UnsafeInputError(
            f"{directory}: {MANIFEST} lists {path!r}, which is not a plain path.", remedy="Export the bundle again."
        )


def _check_file(directory: Path, entry: FileEntry) -> None:
    file = contained(directory, entry.path)
    if not file.is_file():
        raise CorruptInputError(f"{directory}: {entry.path} is missing.", remedy="Export the bundle again.")
    size = file.stat().st_size
    if size != entry.bytes:
        raise CorruptInputError(
            f"{directory}: {entry.path} has {size} bytes, {MANIFEST} says {entry.bytes}.",
            remedy="Export the bundle again.",
        )
    if sha256_file(file) != entry.sha256:
        raise CorruptInputError(
            f"{directory}: {entry.path} was changed: its sha256 is not the one in {MANIFEST}.",
            remedy="Export the bundle again.",
        )
