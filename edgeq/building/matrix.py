"""The matrix: a cell for every target and model, with what the overrides give it; and which cells a run is for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase

from edgeq.building.configuration import Budgets, CellSettings, Configuration, ModelEntry
from edgeq.bundle.stage import bundle_name
from edgeq.core.recipe import Recipe
from edgeq.core.target import Format, TargetProfile
from edgeq.errors import UnknownNameError, UsageError
from edgeq.lowering import check_tokenizer_form
from edgeq.planning import Budget, asked_recipe, budget_for
from edgeq.quantization.methods import resolve_method
from edgeq.settings import BUDGETS
from edgeq.targets.profiles import formats_of, load_profile, with_accuracy_level


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One bundle to build. formats: all that its store must hold, `format` among them. allocation: what bits="auto"
    must keep within. memory_limit: bytes under which the bundle is run, the target's or a higher budget."""

    name: str
    model: ModelEntry
    profile: TargetProfile
    format: Format
    formats: tuple[Format, ...]
    settings: CellSettings
    recipe: Recipe
    allocation: Budget | None
    memory_limit: int


def cells_of(configuration: Configuration) -> tuple[Cell, ...]:
    """All cells, targets first. `<target>-<model>`, and with several formats `<target>-<model>-<format>`.

    Raises UsageError for settings that no export could have, UnknownNameError for an unknown target or format and for
    an override that selects nothing.
    """
    profiles = [load_profile(name) for name in configuration.targets]
    names = [bundle_name(profile.name) for profile in profiles]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"Two targets are called {twice[0]!r}.", remedy="Rename one of the files.")
    pairs = {
        f"{name}-{model.name}": (model, profile)
        for name, profile in zip(names, profiles, strict=True)
        for model in configuration.models
    }
    if len(pairs) < len(profiles) * len(configuration.models):
        raise UsageError("Two cells of the matrix have the same name.", remedy="Rename a model.")
    for override in configuration.overrides:
        _check_pattern(override.select, tuple(pairs), f"{configuration.path.name}: select")
    return tuple(
        cell
        for name, (model, profile) in pairs.items()
        for cell in _cells(name, model, profile, _settings(name, configuration))
    )


def selected(cells: Sequence[Cell], patterns: Sequence[str]) -> tuple[Cell, ...]:
    """The cells that one of the globs matches, all without globs. Raises UnknownNameError for one that matches none."""
    for pattern in patterns:
        _check_pattern(pattern, tuple(cell.name for cell in cells), "--only")
    return tuple(cell for cell in cells if not patterns or any(fnmatchcase(cell.name, one) for one in patterns))


def _check_pattern(pattern: str, names: tuple[str, ...], what: str) -> None:
    if any(fnmatchcase(name, pattern) for name in names):
        return
    close = get_close_matches(pattern, names, n=1, cutoff=0.4)
    remedy = f"Did you mean {close[0]!r}?" if close else f"The cells are {', '.join(names)}."
    raise UnknownNameError(f"{what} {pattern!r} matches no cell.", remedy=remedy)


def _settings(name: str, configuration: Configuration) -> CellSettings:
    """What the file says of one cell: its own values, then each override that selects it; the later one wins."""
    values = dict(configuration.values)
    for override in configuration.overrides:
        if fnmatchcase(name, override.select):
            values.update(override.values)
    return _as_settings(values)


def _as_settings(values: Mapping[str, object]) -> CellSettings:
    budgets = {key: value for key, value in values.items() if key in BUDGETS}
    options = {key: value for key, value in values.items() if key not in BUDGETS}
    return replace(CellSettings(), budgets=Budgets(**budgets), **options)  # type: ignore[arg-type]  # checked when read


def _cells(name: str, model: ModelEntry, profile: TargetProfile, settings: CellSettings) -> list[Cell]:
    """One cell per format. What an export would refuse is refused here, with the cell's name."""
    try:
        profile = with_accuracy_level(profile, settings.accuracy_level)
        formats = formats_of(profile, settings.format)
        check_tokenizer_form(settings.tokenizer, formats)
        recipe = asked_recipe(
            settings.bits,
            settings.method,
            settings.effort,
            group_size=settings.group_size,
            symmetric=settings.symmetric,
            embedding_bits=settings.embedding_bits,
            path=settings.recipe,
        )
        resolve_method(recipe.method)
        allocation = _allocation(settings)
    except UsageError as error:
        raise type(error)(f"{name}: {error.what}", remedy=error.remedy) from error
    return [
        Cell(
            name=name if len(formats) == 1 else f"{name}-{format}",
            model=model,
            profile=profile,
            format=format,
            formats=formats,
            settings=settings,
            recipe=recipe,
            allocation=allocation,
            memory_limit=_memory_limit(profile, settings.budgets),
        )
        for format in formats
    ]


def _allocation(settings: CellSettings) -> Budget | None:
    """What bits="auto" has to make the most of; budgets that only warn count here as well."""
    budgets = settings.budgets
    return budget_for(
        settings.bits,
        max_size=None if budgets.max_size is None else int(budgets.max_size.limit),
        max_memory=None if budgets.max_memory is None else int(budgets.max_memory.limit),
        max_drift=None if budgets.max_drift is None else budgets.max_drift.limit,
    )


def _memory_limit(profile: TargetProfile, budgets: Budgets) -> int:
    """The target's limit or a budget above it. One below is judged by the peak: another one then needs no new run."""
    allowed = profile.memory_budget_bytes
    asked = budgets.max_memory
    return allowed if asked is None or asked.level == "warn" else max(allowed, int(asked.limit))
