"""The exact knapsack against trying every choice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.errors import UsageError
from edgeq.quantization.knapsack import Option, solve
from tests.oracles.knapsack import least_cost

numbers = st.one_of(st.integers(0, 20).map(float), st.floats(0, 1e3), st.sampled_from([1e-17, 1e-9, 1.0]))
options = st.builds(lambda weight, cost: Option(weight=weight, cost=cost), weight=st.integers(0, 20), cost=numbers)
instances = st.lists(st.lists(options, min_size=1, max_size=5), min_size=1, max_size=5)


@settings(max_examples=300, deadline=None)
@given(units=instances, budget=st.integers(0, 80))
def test_no_choice_is_better(units: list[list[Option]], budget: int) -> None:
    least = least_cost(units, budget)
    if least is None:
        with pytest.raises(UsageError, match="lightest"):
            solve(units, budget)
        return
    chosen = [options[index] for options, index in zip(units, solve(units, budget), strict=True)]
    assert sum(option.weight for option in chosen) <= budget
    assert sum(option.cost for option in chosen) == pytest.approx(least, rel=1e-9, abs=1e-12 * _largest(units))


def test_two_hundred_units_of_a_dozen_options() -> None:
    random = np.random.default_rng(0)
    units = []
    for _ in range(200):
        weights, sensitivity = int(random.choice([442_368, 589_824, 1_769_472])), random.lognormal()
        units.append(
            [
                Option(
                    weight=int(weights * (bits + (32 + bits) / group) / 8),
                    cost=sensitivity * 4.0**-bits * group**0.3 * random.lognormal(sigma=0.1),
                )
                for bits in (2, 3, 4, 8)
                for group in (32, 64, 128)
            ]
        )
    least, most = (sum(pick(option.weight for option in options) for options in units) for pick in (min, max))
    budget = (least + most) / 2
    chosen = [options[index] for options, index in zip(units, solve(units, budget), strict=True)]
    used = sum(option.weight for option in chosen)
    assert 0.999 * budget <= used <= budget
    swaps = [
        (options[i].weight - pick.weight, pick.cost - options[i].cost)
        for options, pick in zip(units, chosen, strict=True)
        for i in range(len(options))
    ]
    assert not any(more <= budget - used and less > 1e-12 for more, less in swaps)


def _largest(units: list[list[Option]]) -> float:
    return sum(max(option.cost for option in options) for options in units) + 1.0
