"""The arithmetic of memory by context length, against models whose parts are known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeq.validation.context_memory import (
    bound_of,
    first_highest,
    growth_per_token,
    lengths_to_measure,
    parts_of,
)

MIB = 1 << 20
SIZES = st.integers(0, 1 << 32)


@pytest.mark.parametrize(
    ("context", "lengths"),
    [
        (4096, [32, 161, 813, 4096]),
        (512, [32, 81, 203, 512]),
        (33, [32, 33]),
        (32, [32]),
        (8, [8]),
        (1, [1]),
    ],
)
def test_lengths_grow_by_one_factor_up_to_the_context(context: int, lengths: list[int]) -> None:
    assert lengths_to_measure(context) == lengths


@given(runtime=SIZES, weights=SIZES, cache=SIZES, scratch=SIZES)
def test_the_parts_that_a_peak_was_made_of_are_found(runtime: int, weights: int, cache: int, scratch: int) -> None:
    """The cache comes as the sequence grows."""
    peak = runtime + weights + cache + scratch
    parts = parts_of(peak, runtime=runtime, loaded=runtime + weights, cache=cache)
    assert (parts.runtime, parts.weights, parts.cache, parts.scratch) == (runtime, weights, cache, scratch)


def test_a_cache_that_is_made_while_loading_is_not_counted_twice() -> None:
    parts = parts_of(100, runtime=20, loaded=95, cache=50)
    assert (parts.runtime, parts.weights, parts.cache, parts.scratch) == (20, 30, 50, 0)


@given(peak=SIZES, runtime=SIZES, loaded=SIZES, cache=SIZES)
def test_the_parts_always_add_up(peak: int, runtime: int, loaded: int, cache: int) -> None:
    parts = parts_of(peak, runtime=runtime, loaded=loaded, cache=cache)
    every = (parts.runtime, parts.weights, parts.cache, parts.scratch)
    assert sum(every) == peak
    assert min(every) >= 0


@given(start=st.integers(0, 1 << 30), slope=st.integers(0, 1 << 20), lengths=st.sets(st.integers(1, 4096), min_size=2))
def test_the_slope_of_a_line_is_found(start: int, slope: int, lengths: set[int]) -> None:
    found = growth_per_token([(tokens, start + slope * tokens) for tokens in lengths])
    assert found == pytest.approx(slope, rel=1e-6, abs=1e-3)


def test_the_slope_is_that_of_least_squares() -> None:
    # By hand: tokens 1, 2, 3 and bytes 1, 3, 2 have the means 2 and 2; (-1)(-1) + 0 + (1)(0) over 1 + 0 + 1.
    assert growth_per_token([(1, 1), (2, 3), (3, 2)]) == 0.5


@pytest.mark.parametrize("peaks", [[], [(32, 5)], [(32, 5), (32, 7)]])
def test_one_length_has_no_slope(peaks: list[tuple[int, int]]) -> None:
    assert growth_per_token(peaks) is None


@pytest.mark.parametrize(
    ("fits", "context", "planned", "bound"),
    [
        (3100, 4096, 4096, "memory"),
        (0, 512, 4096, "memory"),
        (512, 512, 4096, "model"),
        (4096, 4096, 4096, "target"),
    ],
)
def test_what_ends_a_context_is_named(fits: int, context: int, planned: int, bound: str) -> None:
    assert bound_of(fits, context_length=context, planned_length=planned) == bound


def test_the_phase_that_made_the_peak_is_named() -> None:
    assert first_highest({"load": 90 * MIB, "prefill": 60 * MIB, "decode": 61 * MIB}) == "load"
    assert first_highest({"load": 30 * MIB, "prefill": 60 * MIB, "decode": 61 * MIB}) == "prefill"
    assert first_highest({"load": 30 * MIB, "prefill": 60 * MIB, "decode": 62 * MIB}) == "decode"
    assert first_highest({}) == ""
