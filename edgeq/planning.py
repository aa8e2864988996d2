"""Planning: which schemes make the most of a budget in bytes or drift, tried out on the formats that are asked for."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from edgeq.bundle.golden import CASES, Golden
from edgeq.bundle.manifest import Manifest
from edgeq.bundle.memory import required_bytes
from edgeq.bundle.stage import stage
from edgeq.core.frontier import Frontier, FrontierPoint
from edgeq.core.model import ModelInfo
from edgeq.core.recipe import Effort, Plan, Recipe
from edgeq.core.recipe_text import recipe_from_toml
from edgeq.core.scheme import FLOAT_BITS, PALETTE_BITS, QUANTIZED_BITS, Scheme
from edgeq.core.target import Format, TargetProfile
from edgeq.errors import UsageError
from edgeq.lowering import lower
from edgeq.models.calibration import calibration_inputs
from edgeq.models.source import SourceModel
from edgeq.progress import Progress, SilentProgress
from edgeq.quantization import allocate, needs_calibration, quantize, trains
from edgeq.quantization.allocate import plan_for
from edgeq.quantization.budget import Allocation, Choices, best_within, choices, frontier, smallest_within
from edgeq.quantization.distillation import TRAINABLE_TASKS
from edgeq.quantization.methods import plain_method
from edgeq.validation.gates import check_drift_limit

Auto = Literal["auto"]
AUTO_BITS: Auto = "auto"
"""In place of a number of bits: choose them for each weight, under the budget that the limits give."""
SEQUENCES = 32
LENGTH = 64
CALIBRATION_DOCUMENTS, CALIBRATION_SENTENCES, CALIBRATION_TOKENS = 128, 1024, 256
"""Language models read stretches of text, all others sentences."""
UNIFORM_BITS = (2, 3, 4, 8)
ATTEMPTS = 4
CLOSE = 0.998
"""Share of the limit from which an allocation is close enough."""
DRIFT_SHARE = 0.9
"""Of `max_drift`, what the weights may use: the runtime's own rounding comes on top."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Limits in bytes of the bundle in the app and of the memory that it needs, and of drift; at least one is given."""

    max_size: int | None = None
    max_memory: int | None = None
    max_drift: float | None = None

    def __post_init__(self) -> None:
        if self.max_size is None and self.max_memory is None and self.max_drift is None:
            raise UsageError(
                "There is no budget to choose bits for.", remedy="Give --max-size, --max-memory or --max-drift."
            )

    def limits(self) -> dict[str, int]:
        """The limits in bytes, by option."""
        given = {"--max-size": self.max_size, "--max-memory": self.max_memory}
        return {name: limit for name, limit in given.items() if limit is not None}


@dataclass(frozen=True, kw_only=True)
class Planned:
    """An allocation that meets a budget; bundle_bytes: of its largest bundle, as tried out, 0 where size was free."""

    allocation: Allocation
    bundle_bytes: int


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A recipe, and what it was chosen from where there was a budget."""

    recipe: Recipe
    frontier: Frontier | None = None


def asked_recipe(
    bits: int | Auto,
    method: str,
    effort: Effort,
    *,
    group_size: int | None,
    symmetric: bool | None,
    embedding_bits: int | None,
    path: Path | None = None,
) -> Recipe:
    """What the options come to, or what the file at `path` says, which takes their place. Raises UsageError."""
    asked = Recipe(
        bits=Recipe().bits if bits == AUTO_BITS else bits,
        method=method,
        effort=effort,
        group_size=group_size,
        symmetric=symmetric,
        embedding_bits=embedding_bits,
    )
    if path is not None:
        if asked != Recipe() or bits == AUTO_BITS:
            raise UsageError(
                "A recipe already says bits, method, groups and symmetry.",
                remedy="Leave the other options out, or edit the file.",
            )
        asked = read_recipe(path)
    for flag, value in (("bits", asked.bits), ("embedding bits", asked.embedding_bits)):
        allowed = PALETTE_BITS if asked.method == "kmeans" else QUANTIZED_BITS
        if value is not None and value not in (*allowed, FLOAT_BITS):
            known = ", ".join(map(str, allowed))
            raise UsageError(f"{value} {flag} cannot be stored.", remedy=f"Use {known} or {FLOAT_BITS}.")
    return asked


def budget_for(
    bits: int | Auto, *, max_size: int | None, max_memory: int | None, max_drift: float | None
) -> Budget | None:
    """What `bits="auto"` has to keep within; else the limits are gates alone. Raises UsageError."""
    check_drift_limit(max_drift)
    if bits != AUTO_BITS:
        return None
    return Budget(max_size=max_size, max_memory=max_memory, max_drift=max_drift)


def read_recipe(path: Path) -> Recipe:
    """A recipe's file. Raises UsageError where it cannot be read or says what no recipe can."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The recipe {path} cannot be read ({error}).", remedy="Name a recipe's file.") from error
    return recipe_from_toml(text, path.name)


