"""Target profiles: `targets/*.toml` to TargetProfile, every number with its source; unknown names are refused."""

from __future__ import annotations

import dataclasses
import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any, get_args

from edgeq.core.target import (
    Architecture,
    ComputeUnit,
    Confidence,
    Cpu,
    ExecutionProvider,
    Format,
    Provenance,
    Surface,
    TargetProfile,
)
from edgeq.errors import UnknownNameError, UsageError

NUMBERS = (
    "memory_limit_mib",
    "memory_reserve_mib",
    "bundle_limit_mib",
    "file_limit_mib",
    "buffer_limit_mib",
    "threads",
    "context_length",
    "accuracy_level",
)
SOURCED = (*NUMBERS, "validate_cpus")
"""The fields that need a `[provenance.NAME]` table wherever they are set."""

ALL_FORMATS = "all"
_CHOICES = ("compute_unit", "execution_providers", "increased_memory_limit", "validate_arch", "validate_cpus")
_OPTIONAL = ("bundle_limit_mib", "file_limit_mib", "buffer_limit_mib", *_CHOICES)
_KEYS = ("description", "surface", "formats", *NUMBERS, *_CHOICES)
_ACCURACY_LEVELS = (1, 4)
_SURFACE_FORMATS: dict[Surface, tuple[Format, ...]] = {
    "android": ("onnx", "executorch"),
    "edge": ("onnx",),
    "ios": ("coreml", "executorch"),
    "browser": ("transformersjs",),
}
"""What each surface has a bundle for."""


def profile_dir() -> Path:
    """Where the built-in profiles are: `edgeq/targets` when installed, else `targets/` of the checkout."""
    package = Path(__file__).parent
    return package if any(package.glob("*.toml")) else package.parent.parent / "targets"


def formats_of(profile: TargetProfile, name: str | None) -> tuple[Format, ...]:
    """The format called `name`, the profile's first for None, all for ALL_FORMATS. Raises UnknownNameError."""
    if name == ALL_FORMATS:
        return profile.formats
    for format in profile.formats:
        if name in (None, format):
            return (format,)
    known = ", ".join((*get_args(Format), ALL_FORMATS))
    raise UnknownNameError(
        f"{profile.name} takes no format {name!r}.", remedy=f"It takes {', '.join(profile.formats)}; edgeq has {known}."
    )


def available_profiles() -> tuple[str, ...]:
    """Names of the built-in profiles, numbers in numeric order: android, android-4gb, ..., android-16gb."""
    return tuple(sorted((path.stem for path in profile_dir().glob("*.toml")), key=_natural))


def load_profile(name_or_path: str) -> TargetProfile:
    """The profile called `name_or_path`, or the one in that TOML file.

    Raises UnknownNameError for an unknown target or key, UsageError for a file that is missing or wrong.
    """
    if name_or_path.endswith(".toml"):
        path = Path(name_or_path)
        return _build(path.stem, _settings(_read(path), path), path)
    return _load_named(name_or_path)


def with_accuracy_level(profile: TargetProfile, level: int | None) -> TargetProfile:
    """The profile with another accuracy level, or its own for None. Raises UsageError where there is no such level."""
    if level is None:
        return profile
    if level not in _ACCURACY_LEVELS:
        raise UsageError(f"There is no accuracy level {level}.", remedy="Use 4 (int8 activations) or 1 (float32).")
    return dataclasses.replace(profile, accuracy_level=level)


def _load_named(name: str) -> TargetProfile:
    names = available_profiles()
    if name not in names:
        raise UnknownNameError(
            f"There is no target {name!r}.",
            remedy=_suggestion(name, names) or f"Use one of {', '.join(names)}, or a FILE.toml.",
        )
    path = profile_dir() / f"{name}.toml"
    return _build(name, _settings(_read(path), path), path)


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            data = tomllib.load(stream)
    except (FileNotFoundError, IsADirectoryError):
        raise UsageError(f"There is no profile file {path}.", remedy="Name a built-in target or a TOML file.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}).", remedy="Check its permissions.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}.", remedy="Correct that line.") from error
    for key in data:
        _known(key, ("extends", "provenance", *_KEYS), f"key of {path.name}")
    return data


