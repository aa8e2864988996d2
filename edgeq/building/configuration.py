"""The settings of a build: `edgeq.toml`, or `[tool.edgeq]` of a pyproject.toml, with every key and value checked."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal, cast, get_args

from edgeq.bundle.stage import bundle_name
from edgeq.core.model import DIRECTORY_TASKS, Task
from edgeq.core.recipe import Effort
from edgeq.errors import UsageError
from edgeq.models.demo_model import DEMO_NAME
from edgeq.values import one_of, parse_size

SETTINGS_FILE = "edgeq.toml"
PROJECT_FILE = "pyproject.toml"
DEMO = "demo"
"""What the settings call the embedded model."""
DEFAULT_TARGET = "android"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")

Level = Literal["error", "warn"]


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A number that a bundle must keep to, in the unit of its budget. `warn` says so and lets the bundle pass."""

    limit: float
    level: Level = "error"


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """max_size in bytes of what goes into the app, max_memory in bytes of dirty memory; max_drift in nats per token of
    the total, for encoders 1 - cosine."""

    max_size: Limit | None = None
    max_memory: Limit | None = None
    max_drift: Limit | None = None
    min_decode_tokens_per_second: Limit | None = None


@dataclass(frozen=True, kw_only=True)
class CellSettings:
    """How one cell is built; the names are the options of `edgeq export`. None: the default for model and target."""

    bits: int | Literal["auto"] = 4
    method: str = "auto"
    effort: Effort = "default"
    group_size: int | None = None
    symmetric: bool | None = None
    embedding_bits: int | None = None
    format: str | None = None
    task: Task | None = None
    accuracy_level: int | None = None
    calibration: Path | None = None
    evaluation: Path | None = None
    recipe: Path | None = None
    budgets: Budgets = field(default_factory=Budgets)


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """A model by the name that its cells carry. source: a directory, a hub id, or None for the embedded model."""

    name: str
    source: str | None


@dataclass(frozen=True, kw_only=True)
class Override:
    """Other values for the cells whose name matches the glob `select`."""

    select: str
    values: Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """A file of settings, read. `values` are those of all cells, as fields of CellSettings and Budgets."""

    path: Path
    models: tuple[ModelEntry, ...]
    targets: tuple[str, ...]
    values: Mapping[str, object]
    overrides: tuple[Override, ...]


BUDGETS = tuple(one.name for one in fields(Budgets))
OPTIONS = tuple(one.name for one in fields(CellSettings) if one.name != "budgets")
_MATRIX = ("model", "models", "target", "targets", "override")
_IGNORED = ("output",)
"""Keys of `edgeq export` that a build has no use for: it has an output of its own."""
KEYS = (*_MATRIX, *OPTIONS, *BUDGETS, *_IGNORED)
_LIMIT_KEYS = ("limit", "level")


def find_configuration(directory: Path) -> Path:
    """`edgeq.toml` of the directory, else its pyproject.toml. Raises UsageError where it has neither."""
    for name in (SETTINGS_FILE, PROJECT_FILE):
        if (directory / name).is_file():
            return directory / name
    raise UsageError(
        f"There is no {SETTINGS_FILE} here.",
        remedy="Write one that names models and targets, or name it with --config.",
    )


def read_configuration(path: Path) -> Configuration:
    """The settings of a build. Paths in it are relative to its directory.

    Raises UsageError where the file cannot be read or a value cannot be meant, UnknownNameError for an unknown key,
    each with the place.
    """
    table = _table(path)
    for key in table:
        one_of(key, KEYS, option=path.name)
    return Configuration(
        path=path,
        models=_models(table, path),
        targets=_targets(table, path),
        values=_values({key: table[key] for key in table if key in (*OPTIONS, *BUDGETS)}, path, path.name),
        overrides=_overrides(table.get("override", []), path),
    )


def _table(path: Path) -> dict[str, object]:
    try:
        data: dict[str, object] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}).", remedy="Name a file of settings.") from error
    except ValueError as error:
        raise UsageError(f"{path} is not TOML: {error}.", remedy="Correct that line.") from error
    if path.name != PROJECT_FILE:
        return data
    tool = data.get("tool", {})
    table = tool.get("edgeq") if isinstance(tool, dict) else None
    if not isinstance(table, dict):
        raise UsageError(f"{path} has no table tool.edgeq.", remedy=f"Write [tool.edgeq], or an {SETTINGS_FILE}.")
    return table