def survey(
    model: SourceModel,
    recipe: Recipe,
    target: TargetProfile,
    formats: tuple[Format, ...],
    progress: Progress,
    *,
    calibration: Path | None = None,
) -> Choices:
    """Measure what the weights of a model can do without, on `calibration` or the model's own text.

    Raises UsageError for tasks whose answers it cannot weigh.
    """
    if model.info.task not in TRAINABLE_TASKS:
        raise UsageError(
            f"edgeq does not choose bits for {model.info.task}.", remedy="Give a number of bits, such as --bits 8."
        )
    progress.stage("measuring sensitivity")
    sequences = calibration_inputs(
        model.directory,
        model.info,
        calibration,
        sequences=SEQUENCES,
        length=LENGTH,
        progress=progress.advance,
    )
    return choices(model, recipe, target, formats, sequences=sequences, progress=progress.advance)


def fit(
    found: Choices,
    model: SourceModel,
    budget: Budget,
    target: TargetProfile,
    formats: tuple[Format, ...],
    *,
    progress: Progress,
) -> Planned:
    """The allocation of least drift under the limits in bytes; without such a limit, the smallest under the drift's.

    What a bundle takes beside its weights is measured: the allocation is quantized by rounding alone, lowered and
    staged in a temporary directory, and corrected. Raises UsageError where the budget cannot be met, with the least
    that can.
    """
    limits = budget.limits()
    if not limits:
        assert budget.max_drift is not None  # noqa: S101 - Budget has one of three
        allowed = budget.max_drift * DRIFT_SHARE
        _check_drift(found.least_drift, allowed, budget)
        return Planned(allocation=smallest_within(found, allowed), bundle_bytes=0)
    progress.stage("trying the sizes")
    planned = _fit_bytes(found, model, limits, target, formats)
    if budget.max_drift is not None:
        _check_drift(planned.allocation.drift, budget.max_drift * DRIFT_SHARE, budget)
    return planned


def recipe_within(
    model: SourceModel,
    recipe: Recipe,
    target: TargetProfile,
    formats: tuple[Format, ...],
    *,
    budget: Budget | None,
    calibration: Path | None = None,
    progress: Progress,
) -> Fitted:
    """`recipe` with a rule for each weight, so that the budget is met; unchanged without one.

    Raises UsageError where it cannot be met.
    """
    if budget is None:
        return Fitted(recipe=recipe)
    found = survey(model, recipe, target, formats, progress, calibration=calibration)
    chosen = fit(found, model, budget, target, formats, progress=progress).allocation
    return Fitted(recipe=chosen.recipe(), frontier=frontier_of(found, model.info, target, formats, chosen))


def frontier_of(
    found: Choices, info: ModelInfo, target: TargetProfile, formats: tuple[Format, ...], chosen: Allocation | None
) -> Frontier:
    """What a survey found, for people: the best plan for each size, the uniform ones, and the chosen one."""
    return Frontier(
        points=tuple(_point(allocation, info) for allocation in frontier(found)),
        uniform=tuple(_uniform(found, info, target, formats)),
        chosen=None if chosen is None else _point(chosen, info),
        drift_unit=drift_unit(info),
        is_measured=found.is_measured,
    )


def drift_unit(info: ModelInfo) -> str:
    """What the drift of a model counts."""
    return "nats per token" if info.task == "text-generation" else "1 - cosine"


def _uniform(
    found: Choices, info: ModelInfo, target: TargetProfile, formats: tuple[Format, ...]
) -> Iterator[FrontierPoint]:
    """The plans of `--bits N`, where every unit has that scheme among its candidates."""
    for bits in UNIFORM_BITS:
        plan = plan_for(info, Recipe(bits=bits), target, formats)
        chosen = []
        for unit in found.units:
            wanted = plan.assignments[unit.tensors[0]].scheme
            chosen += [index for index, candidate in enumerate(unit.candidates) if candidate.scheme == wanted][:1]
        if len(chosen) == len(found.units):
            yield _point(found.allocation(chosen), info, is_uniform=True)


def _point(allocation: Allocation, info: ModelInfo, *, is_uniform: bool = False) -> FrontierPoint:
    return FrontierPoint(
        bytes=allocation.bytes,
        bits_per_weight=8 * allocation.bytes / info.parameters,
        drift=allocation.drift,
        schemes=allocation.parameters_by_scheme(info),
        is_uniform=is_uniform,
    )


