"""The settings of a build: models, targets, what is asked of all cells, and what of some."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from edgeq.bundle.stage import bundle_name
from edgeq.core.artifact import TokenizerForm
from edgeq.core.model import Task
from edgeq.core.recipe import Effort
from edgeq.errors import UsageError
from edgeq.models.demo_model import DEMO_NAME
from edgeq.settings import BUDGETS, OPTIONS, SETTINGS_FILE, Limit, find_settings, read_table, read_values
from edgeq.values import one_of

DEMO = "demo"
"""What the settings call the embedded model."""
DEFAULT_TARGET = "android"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


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
    tokenizer: TokenizerForm = "files"
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


def find_configuration(directory: Path) -> Path:
    """The settings of the directory. Raises UsageError where it has none."""
    found = find_settings(directory)
    if found is None:
        raise UsageError(
            f"There is no {SETTINGS_FILE} here.",
            remedy="Write one that names models and targets, or name it with --config.",
        )
    return found


def read_configuration(path: Path) -> Configuration:
    """The settings of a build. Paths in it are relative to its directory.

    Raises UsageError where the file cannot be read or a value cannot be meant, UnknownNameError for an unknown key,
    each with the place.
    """
    table = read_table(path)
    if table is None:
        raise UsageError(f"{path} has no table tool.edgeq.", remedy=f"Write [tool.edgeq], or an {SETTINGS_FILE}.")
    return Configuration(
        path=path,
        models=_models(table, path),
        targets=_targets(table, path),
        values=read_values(table, path, path.name),
        overrides=_overrides(table.get("override", []), path),
    )


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
        found.append(Override(select=select, values=read_values(entry, path, where)))
    return tuple(found)