def _models(table: Mapping[str, object], path: Path) -> tuple[ModelEntry, ...]:
    """From `models`, a table of names or a list of sources, or from `model`, one source; else the embedded one."""
    if "model" in table and "models" in table:
        raise UsageError(f"{path.name} has both model and models.", remedy="Keep models.")
    value = table.get("models", [table.get("model", DEMO)])
    if isinstance(value, dict):
        entries = [(name, source) for name, source in value.items()]
    elif isinstance(value, list):
        entries = [(bundle_name(source) if isinstance(source, str) else "", source) for source in value]
    else:
        entries = []
    if not entries or not all(isinstance(source, str) and source for _, source in entries):
        raise UsageError(
            f"{path.name}: models names no models.", remedy='Write [models] and lines such as assistant = "owner/name".'
        )
    for name, _ in entries:
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"{path.name}: a model cannot be called {name!r}.",
                remedy="Use a-z, 0-9, dots, hyphens and underscores.",
            )
        if [other for other, _ in entries].count(name) > 1:
            raise UsageError(f"{path.name}: two models are called {name!r}.", remedy="Name them in a table [models].")
    return tuple(ModelEntry(name=name, source=_source(str(source), path)) for name, source in entries)


def _source(text: str, path: Path) -> str | None:
    """A directory beside the settings comes before a hub id of the same spelling."""
    if text in (DEMO, DEMO_NAME):
        return None
    local = path.parent / Path(text).expanduser()
    return str(local) if local.exists() or text.startswith((".", "/", "~")) else text


def _targets(table: Mapping[str, object], path: Path) -> tuple[str, ...]:
    if "target" in table and "targets" in table:
        raise UsageError(f"{path.name} has both target and targets.", remedy="Keep targets.")
    value = table.get("targets", [table.get("target", DEFAULT_TARGET)])
    if not isinstance(value, list) or not value or not all(isinstance(name, str) and name for name in value):
        raise UsageError(f"{path.name}: targets names no targets.", remedy='Write targets = ["android", "ios"].')
    if twice := sorted({name for name in value if value.count(name) > 1}):
        raise UsageError(f"{path.name} names the target {twice[0]!r} twice.", remedy="Remove one of them.")
    return tuple(str(path.parent / name) if name.endswith(".toml") else name for name in value)


def _overrides(value: object, path: Path) -> tuple[Override, ...]:
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise UsageError(f"{path.name}: override is not a list of tables.", remedy="Begin each with [[override]].")
    found = []
    for number, entry in enumerate(value, start=1):
        where = f"{path.name}, override {number}"
        for key in entry:
            one_of(key, ("select", *OPTIONS, *BUDGETS), option=where)
        select = entry.get("select")
        if not isinstance(select, str) or not select:
            raise UsageError(f"{where} selects no cells.", remedy='Write select = "android-*".')
        values = {key: one for key, one in entry.items() if key != "select"}
        found.append(Override(select=select, values=_values(values, path, where)))
    return tuple(found)


def _values(table: Mapping[str, object], path: Path, where: str) -> dict[str, object]:
    return {
        key: _limit(key, value, where) if key in BUDGETS else _option(key, value, path, where)
        for key, value in table.items()
    }


def _option(key: str, value: object, path: Path, where: str) -> object:
    """One option as its field's type."""
    if key in ("calibration", "evaluation", "recipe"):
        return _file(key, value, path, where)
    if isinstance(value, str) and key in ("task", "effort"):
        return one_of(value, DIRECTORY_TASKS if key == "task" else get_args(Effort), option=f"{where}: {key}")
    if (key, value) == ("bits", "auto"):
        return value
    # The exact type, as True is an integer to isinstance.
    if type(value) is not _TYPES[key]:
        raise _wrong(key, value, where)
    return value


_TYPES: dict[str, type] = {
    **dict.fromkeys(("bits", "group_size", "embedding_bits", "accuracy_level"), int),
    **dict.fromkeys(("method", "format", "task", "effort"), str),
    "symmetric": bool,
}


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
            one_of(name, _LIMIT_KEYS, option=f"{where}: {key}")
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
    return UsageError(f"{where} gives {key} the value {value!r}.", remedy=f"Write, for instance, {_EXAMPLE[key]}.")


_EXAMPLE = {
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
    "evaluation": 'evaluation = "evaluation.txt"',
    "recipe": 'recipe = "recipe.toml"',
    "max_size": 'max_size = "40 MB"',
    "max_memory": 'max_memory = "800 MiB"',
    "max_drift": "max_drift = 0.05",
    "min_decode_tokens_per_second": "min_decode_tokens_per_second = 20",
}
