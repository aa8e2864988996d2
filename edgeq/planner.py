"""The plan verb: what a model costs at each number of bits, and the best drift for each size; writes nothing itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeq.core.frontier import Frontier, PlanReport
from edgeq.core.model import Task
from edgeq.core.recipe import Recipe
from edgeq.core.target import Format, TargetProfile
from edgeq.costs import bits_costs, context_of
from edgeq.errors import UsageError
from edgeq.models.source import load, locate
from edgeq.models.structure import Structure, has_weights, read_structure
from edgeq.planning import Budget, drift_unit, fit, frontier_of, survey
from edgeq.progress import Progress, SilentProgress
from edgeq.quantization.distillation import TRAINABLE_TASKS
from edgeq.targets.profiles import formats_of, load_profile


@dataclass(frozen=True, kw_only=True)
class PlanResult:
    """The report, and the recipe that the budget comes to, None without one."""

    report: PlanReport
    recipe: Recipe | None = None


def plan(
    model: str | Path | None = None,
    *,
    target: str = "android",
    method: str = "auto",
    group_size: int | None = None,
    symmetric: bool | None = None,
    embedding_bits: int | None = None,
    format: str | None = None,
    task: Task | None = None,
    calibration: Path | None = None,
    max_memory: int | None = None,
    max_drift: float | None = None,
    max_size: int | None = None,
    progress: Progress | None = None,
) -> PlanResult:
    """What `edgeq export` would come to for a model, without building it.

    A directory with a config.json but no weights gets the costs by bits, and so do classifiers and models of images.
    With weights the frontier is measured, too, on `calibration` or the model's own text; and a budget (max_size and
    max_memory in bytes, max_drift in nats per token or 1 - cosine) chooses a recipe.
    Raises EdgeqError, each with its exit code and a remedy.
    """
    profile = load_profile(target)
    formats = formats_of(profile, format)
    progress = progress or SilentProgress()
    budgeted = any(limit is not None for limit in (max_size, max_memory, max_drift))
    budget = Budget(max_size=max_size, max_memory=max_memory, max_drift=max_drift) if budgeted else None
    progress.stage("loading")
    directory, label = locate(model)
    structure = read_structure(directory, label, task)
    can_weigh = structure.info.task in TRAINABLE_TASKS
    if not has_weights(directory) or (budget is None and not can_weigh):
        if budget is not None:
            raise UsageError(
                f"{label} has no weights to choose bits by.", remedy="Leave the budget out, or name a whole model."
            )
        return PlanResult(report=_report(structure, profile, formats[0]))
    recipe = Recipe(method=method, group_size=group_size, symmetric=symmetric, embedding_bits=embedding_bits)
    source = load(model, task=task)
    found = survey(source, recipe, profile, formats, progress, calibration=calibration)
    planned = None if budget is None else fit(found, source, budget, profile, formats, progress=progress)
    report = _report(
        structure,
        profile,
        formats[0],
        found=frontier_of(found, source.info, profile, formats[:1], None if planned is None else planned.allocation),
        bundle_bytes=0 if planned is None else planned.bundle_bytes,
    )
    return PlanResult(report=report, recipe=None if planned is None else planned.allocation.recipe())


def _report(
    structure: Structure,
    target: TargetProfile,
    format: Format,
    *,
    found: Frontier | None = None,
    bundle_bytes: int = 0,
) -> PlanReport:
    info = structure.info
    return PlanReport(
        source=info.source,
        architecture=info.architecture,
        parameters=info.parameters,
        target=target.name,
        format=format,
        context_length=context_of(info, target),
        costs=bits_costs(info, structure.cache, target, format),
        frontier=() if found is None else found.points,
        uniform=() if found is None else found.uniform,
        chosen=None if found is None else found.chosen,
        bundle_bytes=bundle_bytes,
        drift_unit=drift_unit(info),
        is_measured=found is not None and found.is_measured,
    )
