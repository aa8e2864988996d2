"""Bisection against processes whose need is known: exact ones, and ones that need a little more at times."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeq.errors import UsageError
from edgeq.validation.bisection import MOST_GROWTH, Bracket, longest_length, smallest_limit

MIB = 1 << 20


class Process:
    """Survives a limit of at least what it needs; `needs` says what that is each time. Keeps what it was asked."""

    def __init__(self, needs: Iterator[int]) -> None:
        self._needs = needs
        self.asked: list[int] = []

    def survives(self, limit: int) -> bool:
        self.asked.append(limit)
        return limit >= next(self._needs)


def find(
    survives: Callable[[int], bool], *, failing: int, peak: int, tolerance: float = 0.02, repeats: int = 3
) -> Bracket | None:
    return smallest_limit(survives, failing=failing, peak=peak, tolerance=tolerance, finest=MIB // 4, repeats=repeats)


@given(
    need=st.integers(32 * MIB, 4096 * MIB),
    held=st.integers(0, 31 * MIB),
    saved=st.floats(0.3, 1.0),
    tolerance=st.floats(0.005, 0.1),
)
def test_the_smallest_limit_is_found_to_within_the_tolerance(
    need: int, held: int, saved: float, tolerance: float
) -> None:
    """The peak without a limit is at least the need: less memory can do where a runtime gives some back."""
    process = Process(itertools.repeat(need))
    bracket = find(process.survives, failing=held, peak=int(need / saved), tolerance=tolerance)
    assert bracket is not None
    assert bracket.failed < need <= bracket.survived
    assert bracket.survived - bracket.failed <= max(MIB // 4, tolerance * bracket.survived)
    assert process.asked[-2:] == [bracket.survived] * 2
    assert held not in process.asked


def test_few_runs_do() -> None:
    process = Process(itertools.repeat(37 * MIB))
    bracket = find(process.survives, failing=26 * MIB, peak=37 * MIB)
    assert bracket is not None
    # The peak, four halvings of 11 MiB to below 2 % of 37, and two repeats.
    assert len(process.asked) == 1 + 4 + 2


def test_what_survived_by_chance_does_not_count() -> None:
    """Below 42 MiB it runs once, and never again."""
    asked: list[int] = []

    def survives(limit: int) -> bool:
        asked.append(limit)
        return limit >= 42 * MIB or (limit >= 40 * MIB and asked.count(limit) == 1)

    bracket = find(survives, failing=20 * MIB, peak=40 * MIB)
    assert bracket is not None
    assert bracket.failed < 42 * MIB <= bracket.survived
    assert bracket.survived - bracket.failed == MIB // 4
    assert asked.count(bracket.survived) == 3


def test_a_need_above_the_measured_peak_is_reached() -> None:
    process = Process(itertools.repeat(60 * MIB))
    bracket = find(process.survives, failing=20 * MIB, peak=40 * MIB)
    assert bracket is not None
    assert bracket.failed < 60 * MIB <= bracket.survived < 62 * MIB
    failed = 0
    for limit in process.asked:  # never below what failed once
        assert limit > failed
        failed = max(failed, limit if limit < 60 * MIB else 0)


def test_what_never_survives_has_no_smallest_limit() -> None:
    process = Process(itertools.repeat(1000 * MIB))
    assert find(process.survives, failing=20 * MIB, peak=40 * MIB) is None
    assert max(process.asked) <= MOST_GROWTH * 40 * MIB
    assert len(process.asked) < 40


def test_what_fails_again_and_again_has_no_smallest_limit() -> None:
    """It survives only the first time at each limit."""
    seen: set[int] = set()

    def survives(limit: int) -> bool:
        is_new = limit not in seen
        seen.add(limit)
        return is_new

    assert find(survives, failing=20 * MIB, peak=40 * MIB, repeats=2) is None


@pytest.mark.parametrize(
    ("failing", "peak", "tolerance", "repeats"),
    [(40, 40, 0.02, 1), (50, 40, 0.02, 1), (-1, 40, 0.02, 1), (0, 40, 0.0, 1), (0, 40, 0.02, 0)],
)
def test_bounds_without_anything_between_them_are_refused(
    failing: int, peak: int, tolerance: float, repeats: int
) -> None:
    with pytest.raises(UsageError, match="Nothing lies between"):
        find(lambda limit: True, failing=failing, peak=peak, tolerance=tolerance, repeats=repeats)


@given(longest=st.integers(0, 9999), failing=st.integers(1, 10000), tolerance=st.floats(0.001, 0.1))
def test_the_longest_length_is_found_to_within_the_tolerance(longest: int, failing: int, tolerance: float) -> None:
    longest = min(longest, failing - 1)
    bracket = longest_length(lambda tokens: tokens <= longest, fitting=0, failing=failing, tolerance=tolerance)
    assert bracket.survived <= longest < bracket.failed
    assert bracket.failed - bracket.survived <= max(1, tolerance * bracket.survived)


def test_a_length_that_fails_must_be_longer() -> None:
    with pytest.raises(UsageError, match="not longer"):
        longest_length(lambda tokens: True, fitting=64, failing=64, tolerance=0.02)
