"""From a bundle's `edgeq.json` to a model that can be called."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeq.core.artifact import Interface
from edgeq.core.records import from_plain
from edgeq.errors import CorruptInputError, UsageError
from edgeq.files import contained
from edgeq.runtimes.onnxruntime import Encoder, TextGenerator

MANIFEST_NAME = "edgeq.json"


def read_manifest(bundle: Path) -> dict[str, Any]:
    """The bundle's manifest as JSON gives it. Raises UsageError where there is no directory, else CorruptInputError."""
    if not bundle.is_dir():
        raise UsageError(f"There is no bundle at {bundle}.", remedy="Name the directory that edgeq export wrote.")
    try:
        manifest = json.loads((bundle / MANIFEST_NAME).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptInputError(
            f"{bundle} is no finished bundle: {MANIFEST_NAME} is missing or unreadable.",
            remedy="Export the bundle again.",
        ) from error
    if not isinstance(manifest, dict):
        raise CorruptInputError(f"{bundle / MANIFEST_NAME} describes nothing.", remedy="Export the bundle again.")
    return manifest


def read_interface(data: object) -> Interface:
    """An Interface from its JSON form. Raises CorruptInputError."""
    return from_plain(Interface, data, "interface")


def manifest_path(bundle: Path, manifest: Mapping[str, Any], entry: str) -> Path | None:
    """The path that the manifest's `entry` names within the bundle, None where it names none.

    Raises UnsafeInputError where it leaves the bundle, CorruptInputError where it is not a path.
    """
    value = manifest.get(entry)
    if value is None:
        return None
    if not isinstance(value, str):
        raise CorruptInputError(f"The manifest's {entry!r} is not a path.", remedy="Export the bundle again.")
    return contained(bundle, value)


def model_path(bundle: Path, manifest: Mapping[str, Any]) -> Path:
    """The model file. Raises as `manifest_path`, also where the manifest names none."""
    path = manifest_path(bundle, manifest, "model")
    if path is None:
        raise CorruptInputError("The manifest names no model.", remedy="Export the bundle again.")
    return path


def tokenizer_path(bundle: Path, manifest: Mapping[str, Any]) -> Path | None:
    """The `tokenizer.json`, None where the model has none. Raises as `manifest_path`."""
    directory = manifest_path(bundle, manifest, "tokenizer")
    return None if directory is None else directory / "tokenizer.json"


def open_bundle(directory: Path, *, threads: int = 0) -> TextGenerator | Encoder:
    """A bundle's model with its tokenizer, ready to generate or to encode. threads 0: one per core.

    Raises UsageError, CorruptInputError, UnsafeInputError or RuntimeUnavailableError.
    """
    manifest = read_manifest(directory)
    interface = read_interface(manifest.get("interface"))
    kind = TextGenerator if interface.task == "text-generation" else Encoder
    tokenizer = tokenizer_path(directory, manifest)
    return kind(model_path(directory, manifest), interface, tokenizer_path=tokenizer, threads=threads)
