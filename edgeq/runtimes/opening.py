"""From a bundle's `edgeq.json` to a model that can be called."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, assert_never, cast, get_args

from edgeq.core.artifact import Interface
from edgeq.core.records import from_plain
from edgeq.core.target import ComputeUnit, Format
from edgeq.errors import CorruptInputError, UsageError
from edgeq.files import contained
from edgeq.runtimes.generation import Encoder, TextGenerator

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
    path, tokenizer = model_path(directory, manifest), tokenizer_path(directory, manifest)
    format, unit = read_format(manifest), read_compute_unit(manifest)
    if interface.task == "text-generation":
        return open_generator(format, path, interface, tokenizer_path=tokenizer, threads=threads, compute_unit=unit)
    return open_encoder(format, path, interface, tokenizer_path=tokenizer, threads=threads, compute_unit=unit)


def read_format(manifest: Mapping[str, Any]) -> Format:
    """The format that a manifest names. Raises CorruptInputError."""
    for format in get_args(Format):
        if manifest.get("format") == format:
            return cast("Format", format)
    raise CorruptInputError("The manifest names no format that edgeq knows.", remedy="Export the bundle again.")


def read_compute_unit(manifest: Mapping[str, Any]) -> ComputeUnit:
    """What the manifest's profile has Core ML compute on. Raises CorruptInputError."""
    profile = manifest.get("profile")
    for unit in get_args(ComputeUnit):
        if isinstance(profile, Mapping) and profile.get("compute_unit") == unit:
            return cast("ComputeUnit", unit)
    raise CorruptInputError("The manifest names no compute unit that edgeq knows.", remedy="Export the bundle again.")


def import_runtime(format: Format) -> str:
    """Load the format's runtime: its version. Raises RuntimeUnavailableError where it is not installed."""
    match format:
        case "onnx":
            from edgeq.runtimes.onnxruntime import import_onnxruntime

            return str(import_onnxruntime().__version__)
        case "executorch":
            from edgeq.runtimes.executorch import import_executorch

            import_executorch()
            return version("executorch")
        case "coreml":
            from edgeq.runtimes.coreml import import_coremltools

            return str(import_coremltools().__version__)
    assert_never(format)


def is_reference_executed(format: Format) -> bool:
    """Whether this machine lacks the format's own runtime, and a reference interpreter stands in for it."""
    return format == "coreml" and sys.platform != "darwin"


def planned_memory(format: Format, path: Path) -> dict[str, int]:
    """Bytes by part as the artifact itself tells them before it runs; empty where a format says nothing."""
    match format:
        case "onnx":
            return {}
        case "executorch":
            from edgeq.runtimes import executorch

            return dataclasses.asdict(executorch.planned_memory(path))
        case "coreml":
            from edgeq.runtimes import coreml

            return dataclasses.asdict(coreml.estimated_memory(path))
    assert_never(format)


def open_generator(
    format: Format,
    path: Path,
    interface: Interface,
    *,
    tokenizer_path: Path | None = None,
    threads: int = 0,
    compute_unit: ComputeUnit = "cpu",
) -> TextGenerator:
    """A language model in its runtime; only Core ML has units. Raises CorruptInputError, RuntimeUnavailableError."""
    match format:
        case "onnx":
            from edgeq.runtimes import onnxruntime

            return onnxruntime.TextGenerator(path, interface, tokenizer_path=tokenizer_path, threads=threads)
        case "executorch":
            from edgeq.runtimes import executorch

            return executorch.TextGenerator(path, interface, tokenizer_path=tokenizer_path, threads=threads)
        case "coreml":
            from edgeq.runtimes import coreml

            return coreml.TextGenerator(
                path, interface, tokenizer_path=tokenizer_path, threads=threads, compute_unit=compute_unit
            )
    assert_never(format)


def open_encoder(
    format: Format,
    path: Path,
    interface: Interface,
    *,
    tokenizer_path: Path | None = None,
    threads: int = 0,
    compute_unit: ComputeUnit = "cpu",
) -> Encoder:
    """A sentence encoder in its runtime. Raises as `open_generator`."""
    match format:
        case "onnx":
            from edgeq.runtimes import onnxruntime

            return onnxruntime.Encoder(path, interface, tokenizer_path=tokenizer_path, threads=threads)
        case "executorch":
            from edgeq.runtimes import executorch

            return executorch.Encoder(path, interface, tokenizer_path=tokenizer_path, threads=threads)
        case "coreml":
            from edgeq.runtimes import coreml

            return coreml.Encoder(
                path, interface, tokenizer_path=tokenizer_path, threads=threads, compute_unit=compute_unit
            )
    assert_never(format)
