"""From a bundle's `edgeq.json` to a model that can be called."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, assert_never, cast, get_args

from edgeq.core.artifact import Interface
from edgeq.core.records import from_plain
from edgeq.core.target import ComputeUnit, ExecutionProvider, Format
from edgeq.errors import CorruptInputError, UsageError
from edgeq.files import contained
from edgeq.runtimes.generation import Encoder, Opening, TextGenerator

if TYPE_CHECKING:
    from edgeq.runtimes.tensors import TensorModel

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


def open_bundle(directory: Path, *, threads: int = 0) -> TextGenerator | Encoder | TensorModel:
    """A bundle's model with its tokenizer, ready to generate or to encode; a plain module, ready to run.

    threads 0: one per core. Raises UsageError, CorruptInputError, UnsafeInputError or RuntimeUnavailableError.
    """
    manifest = read_manifest(directory)
    interface = read_interface(manifest.get("interface"))
    path, tokenizer = model_path(directory, manifest), tokenizer_path(directory, manifest)
    format, unit = read_format(manifest), read_compute_unit(manifest)
    runtime, opening = runtime_of(format), Opening(tokenizer_path=tokenizer, threads=threads, compute_unit=unit)
    if interface.task == "text-generation":
        return runtime.open_generator(path, interface, opening)
    if interface.task == "module":
        from edgeq.runtimes.tensors import TensorModel

        return TensorModel(path, interface, threads=threads)
    return runtime.open_encoder(path, interface, opening)


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


def read_execution_providers(manifest: Mapping[str, Any]) -> tuple[ExecutionProvider, ...]:
    """What the manifest's profile has a browser compute with; empty outside of browsers. Raises CorruptInputError."""
    return from_plain(
        tuple[ExecutionProvider, ...], manifest["profile"].get("execution_providers", []), "profile.execution_providers"
    )


class Runtime(Protocol):
    """What the module of a format's runtime has."""

    def name(self) -> str:
        """What computes on this machine, as people call it; its version follows."""
        ...

    def version(self) -> str:
        """Of the runtime, which is loaded. Raises RuntimeUnavailableError where it is not installed."""
        ...

    def memory_by_part(self, path: Path) -> dict[str, int]:
        """Bytes by part as the artifact itself tells them before it runs; empty where a format says nothing."""
        ...

    def open_generator(self, path: Path, interface: Interface, opening: Opening) -> TextGenerator:
        """A language model in its runtime. Raises CorruptInputError, RuntimeUnavailableError."""
        ...

    def open_encoder(self, path: Path, interface: Interface, opening: Opening) -> Encoder:
        """A sentence encoder in its runtime. Raises as `open_generator`."""
        ...


def runtime_of(format: Format) -> Runtime:
    """The module that runs a format. The runtime itself is loaded when it is first used."""
    match format:
        case "onnx":
            from edgeq.runtimes import onnxruntime

            return onnxruntime
        case "executorch":
            from edgeq.runtimes import executorch

            return executorch
        case "coreml":
            from edgeq.runtimes import coreml

            return coreml
        case "transformersjs":
            from edgeq.runtimes import browser

            return browser
    assert_never(format)


def runs_apart(format: Format) -> bool:
    """Whether a format's runtime has processes of its own, which are then the ones that are judged."""
    return format == "transformersjs"


def is_reference_executed(format: Format) -> bool:
    """Whether this machine lacks the format's own runtime, and a reference interpreter stands in for it."""
    return format == "coreml" and sys.platform != "darwin"
