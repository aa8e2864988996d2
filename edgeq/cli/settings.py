"""Settings of the working directory: `edgeq.toml`, or `[tool.edgeq]` in pyproject.toml; a flag overrides its key."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal, cast, get_args

from edgeq.core.model import DIRECTORY_TASKS, Task
from edgeq.core.recipe import Effort
from edgeq.core.target import Architecture
from edgeq.errors import UsageError
from edgeq.values import one_of, parse_size

SETTINGS_FILE = "edgeq.toml"
PROJECT_FILE = "pyproject.toml"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What `edgeq export` is asked for; each name is also a flag and a key in TOML.

    Sizes are bytes (in TOML a number, or text such as "2GB"). None means the default for these bits, model and target.
    """

    model: str | None = None
    target: str = "android"
    bits: int | Literal["auto"] = 4
    method: str = "auto"
    effort: Effort = "default"
    calibration: Path | None = None
    group_size: int | None = None
    symmetric: bool | None = None
    embedding_bits: int | None = None
    format: str | None = None
    task: Task | None = None
    accuracy_level: int | None = None
    evaluation: Path | None = None
    max_memory: int | None = None
    max_drift: float | None = None
    max_size: int | None = None
    recipe: Path | None = None
    output: Path | None = None


KEYS = tuple(field.name for field in fields(Settings))
BUILD_KEYS = ("models", "targets", "override", "min_decode_tokens_per_second")
"""Keys of `edgeq build`, which reads the same file; one export has no use for them."""
Installation = Literal["arm64", "browser"]
LIMITS = ("max_memory", "max_size", "max_drift")


def as_task(text: str) -> Task:
    """A task's name, checked. Raises UnknownNameError."""
    return cast("Task", one_of(text, DIRECTORY_TASKS, option="task"))


def as_architecture(text: str) -> Architecture:
    """An instruction set's name, checked. Raises UnknownNameError."""
    return cast("Architecture", one_of(text, get_args(Architecture), option="arch"))


def as_installation(text: str) -> Installation:
    """What `edgeq doctor` can fetch, checked. Raises UnknownNameError."""
    return cast("Installation", one_of(text, get_args(Installation), option="install"))


def as_effort(text: str) -> Effort:
    """An effort's name, checked. Raises UnknownNameError."""
    return cast("Effort", one_of(text, get_args(Effort), option="effort"))


_READ_TEXT: dict[str, Callable[[str], object]] = {
    "task": as_task,
    "effort": as_effort,
    "calibration": Path,
    "max_memory": parse_size,
    "max_size": parse_size,
    "recipe": Path,
    "evaluation": Path,
    "output": Path,
}
_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("model", "target", "method", "format"), (str,)),
    **dict.fromkeys(("bits", "group_size", "embedding_bits", "accuracy_level", "max_memory", "max_size"), (int,)),
    "symmetric": (bool,),
    "max_drift": (int, float),
    **dict.fromkeys(("task", "effort", "calibration", "recipe", "evaluation", "output"), ()),
}


def read_settings(directory: Path) -> Settings:
    """The settings of `directory`, or the defaults where it has none. Raises UsageError, UnknownNameError."""
    path, table = _table(directory)
    for key in table:
        one_of(key, (*KEYS, *BUILD_KEYS), option=path.name)
    values = {key: _value(path, key, _limit(key, value)) for key, value in table.items() if key in KEYS}
    return replace(Settings(), **values)  # type: ignore[arg-type]  # checked key by key in _value


def override(settings: Settings, flags: dict[str, object]) -> Settings:
    """The settings with every flag that was given (is not None) in place of its key; flags without a key are left."""
    return replace(settings, **{name: flags[name] for name in KEYS if flags.get(name) is not None})  # type: ignore[arg-type]


def _table(directory: Path) -> tuple[Path, dict[str, object]]:
    path = directory / SETTINGS_FILE
    if path.is_file():
        return path, _read(path)
    path = directory / PROJECT_FILE
    if not path.is_file():
        return path, {}
    tool = _read(path).get("tool")
    table = tool.get("edgeq", {}) if isinstance(tool, dict) else {}
    if not isinstance(table, dict):
        raise UsageError(f"tool.edgeq in {path.name} is not a table.", remedy="Write it as [tool.edgeq].")
    return path, table


def _read(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path.name} cannot be read: {error}.", remedy="Correct it, or move it away.") from error


def _limit(key: str, value: object) -> object:
    """A budget of `edgeq build` may be a table; its limit is what an export is held to."""
    return value.get("limit") if key in LIMITS and isinstance(value, dict) else value


def _value(path: Path, key: str, value: object) -> object:
    """One TOML value as its field's type."""
    if isinstance(value, str) and key in _READ_TEXT:
        return _READ_TEXT[key](value)
    if (key, value) == ("bits", "auto"):
        return value
    # The exact type, as True is an integer to isinstance.
    if type(value) not in _TYPES[key]:
        raise UsageError(
            f"{path.name} gives {key} the value {value!r}.", remedy="`edgeq export --help` says what it takes."
        )
    return value
