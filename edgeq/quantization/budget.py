"""Allocation under a budget: the knapsack over measured sensitivities, and the recipe that it comes to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from glob import escape
from itertools import zip_longest

from edgeq.core.model import ModelInfo
from edgeq.core.recipe import Plan, Recipe, Rule
from edgeq.core.scheme import Scheme
from edgeq.core.target import Format, TargetProfile
from edgeq.progress import Advance
from edgeq.quantization import sensitivity
from edgeq.quantization.allocate import allocate
from edgeq.quantization.candidates import Candidate, Unit, is_choosable, unit
from edgeq.quantization.knapsack import Option, solve
from edgeq.quantization.observation import Subject, observe
from edgeq.quantization.stage import FloatModel
from edgeq.targets.formats import FORMATS

OBSERVED_SEQUENCES = 16
MEASURED_SEQUENCES = 8
MEASURED_LENGTH = 64
LEAST_DRIFT = 1e-9
"""What a unit costs at least: less than this is noise, and equal costs would leave the bytes to chance."""
REST_BITS = 8
"""For matrices that the observation never saw."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """All that an allocation decides about. costs: per unit and candidate, the divergence that it adds. rest_bytes: of
    the weights that it does not decide about. is_measured: costs were measured, not predicted from gradients alone."""

    units: tuple[Unit, ...]
    costs: sensitivity.Costs
    rest_bytes: int
    recipe: Recipe
    is_measured: bool

    @property
    def least_bytes(self) -> int:
        """Of all weights with the smallest candidates."""
        return self.rest_bytes + sum(min(option.bytes for option in unit.candidates) for unit in self.units)

    @property
    def most_bytes(self) -> int:
        """Of all weights with the largest candidates that are worth it."""
        return self.allocation(tuple(min(range(len(c)), key=c.__getitem__) for c in self.costs)).bytes

    @property
    def least_drift(self) -> float:
        """With the best candidates."""
        return sum(map(min, self.costs))

    def allocation(self, chosen: Sequence[int]) -> Allocation:
        """From an index per unit to bytes, drift and schemes."""
        picked = tuple(unit.candidates[index] for unit, index in zip(self.units, chosen, strict=True))
        drift = sum(cost[index] for cost, index in zip(self.costs, chosen, strict=True))
        used = self.rest_bytes + sum(candidate.bytes for candidate in picked)
        return Allocation(choices=self, picked=picked, bytes=used, drift=drift)


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """One choice for every unit. bytes: of all weights in the model's file. drift: predicted sum, in nats per token or
    1 - cosine; a method with calibration ends below it."""

    choices: Choices
    picked: tuple[Candidate, ...]
    bytes: int
    drift: float

    def recipe(self) -> Recipe:
        """One rule per weight, in the order of the units; the rest of the recipe is the user's."""
        rules = [
            Rule(tensors=escape(name), scheme=candidate.scheme, method=candidate.method)
            for unit, candidate in zip(self.choices.units, self.picked, strict=True)
            for name in unit.tensors
        ]
        return replace(self.choices.recipe, bits=REST_BITS, rules=(*rules, *self.choices.recipe.rules))

    def schemes(self) -> dict[str, Scheme]:
        """By stored name."""
        pairs = zip(self.choices.units, self.picked, strict=True)
        return {name: candidate.scheme for unit, candidate in pairs for name in unit.tensors}

    def parameters_by_scheme(self, info: ModelInfo) -> dict[str, int]:
        """How many weights each scheme gets, by its label, the most first."""
        counts: dict[str, int] = {}
        for name, scheme in self.schemes().items():
            counts[scheme.label()] = counts.get(scheme.label(), 0) + math.prod(info.weights[name].shape)
        return dict(sorted(counts.items(), key=lambda item: -item[1]))