def _fit_bytes(
    found: Choices, model: SourceModel, limits: Mapping[str, int], target: TargetProfile, formats: tuple[Format, ...]
) -> Planned:
    """Allocate, try, and correct by what the bundle takes beside its weights, which depends a little on the schemes."""
    smallest = best_within(found, found.least_bytes)
    allocation = best_within(found, max(found.least_bytes, min(limits.values())))
    best: Planned | None = None
    for _ in range(ATTEMPTS):
        sizes = _tried(allocation, model, target, formats)
        if all(sizes[name] <= limit for name, limit in limits.items()):
            if best is None or allocation.drift < best.allocation.drift:
                best = Planned(allocation=allocation, bundle_bytes=sizes["--max-size"])
            if any(sizes[name] >= CLOSE * limit for name, limit in limits.items()):
                break
        room = min(limit - sizes[name] + allocation.bytes for name, limit in limits.items())
        corrected = best_within(found, max(room, found.least_bytes))
        if corrected.picked == allocation.picked:
            break
        allocation = corrected
    if best is not None:
        return best
    sizes = _tried(smallest, model, target, formats)
    for name, limit in limits.items():
        if sizes[name] > limit:
            raise UsageError(
                f"{name} {limit:,} bytes cannot be met: with the fewest bits it takes {sizes[name]:,}.",
                remedy=f"Give {name} {sizes[name]} or more, or take a smaller model.",
            )
    return Planned(allocation=smallest, bundle_bytes=sizes["--max-size"])


def _check_drift(drift: float, allowed: float, budget: Budget) -> None:
    if drift > allowed:
        raise UsageError(
            f"--max-drift {budget.max_drift:g} cannot be met: the least drift within the other limits is about "
            f"{drift / DRIFT_SHARE:.2g}.",
            remedy="Allow more drift, or a larger size.",
        )


def _tried(
    allocation: Allocation, model: SourceModel, target: TargetProfile, formats: tuple[Format, ...]
) -> dict[str, int]:
    """What the bundle takes in the app, and what memory it asks for, over all formats the most."""
    plan = _rounded(allocate(model, allocation.recipe(), target, formats))
    sizes = {"--max-size": 0, "--max-memory": 0}
    with tempfile.TemporaryDirectory(prefix="edgeq-plan-") as name:
        directory = Path(name).resolve()
        store = quantize(model, plan, directory / "store")
        for format in formats:
            (directory / format).mkdir()
            artifact = lower(store, target, format, directory / format, SilentProgress())
            golden = Golden(task=model.info.task, tolerance=0.0, cases=())
            with stage(artifact, store, target, golden, directory / "bundle") as staged:
                size = _app_bytes(staged.manifest) + _golden_bytes(staged.manifest)
                sizes["--max-size"] = max(sizes["--max-size"], size)
                sizes["--max-memory"] = max(sizes["--max-memory"], required_bytes(staged.manifest))
    return sizes


def _rounded(plan: Plan) -> Plan:
    """The same schemes by the fastest method: sizes do not depend on it."""
    return replace(
        plan,
        assignments={
            name: assignment if assignment.scheme.is_float else replace(assignment, method=_fastest(assignment.scheme))
            for name, assignment in plan.assignments.items()
        },
    )


def _fastest(scheme: Scheme) -> str:
    return "rtn" if scheme.codebook is None else plain_method(scheme)


def _app_bytes(manifest: Manifest) -> int:
    """The files below the bundle's root, which go into the app."""
    prefix = "" if manifest.root == "." else f"{manifest.root}/"
    return sum(entry.bytes for entry in manifest.files if entry.path.startswith(prefix))


def _golden_bytes(manifest: Manifest) -> int:
    """At most what the golden cases take that a bundle without a reference lacks."""
    return 3072 + CASES * 24 * (manifest.interface.dimension or 0)


def calibration_for(
    model: SourceModel, plan: Plan, text: Path | None, progress: Progress
) -> tuple[tuple[int, ...], ...]:
    """What the plan's methods read: `text`, and what a language model writes itself where there is none or where all
    weights are trained, which wants more than a text has. Encoders take edgeq's sentences only where there is no text:
    with both, all-MiniLM's mean cosine ended at .9924, with the text alone at .9940."""
    if not needs_calibration(plan):
        return ()
    progress.stage("reading calibration text" if text else "writing calibration text")
    own = model.info.task == "text-generation" and trains(plan)
    sequences = CALIBRATION_DOCUMENTS if model.info.task == "text-generation" else CALIBRATION_SENTENCES
    sources = [text, None] if text is not None and own else [text]
    return tuple(
        sequence
        for source in sources
        for sequence in calibration_inputs(
            model.directory,
            model.info,
            source,
            sequences=sequences,
            length=CALIBRATION_TOKENS,
            progress=progress.advance,
        )
    )
