"""The multiple-choice knapsack, solved exactly: one option per unit, a budget for the weights, the least cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from edgeq.errors import UsageError

Floats = npt.NDArray[np.float64]
ROUNDING = 1e-12
"""What adding costs in another order may change, relative to the cost of all lightest options."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """One way to store a unit: what it takes of the budget, and what it costs. Both are finite and not negative."""

    weight: float
    cost: float


def solve(units: Sequence[Sequence[Option]], budget: float) -> tuple[int, ...]:
    """The index of the chosen option of each unit: sum of weights at most `budget`, sum of costs least of all choices.

    Partial choices are extended unit by unit; of those with more weight and no less cost, and of those that even with a
    continuous rest could not beat the best known choice, nothing is kept. Sums of integers below 2**53 are exact.
    Raises UsageError where even the lightest options are over the budget.
    """
    pruned = [_undominated(options) for options in units]
    lightest = sum(options[0][0] for options in pruned)
    if lightest > budget:
        raise UsageError(f"The lightest options weigh {lightest:g}, more than {budget:g}.", remedy="Raise the budget.")
    rests = _rests(pruned)
    weight, cost = np.zeros(1), np.zeros(1)
    trace: list[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]] = []
    best = rests[0].rounded(budget)
    slack = ROUNDING * float(rests[0].costs[0])
    for options, rest in zip(pruned, rests[1:], strict=True):
        weights, costs = (np.array([option[column] for option in options]) for column in (0, 1))
        total = (weight[:, None] + weights).ravel()
        price = (cost[:, None] + costs).ravel()
        bound = price + rest.bound(budget - total)
        if np.isfinite(bound).any():
            leader = int(bound.argmin())
            best = min(best, price[leader] + rest.rounded(budget - total[leader]))
        kept = _frontier(total, price, np.flatnonzero(bound <= best + slack))
        weight, cost = total[kept], price[kept]
        trace.append((kept // len(options), kept % len(options)))
    return _walked(trace, pruned, int(cost.argmin()))


def _walked(
    trace: list[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]],
    pruned: list[list[tuple[float, float, int]]],
    state: int,
) -> tuple[int, ...]:
    """From the last choice back to the first."""
    chosen = []
    for (parents, options), candidates in zip(reversed(trace), reversed(pruned), strict=True):
        chosen.append(candidates[options[state]][2])
        state = int(parents[state])
    return tuple(reversed(chosen))


def _undominated(options: Sequence[Option]) -> list[tuple[float, float, int]]:
    """`(weight, cost, index)` with rising weight and falling cost."""
    ordered = sorted((option.weight, option.cost, index) for index, option in enumerate(options))
    kept = ordered[:1]
    for candidate in ordered[1:]:
        if candidate[1] < kept[-1][1]:
            kept.append(candidate)
    return kept


def _frontier(weight: Floats, cost: Floats, among: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Indices of what is lighter than everything that costs as little, by rising weight."""
    order = among[np.lexsort((cost[among], weight[among]))]
    before = np.minimum.accumulate(cost[order])
    better = np.ones(len(order), bool)
    better[1:] = cost[order][1:] < before[:-1]
    return order[better]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Rest:
    """The units that are still open, as if options could be mixed: cumulative `weights` above `lightest` and falling
    `costs`, from all lightest options on, steepest steps first."""

    lightest: float
    weights: Floats
    costs: Floats

    def bound(self, budgets: Floats) -> Floats:
        """No choice within each of `budgets` costs less; infinite where none fits."""
        spare = budgets - self.lightest
        return np.where(spare < 0, np.inf, np.interp(spare, self.weights, self.costs))

    def rounded(self, budget: float) -> float:
        """The cost of one choice that fits: all steps up to the first that does not."""
        if budget < self.lightest:
            return np.inf
        return float(self.costs[np.searchsorted(self.weights, budget - self.lightest, side="right") - 1])


def _rests(pruned: list[list[tuple[float, float, int]]]) -> list[_Rest]:
    """What is open before each unit, and after the last one."""
    rests = [_Rest(lightest=0.0, weights=np.zeros(1), costs=np.zeros(1))]
    steps: list[tuple[float, float, float]] = []
    lightest = dearest = 0.0
    for options in reversed(pruned):
        lightest, dearest = lightest + options[0][0], dearest + options[0][1]
        hull = _hull(options)
        for (weight, cost), (next_weight, next_cost) in pairwise(hull):
            rise, fall = next_weight - weight, cost - next_cost
            steps.append((-fall / rise, rise, fall))
        steps.sort()
        weights, falls = (np.cumsum([0.0, *(step[column] for step in steps)]) for column in (1, 2))
        rests.append(_Rest(lightest=lightest, weights=weights, costs=np.maximum(dearest - falls, 0.0)))
    return rests[::-1]


def _hull(options: list[tuple[float, float, int]]) -> list[tuple[float, float]]:
    """The lower convex hull of rising weights and falling costs."""
    hull: list[tuple[float, float]] = []
    for weight, cost, _ in options:
        while len(hull) > 1:
            (w0, c0), (w1, c1) = hull[-2:]
            if (c1 - c0) * (weight - w0) < (cost - c0) * (w1 - w0):
                break
            hull.pop()
        hull.append((weight, cost))
    return hull