def _settings(data: dict[str, Any], path: Path) -> dict[str, Any]:
    """The file's own settings, over those of the built-in profile that it extends; at most one level deep."""
    own = _with_checked_provenance(data, path)
    base_name = own.pop("extends", None)
    if base_name is None:
        return own
    names = available_profiles()
    if base_name not in names:
        raise UnknownNameError(
            f"{path.name} extends {base_name!r}, which is no built-in target.",
            remedy=_suggestion(str(base_name), names) or f"Use one of {', '.join(names)}.",
        )
    base_path = profile_dir() / f"{base_name}.toml"
    base = _with_checked_provenance(_read(base_path), base_path)
    if "extends" in base:
        raise UsageError(
            f"{path.name} extends {base_name}, which itself extends {base['extends']}.",
            remedy=f"Extend {base['extends']}: one level is all there is.",
        )
    return {**base, **own, "provenance": {**base["provenance"], **own["provenance"]}}


def _with_checked_provenance(data: dict[str, Any], path: Path) -> dict[str, Any]:
    """`data` with its provenance tables as Provenance; each number set here has one here, and no other has."""
    tables = data.get("provenance", {})
    if not isinstance(tables, dict):
        raise UsageError(f"{path.name}: provenance must be tables.", remedy="Write [provenance.memory_limit_mib] ...")
    for key in tables:
        _known(key, SOURCED, f"[provenance] entry of {path.name}")
        if key not in data:
            raise UsageError(
                f"{path.name} gives a source for {key}, which it does not set.", remedy=f"Set {key} or drop the source."
            )
    for key in SOURCED:
        if key in data and key not in tables:
            raise UsageError(
                f"{path.name} sets {key} without saying where that comes from.",
                remedy=f"Add [provenance.{key}] with source, source_date and confidence.",
            )
    return {**data, "provenance": {key: _provenance(key, table, path) for key, table in tables.items()}}


def _provenance(key: str, table: object, path: Path) -> Provenance:
    where = f"{path.name}: [provenance.{key}]"
    names = tuple(field.name for field in dataclasses.fields(Provenance))
    if not isinstance(table, Mapping):
        raise UsageError(f"{where} must be a table.", remedy=f"Give it {', '.join(names)}.")
    for name in table:
        _known(name, names, f"key of {where}")
    for name in names:
        if not table.get(name):
            raise UsageError(f"{where} lacks {name}.", remedy=f"Give it {', '.join(names)}.")
    _choice(table["confidence"], get_args(Confidence), f"{where} confidence")
    source = table["source"]
    if not isinstance(source, str):
        raise UsageError(f"{where} source must be a string.", remedy="Name the document and the place in it.")
    return Provenance(source=source, source_date=_iso_date(table["source_date"], where), confidence=table["confidence"])


def _iso_date(value: object, where: str) -> str:
    try:
        return value.isoformat() if type(value) is date else date.fromisoformat(str(value)).isoformat()
    except ValueError:
        raise UsageError(f"{where} source_date {str(value)!r} is no date.", remedy="Write 2026-08-26.") from None


def _build(name: str, settings: dict[str, Any], path: Path) -> TargetProfile:
    for key in _KEYS:
        if key not in settings and key not in _OPTIONAL:
            raise UsageError(f"{path.name} lacks {key}.", remedy="Add it, or extend a built-in target.")
    description = settings["description"]
    if not isinstance(description, str) or not description:
        raise UsageError(f"{path.name}: description must be a string.", remedy="Say what the device class is.")
    _choice(settings["surface"], get_args(Surface), f"{path.name}: surface")
    numbers = _numbers(settings, path)
    _only_for_browsers(settings, path)
    return TargetProfile(
        name=name,
        description=description,
        surface=settings["surface"],
        formats=_formats(settings["formats"], settings["surface"], path),
        memory_limit_mib=numbers["memory_limit_mib"],
        memory_reserve_mib=numbers["memory_reserve_mib"],
        bundle_limit_mib=numbers.get("bundle_limit_mib"),
        threads=numbers["threads"],
        context_length=numbers["context_length"],
        accuracy_level=numbers["accuracy_level"],
        compute_unit=_compute_unit(settings.get("compute_unit", "cpu"), path),
        execution_providers=_providers(settings.get("execution_providers"), settings["surface"], path),
        file_limit_mib=numbers.get("file_limit_mib"),
        buffer_limit_mib=numbers.get("buffer_limit_mib"),
        increased_memory_limit=_entitlement(settings.get("increased_memory_limit", False), settings["surface"], path),
        validate_arch=_architecture(settings.get("validate_arch"), path),
        validate_cpus=_cpus(settings.get("validate_cpus"), settings, path),
        provenance=settings["provenance"],
    )


