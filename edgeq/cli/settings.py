"""What one export is asked for: the settings of the working directory, of which a flag overrides its key."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal, cast, get_args

from edgeq.core.artifact import TokenizerForm
from edgeq.core.model import Task
from edgeq.core.recipe import Effort
from edgeq.core.target import Architecture
from edgeq.settings import Limit, find_settings, read_place, read_table, read_values
from edgeq.values import one_of


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
    tokenizer: TokenizerForm = "files"
    max_memory: int | None = None
    max_drift: float | None = None
    max_size: int | None = None
    recipe: Path | None = None
    output: Path | None = None


KEYS = tuple(field.name for field in fields(Settings))
Installation = Literal["arm64", "browser"]


def as_architecture(text: str) -> Architecture:
    """An instruction set's name, checked. Raises UnknownNameError."""
    return cast("Architecture", one_of(text, get_args(Architecture), option="arch"))


def as_installation(text: str) -> Installation:
    """What `edgeq doctor` can fetch, checked. Raises UnknownNameError."""
    return cast("Installation", one_of(text, get_args(Installation), option="install"))


def read_settings(directory: Path) -> Settings:
    """The settings of `directory`, or the defaults where it has none. Raises UsageError, UnknownNameError.

    A budget's number is its limit whatever its level; what only builds read is checked as far as its name.
    """
    path = find_settings(directory)
    table = None if path is None else read_table(path)
    if path is None or table is None:
        return Settings()
    values = {
        key: value.limit if isinstance(value, Limit) else value
        for key, value in read_values(table, path, path.name).items()
        if key in KEYS
    }
    places = {key: read_place(key, table[key], path.name) for key in ("model", "target", "output") if key in table}
    if "output" in places:
        values["output"] = Path(places.pop("output"))
    return replace(Settings(), **places, **values)  # type: ignore[arg-type]  # checked key by key


def override(settings: Settings, flags: dict[str, object]) -> Settings:
    """The settings with every flag that was given (is not None) in place of its key; flags without a key are left."""
    return replace(settings, **{name: flags[name] for name in KEYS if flags.get(name) is not None})  # type: ignore[arg-type]
