"""Comparison: what changed from one bundle, or build, to another, and whether it grew past its limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeq.core.report import Verdict

Direction = Literal["lower", "higher"]


@dataclass(frozen=True, kw_only=True)
class GrowthLimit:
    """How much worse a figure may get: `amount` in its own unit, or percent of the old value."""

    amount: float
    is_percent: bool

    def allows(self, old: float, new: float, better: Direction) -> bool:
        """Whether a change from `old` to `new` stays within the limit."""
        worse = new - old if better == "lower" else old - new
        return worse <= (abs(old) * self.amount / 100 if self.is_percent else self.amount)


@dataclass(frozen=True, kw_only=True)
class Change:
    """One figure in both; None where one of them was not measured. `verdict` is None where nothing limits it."""

    name: str
    old: float | None
    new: float | None
    better: Direction
    limit: GrowthLimit | None = None
    verdict: Verdict | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class SchemeChange:
    """A weight whose grid is another one; None where only one of the two has the weight."""

    weight: str
    old: str | None
    new: str | None


@dataclass(frozen=True, kw_only=True)
class BundlePair:
    """Two bundles of one name; `name` is "" where there is only one pair. `schemes` is empty where a side is a report
    alone, which does not tell them."""

    name: str
    old_verdict: Verdict
    new_verdict: Verdict
    changes: tuple[Change, ...]
    schemes: tuple[SchemeChange, ...]
    verdict: Verdict
    reason: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All pairs; `removed` and `added` are the names that only one side has."""

    old: str
    new: str
    pairs: tuple[BundlePair, ...]
    removed: tuple[str, ...]
    added: tuple[str, ...]
    verdict: Verdict
    reason: str
