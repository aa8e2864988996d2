"""The smallest limit that something survives, and the longest length that does: by bisection, from a few costly runs
that may say otherwise next time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgeq.errors import UsageError

Survives = Callable[[int], bool]
GROWTH = 1.05
"""Where the first limit fails, the next one is larger by so much."""
MOST_GROWTH = 4
"""The largest limit that is tried, over the measured peak."""


@dataclass(frozen=True, kw_only=True)
class Bracket:
    """survived: the value nearest to `failed` that survived. failed: the value nearest to it that did not."""

    survived: int
    failed: int


def smallest_limit(
    survives: Survives, *, failing: int, peak: int, tolerance: float, finest: int, repeats: int
) -> Bracket | None:
    """The smallest limit that survives `repeats` times of as many, to within `tolerance` (a fraction of it) or
    `finest`, whichever is more; None where not even MOST_GROWTH times the peak does.

    failing: a limit that cannot survive, and is not tried. peak: what was held without a limit; tried first with
    `finest` on top, as two runs differ by about that. Raises UsageError for bounds that leave nothing between them.
    """
    if not 0 <= failing < peak or tolerance <= 0 or finest < 1 or repeats < 1:
        raise UsageError(
            f"Nothing lies between a limit of {failing} and one of {peak} bytes.", remedy="Give a peak above it."
        )

    def step(limit: int) -> int:
        return max(finest, int(tolerance * limit))

    most = max(MOST_GROWTH * peak, peak + finest)
    bracket = _reach(survives, failing, peak + finest, most)
    if bracket is None:
        return None
    return _confirm(survives, _narrow(survives, bracket, step), finest, repeats=repeats, most=most)


def longest_length(fits: Survives, *, fitting: int, failing: int, tolerance: float) -> Bracket:
    """The longest length that fits, to within `tolerance` (a fraction of it) or 1. fitting: one that fits, or 0.
    failing: a longer one that does not. Raises UsageError where it is not longer."""
    if not 0 <= fitting < failing:
        raise UsageError(f"{failing} is not longer than {fitting}.", remedy="Give a longer one that does not fit.")
    bracket = Bracket(survived=fitting, failed=failing)
    return _narrow(fits, bracket, lambda length: max(1, int(tolerance * length)))


def _reach(survives: Survives, failing: int, limit: int, most: int) -> Bracket | None:
    """The first limit from `limit` up that survives, None where none up to `most` does."""
    while limit <= most:
        if survives(limit):
            return Bracket(survived=limit, failed=failing)
        failing, limit = limit, max(limit + 1, int(GROWTH * limit))
    return None


def _narrow(survives: Survives, bracket: Bracket, step: Callable[[int], int]) -> Bracket:
    """Halve what lies between until it is no more than a step."""
    good, bad = bracket.survived, bracket.failed
    while abs(good - bad) > step(good):
        middle = (good + bad) // 2
        if survives(middle):
            good = middle
        else:
            bad = middle
    return Bracket(survived=good, failed=bad)


def _confirm(survives: Survives, bracket: Bracket, step: int, *, repeats: int, most: int) -> Bracket | None:
    """Repeat what survived once; go up by `step` where it does not again."""
    good, bad, count = bracket.survived, bracket.failed, 1
    while count < repeats:
        if survives(good):
            count += 1
            continue
        good, bad, count = good + step, good, 0
        if good > most:
            return None
    return Bracket(survived=good, failed=bad)
