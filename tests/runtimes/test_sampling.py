"""Choosing tokens."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from edgeq.errors import UsageError
from edgeq.runtimes.sampling import check_sampling, choose_token

LOGITS = np.log(np.array([0.5, 0.3, 0.15, 0.05], dtype=np.float32))


def draw(temperature: float, top_p: float, count: int = 2000) -> Counter[int]:
    rng = np.random.default_rng(0)
    return Counter(choose_token(LOGITS, temperature=temperature, top_p=top_p, rng=rng) for _ in range(count))


def test_temperature_zero_takes_the_first_of_the_largest() -> None:
    logits = np.array([1.0, 3.0, 3.0], dtype=np.float32)
    assert choose_token(logits, temperature=0.0, top_p=1.0, rng=np.random.default_rng(0)) == 1


def test_temperature_one_follows_the_distribution() -> None:
    counts = draw(1.0, 1.0)
    assert [counts[token] / 2000 for token in range(4)] == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)


def test_temperature_sharpens() -> None:
    counts = draw(0.5, 1.0)
    squares = np.array([0.25, 0.09, 0.0225, 0.0025])
    assert [counts[token] / 2000 for token in range(4)] == pytest.approx(list(squares / squares.sum()), abs=0.03)


@pytest.mark.parametrize(("top_p", "kept"), [(0.4, {0}), (0.6, {0, 1}), (0.9, {0, 1, 2}), (1.0, {0, 1, 2, 3})])
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p: float, kept: set[int]) -> None:
    assert set(draw(1.0, top_p)) == kept


def test_large_logits_do_not_overflow() -> None:
    logits = np.array([-1e30, 1e30, 0.0], dtype=np.float32)
    assert choose_token(logits, temperature=0.01, top_p=1.0, rng=np.random.default_rng(0)) == 1


@pytest.mark.parametrize(
    ("temperature", "top_p"),
    [(-1.0, 1.0), (float("nan"), 1.0), (float("inf"), 1.0), (1.0, 0.0), (1.0, 1.1), (1.0, float("nan"))],
)
def test_settings_without_meaning_are_refused(temperature: float, top_p: float) -> None:
    with pytest.raises(UsageError):
        check_sampling(temperature, top_p)


def test_useful_settings_are_accepted() -> None:
    check_sampling(0.0, 1.0)
    check_sampling(0.7, 0.9)