def choices(
    model: FloatModel,
    recipe: Recipe,
    target: TargetProfile,
    formats: tuple[Format, ...],
    *,
    sequences: Sequence[Sequence[int]],
    progress: Advance | None = None,
) -> Choices:
    """Units of linears that share an input, tables and the head, each with the candidates that `formats` hold and what
    they cost on `sequences`. What `recipe` fixes stays fixed; weights that its rules name are not decided about.

    The whole float model is in memory, float32, with inputs and gradients of 1,024 tokens. Raises UnsupportedModelError
    and CorruptInputError where it does not load.
    """
    subject = Subject(model.directory, model.info)
    observation = observe(subject, sequences[:OBSERVED_SEQUENCES])
    bound = _named_by_rules(model.info, recipe)
    groups = [tuple(name for name in group if name not in bound) for group in observation.groups]
    groups = [group for group in groups if group and all(is_choosable(model.info.weights[name]) for name in group)]
    units = tuple(_unit(group, model.info, recipe, target, formats) for group in groups)
    costs = sensitivity.predicted(subject, units, observation, progress)
    shortened = [sequence[:MEASURED_LENGTH] for sequence in sequences[:MEASURED_SEQUENCES]]
    if model.info.task == "feature-extraction":
        shortened = list(sequences)
    is_measured = sensitivity.direct_work(subject, units, shortened) <= sensitivity.DIRECT_WORK
    if is_measured:
        costs = sensitivity.measured(subject, units, costs, shortened, progress)
    decided = {name for group in groups for name in group}
    plan = allocate(model, replace(recipe, bits=REST_BITS), target, formats)
    rest = max(_rest_bytes(model, plan, decided, target, format) for format in formats)
    return Choices(units=units, costs=_audible(units, costs), rest_bytes=rest, recipe=recipe, is_measured=is_measured)


def best_within(choices: Choices, limit: int) -> Allocation:
    """The least drift of all choices whose weights take at most `limit` bytes.

    Raises UsageError where there is none; the least size is `choices.least_bytes`.
    """
    units = [
        [Option(weight=candidate.bytes, cost=cost) for candidate, cost in zip(unit.candidates, costs, strict=True)]
        for unit, costs in zip(choices.units, choices.costs, strict=True)
    ]
    return choices.allocation(solve(units, limit - choices.rest_bytes))


def smallest_within(choices: Choices, drift: float) -> Allocation:
    """The fewest bytes of all choices whose predicted drift is at most `drift`.

    Raises UsageError where there is none; the least drift is `choices.least_drift`.
    """
    units = [
        [Option(weight=cost, cost=candidate.bytes) for candidate, cost in zip(unit.candidates, costs, strict=True)]
        for unit, costs in zip(choices.units, choices.costs, strict=True)
    ]
    return choices.allocation(solve(units, drift))


def frontier(choices: Choices, points: int = 12) -> tuple[Allocation, ...]:
    """The best allocations for sizes from the least to the most, each once, by rising bytes."""
    least, most = choices.least_bytes, choices.most_bytes
    steps = [least + round((most - least) * (index / (points - 1)) ** 2) for index in range(points)]
    found = {allocation.bytes: allocation for allocation in (best_within(choices, step) for step in steps)}
    return tuple(found[size] for size in sorted(found))


def _unit(
    group: tuple[str, ...], info: ModelInfo, recipe: Recipe, target: TargetProfile, formats: tuple[Format, ...]
) -> Unit:
    return unit(_common_name(group), group, info, recipe, target=target, formats=formats)


def _common_name(names: tuple[str, ...]) -> str:
    """`layers.0.attn.q_proj.weight`, `...k_proj.weight` -> `layers.0.attn.q_proj+k_proj`."""
    pieces = [name.removesuffix(".weight").split(".") for name in names]
    columns = zip_longest(*pieces, fillvalue="")
    return ".".join(column[0] if len(set(column)) == 1 else "+".join(column) for column in columns)


def _audible(units: Sequence[Unit], costs: sensitivity.Costs) -> sensitivity.Costs:
    """Costs of at least LEAST_DRIFT, less with more bits: where nothing is heard, more bits are still better."""
    return tuple(
        tuple(
            max(cost, LEAST_DRIFT * 2.0**-candidate.scheme.bits)
            for candidate, cost in zip(unit.candidates, row, strict=True)
        )
        for unit, row in zip(units, costs, strict=True)
    )


def _rest_bytes(model: FloatModel, plan: Plan, decided: set[str], target: TargetProfile, format: Format) -> int:
    """What all weights take that no unit has: float32, or what the recipe's rules and defaults give them."""
    total = 0
    for name, weight in model.info.weights.items():
        scheme = plan.scheme(name)
        if name in decided:
            continue
        if scheme is None:
            total += 4 * math.prod(weight.shape)
        else:
            is_tied = name in model.info.tied.values()
            total += FORMATS[format].held_bytes(weight, scheme, target.accuracy_level, is_tied)
    return total


def _named_by_rules(info: ModelInfo, recipe: Recipe) -> set[str]:
    """Weights that a rule names, by their stored or tied names."""
    names = [(name, name) for name in info.weights] + list(info.tied.items())
    return {stored for name, stored in names for rule in recipe.rules if fnmatchcase(name, rule.tensors)}