def _numbers(settings: dict[str, Any], path: Path) -> dict[str, int]:
    numbers = {key: _positive(settings[key], key, path) for key in NUMBERS if key in settings}
    if numbers["accuracy_level"] not in _ACCURACY_LEVELS:
        raise UsageError(f"{path.name}: accuracy_level must be 1 or 4.", remedy="1 is float32 activations, 4 is int8.")
    if numbers["memory_reserve_mib"] >= numbers["memory_limit_mib"]:
        raise UsageError(
            f"{path.name}: memory_reserve_mib leaves nothing of memory_limit_mib for the model.",
            remedy="Lower the reserve: it is what the app needs beside the model.",
        )
    return numbers


def _only_for_browsers(settings: dict[str, Any], path: Path) -> None:
    for key in ("file_limit_mib", "buffer_limit_mib"):
        if key in settings and settings["surface"] != "browser":
            raise UsageError(
                f"{path.name}: {key} is a limit of browsers, not of {settings['surface']}.", remedy="Remove it."
            )


def _formats(formats: object, surface: Surface, path: Path) -> tuple[Format, ...]:
    if not isinstance(formats, list) or not formats:
        raise UsageError(f"{path.name}: formats must be a list.", remedy='Write formats = ["onnx"].')
    for item in formats:
        _choice(item, get_args(Format), f"{path.name}: formats")
        if item not in _SURFACE_FORMATS[surface]:
            raise UsageError(
                f"{path.name}: the surface {surface} takes no format {item!r}.",
                remedy=f"It takes {', '.join(_SURFACE_FORMATS[surface])}.",
            )
    return tuple(formats)


def _compute_unit(value: object, path: Path) -> ComputeUnit:
    _choice(value, get_args(ComputeUnit), f"{path.name}: compute_unit")
    unit: ComputeUnit = value  # type: ignore[assignment]
    return unit


def _providers(value: object, surface: Surface, path: Path) -> tuple[ExecutionProvider, ...]:
    if value is None and surface != "browser":
        return ()
    if surface != "browser":
        raise UsageError(
            f"{path.name}: execution_providers are those of browsers, not of {surface}.", remedy="Remove them."
        )
    if not isinstance(value, list) or not value or any(value.count(item) > 1 for item in value):
        raise UsageError(
            f"{path.name}: execution_providers must be a list without repeats, and a browser has some.",
            remedy='Write execution_providers = ["wasm", "webgpu"].',
        )
    for item in value:
        _choice(item, get_args(ExecutionProvider), f"{path.name}: execution_providers")
    return tuple(value)


def _architecture(value: object, path: Path) -> Architecture | None:
    if value is not None:
        _choice(value, get_args(Architecture), f"{path.name}: validate_arch")
    architecture: Architecture | None = value  # type: ignore[assignment]
    return architecture


def _cpus(value: object, settings: dict[str, Any], path: Path) -> tuple[Cpu, ...]:
    """Those of arm64, which has some wherever it is named; no other has any."""
    if settings.get("validate_arch") != "arm64":
        if value is not None:
            raise UsageError(f"{path.name}: validate_cpus are arm64's.", remedy='Write validate_arch = "arm64".')
        return ()
    if not isinstance(value, list) or not value or any(value.count(item) > 1 for item in value):
        raise UsageError(
            f"{path.name}: validate_cpus must be a list without repeats, and arm64 has some.",
            remedy='Write validate_cpus = ["cortex-a76"].',
        )
    for item in value:
        _choice(item, get_args(Cpu), f"{path.name}: validate_cpus")
    return tuple(value)


def _entitlement(value: object, surface: Surface, path: Path) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"{path.name}: increased_memory_limit must be true or false.", remedy="Correct the value.")
    if value and surface != "ios":
        raise UsageError(
            f"{path.name}: increased_memory_limit is an entitlement of iOS, not of {surface}.", remedy="Remove it."
        )
    return value


def _positive(value: object, key: str, path: Path) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise UsageError(f"{path.name}: {key} must be a positive integer, not {value!r}.", remedy="Correct the number.")
    return value


def _choice(value: object, choices: Iterable[str], where: str) -> None:
    names = tuple(choices)
    if value not in names:
        raise UnknownNameError(
            f"{where} {value!r} is unknown.", remedy=_suggestion(str(value), names) or f"Use one of {', '.join(names)}."
        )


def _known(key: str, keys: tuple[str, ...], what: str) -> None:
    if key not in keys:
        raise UnknownNameError(
            f"{key!r} is an unknown {what}.", remedy=_suggestion(key, keys) or f"The keys are {', '.join(keys)}."
        )


def _suggestion(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, tuple(names), n=1)
    return f"Did you mean {close[0]!r}?" if close else ""


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
