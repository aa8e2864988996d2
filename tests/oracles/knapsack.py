"""The multiple-choice knapsack by trying every choice."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from edgeq.quantization.knapsack import Option


def least_cost(units: Sequence[Sequence[Option]], budget: float) -> float | None:
    """The least sum of costs whose weights stay within `budget`, or None where no choice does."""
    fitting = [
        sum(option.cost for option in choice)
        for choice in product(*units)
        if sum(option.weight for option in choice) <= budget
    ]
    return min(fitting, default=None)
