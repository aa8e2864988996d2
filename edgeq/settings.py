"""The file of settings: `edgeq.toml`, or `[tool.edgeq]` of a pyproject.toml, read alike for exports and for builds."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from edgeq.core.artifact import TokenizerForm
from edgeq.core.model import DIRECTORY_TASKS, Task
from edgeq.core.recipe import Effort
from edgeq.errors import UsageError
from edgeq.values import one_of, parse_size

SETTINGS_FILE = "edgeq.toml"
PROJECT_FILE = "pyproject.toml"
Level = Literal["error", "warn"]


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A number that a bundle must keep to, in the unit of its budget. `warn` says so and lets the bundle pass."""

    limit: float
    level: Level = "error"


_EXAMPLES = {
    "bits": "bits = 4",
    "method": 'method = "auto"',
    "effort": 'effort = "fast"',
    "group_size": "group_size = 32",
    "symmetric": "symmetric = true",
    "embedding_bits": "embedding_bits = 8",
    "format": 'format = "onnx"',
    "task": 'task = "text-generation"',
    "accuracy_level": "accuracy_level = 4",
    "calibration": 'calibration = "calibration.txt"',
    "tokenizer": 'tokenizer = "graph"',
    "evaluation": 'evaluation = "evaluation.txt"',
    "recipe": 'recipe = "recipe.toml"',
}
_BUDGET_EXAMPLES = {
    "max_size": 'max_size = "40 MB"',
    "max_memory": 'max_memory = "800 MiB"',
    "max_drift": "max_drift = 0.05",
    "min_decode_tokens_per_second": "min_decode_tokens_per_second = 20",
}
_PLACE_EXAMPLES = {"model": 'model = "owner/name"', "target": 'target = "android"', "output": 'output = "bundle"'}
OPTIONS, BUDGETS = tuple(_EXAMPLES), tuple(_BUDGET_EXAMPLES)
"""How a bundle is made, as the options of `edgeq export`; and what it must keep to."""
KEYS = (*OPTIONS, *BUDGETS, *_PLACE_EXAMPLES, "models", "targets", "override")
_TYPES: dict[str, type] = {
    **dict.fromkeys(("bits", "group_size", "embedding_bits", "accuracy_level"), int),
    **dict.fromkeys(("method", "format", "task", "effort", "tokenizer"), str),
    "symmetric": bool,
}


def find_settings(directory: Path) -> Path | None:
    """`edgeq.toml` of the directory, else its pyproject.toml, None where it has neither."""
    return next((path for name in (SETTINGS_FILE, PROJECT_FILE) if (path := directory / name).is_file()), None)


def read_table(path: Path) -> dict[str, object] | None:
    """The settings as TOML, their keys checked; None where a pyproject.toml has none.

    Raises UsageError where the file cannot be read, UnknownNameError for an unknown key.
    """
    try:
        data: dict[str, object] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}).", remedy="Name a file of settings.") from error
    except ValueError as error:
        raise UsageError(f"{path} is not TOML: {error}.", remedy="Correct that line.") from error
    table: object = data
    if path.name == PROJECT_FILE:
        tool = data.get("tool", {})
        table = tool.get("edgeq") if isinstance(tool, dict) else None
        if table is None:
            return None
    if not isinstance(table, dict):
        raise UsageError(f"tool.edgeq in {path.name} is not a table.", remedy="Write it as [tool.edgeq].")
    for key in table:
        one_of(key, KEYS, option=path.name)
    return table


def read_values(table: Mapping[str, object], path: Path, where: str) -> dict[str, object]:
    """The options and budgets of a table, budgets as Limit; paths are relative to the file of settings.

    Raises UsageError where a value cannot be meant, UnknownNameError for an unknown name, each with `where`.
    """
    return {
        key: _limit(key, value, where) if key in BUDGETS else _option(key, value, path, where)
        for key, value in table.items()
        if key in OPTIONS or key in BUDGETS
    }


def read_place(key: str, value: object, where: str) -> str:
    """A `model`, `target` or `output`. Raises UsageError where it is no text."""
    if not isinstance(value, str) or not value:
        raise _wrong(key, value, where)
    return value


def as_task(text: str, option: str = "task") -> Task:
    """A task's name, checked. Raises UnknownNameError."""
    return cast("Task", one_of(text, DIRECTORY_TASKS, option=option))


def as_tokenizer_form(text: str, option: str = "tokenizer") -> TokenizerForm:
    """Where the tokenizer is to be, checked. Raises UnknownNameError."""
    return cast("TokenizerForm", one_of(text, get_args(TokenizerForm), option=option))


def as_effort(text: str, option: str = "effort") -> Effort:
    """An effort's name, checked. Raises UnknownNameError."""
    return cast("Effort", one_of(text, get_args(Effort), option=option))


def _option(key: str, value: object, path: Path, where: str) -> object:
    """One option as its field's type."""
    if key in ("calibration", "evaluation", "recipe"):
        return _file(key, value, path, where)
    if isinstance(value, str) and key == "task":
        return as_task(value, f"{where}: task")
    if isinstance(value, str) and key == "tokenizer":
        return as_tokenizer_form(value, f"{where}: tokenizer")
    if isinstance(value, str) and key == "effort":
        return as_effort(value, f"{where}: effort")
    if (key, value) == ("bits", "auto"):
        return value
    # The exact type, as True is an integer to isinstance.
    if type(value) is not _TYPES[key]:
        raise _wrong(key, value, where)
    return value


def _file(key: str, value: object, path: Path, where: str) -> Path:
    if not isinstance(value, str) or not value:
        raise _wrong(key, value, where)
    found = path.parent / Path(value).expanduser()
    if not found.is_file():
        raise UsageError(f"{where}: {key} names {value}, which is no file.", remedy=f"It is looked for at {found}.")
    return found


def _limit(key: str, value: object, where: str) -> Limit:
    """A number, a size, or a table with `limit` and `level`."""
    level: Level = "error"
    if isinstance(value, dict):
        for name in value:
            one_of(name, ("limit", "level"), option=f"{where}: {key}")
        if "limit" not in value:
            raise UsageError(
                f"{where}: {key} has no limit.", remedy=f'Write {key} = {{ limit = ..., level = "warn" }}.'
            )
        if "level" in value:
            level = cast("Level", one_of(str(value["level"]), get_args(Level), option=f"{where}: level of {key}"))
        value = value["limit"]
    is_size = key in ("max_size", "max_memory")
    if isinstance(value, str) and is_size:
        value = parse_size(value)
    allowed: tuple[type, ...] = (int,) if is_size else (int, float)
    if type(value) not in allowed or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise _wrong(key, value, where)
    if value == 0 and key != "max_drift":
        raise UsageError(f"{where}: a {key} of 0 leaves nothing.", remedy="Give a larger number.")
    return Limit(limit=value, level=level)


def _wrong(key: str, value: object, where: str) -> UsageError:
    example = {**_EXAMPLES, **_BUDGET_EXAMPLES, **_PLACE_EXAMPLES}[key]
    return UsageError(f"{where} gives {key} the value {value!r}.", remedy=f"Write, for instance, {example}.")
