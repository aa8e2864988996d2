"""What changed from OLD to NEW: two bundles, two reports, two builds, or two directories with the same bundles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeq.bundle.manifest import Manifest
from edgeq.core.artifact import WeightLocation
from edgeq.core.comparison import BundlePair, Change, Comparison, Direction, GrowthLimit, SchemeChange
from edgeq.core.report import Report, Verdict
from edgeq.core.scheme import Scheme
from edgeq.errors import UsageError
from edgeq.finding import Found, find_reports


@dataclass(frozen=True, kw_only=True)
class GrowthLimits:
    """How much worse NEW may be than OLD; None: as much as it likes."""

    max_size_growth: GrowthLimit | None = None
    max_memory_growth: GrowthLimit | None = None
    max_drift_growth: GrowthLimit | None = None
    max_slowdown: GrowthLimit | None = None


def _drift(report: Report) -> float | None:
    if report.drift is None:
        return None
    return report.drift.total.distance


@dataclass(frozen=True, kw_only=True)
class _Figure:
    """One row of a comparison: where it is in a report, which way is better, and the limit that it has."""

    name: str
    read: Callable[[Report], float | None]
    better: Direction = "lower"
    limit: Callable[[GrowthLimits], GrowthLimit | None] = lambda _: None


_FIGURES = (
    _Figure(
        name="artifact_bytes", read=lambda report: report.artifact.bytes, limit=lambda limits: limits.max_size_growth
    ),
    _Figure(
        name="peak_dirty_bytes",
        read=lambda report: None if report.memory is None else report.memory.peak_dirty_bytes,
        limit=lambda limits: limits.max_memory_growth,
    ),
    _Figure(name="total_drift", read=_drift, limit=lambda limits: limits.max_drift_growth),
    _Figure(
        name="decode_tokens_per_second",
        read=lambda report: None if report.speed is None else report.speed.decode_tokens_per_second,
        better="higher",
        limit=lambda limits: limits.max_slowdown,
    ),
    _Figure(
        name="latency_ms",
        read=lambda report: None if report.speed is None else report.speed.latency_ms,
        limit=lambda limits: limits.max_slowdown,
    ),
    _Figure(name="load_seconds", read=lambda report: None if report.speed is None else report.speed.load_seconds),
    _Figure(name="bits_per_weight", read=lambda report: report.weights.bits_per_weight),
)


def compare(old: Path, new: Path, limits: GrowthLimits | None = None) -> Comparison:
    """Every figure of both sides, bundle by bundle. A verdict that got worse, or a figure past its limit, fails.

    The cells of builds are paired by their names, other bundles by their path. Raises UsageError where a side holds no
    report, or the two have no name in common, CorruptInputError where a report or a manifest cannot be read.
    """
    limits = limits or GrowthLimits()
    before, after = find_reports(old), find_reports(new)
    if len(before) == len(after) == 1:  # two bundles are a pair, whatever they are called
        before, after = {"": next(iter(before.values()))}, {"": next(iter(after.values()))}
    common = sorted(before.keys() & after.keys())
    if not common:
        raise UsageError(
            f"{old} and {new} have no bundle of the same name.", remedy="Compare two builds of the same matrix."
        )
    pairs = tuple(_pair(name, before[name], after[name], limits) for name in common)
    failed = [pair for pair in pairs if pair.verdict is Verdict.FAILED]
    return Comparison(
        old=str(old),
        new=str(new),
        pairs=pairs,
        removed=tuple(sorted(before.keys() - after.keys())),
        added=tuple(sorted(after.keys() - before.keys())),
        verdict=Verdict.FAILED if failed else Verdict.PASSED,
        reason="; ".join(f"{pair.name}: {pair.reason}" if pair.name else pair.reason for pair in failed),
    )


def _pair(name: str, old: Found, new: Found, limits: GrowthLimits) -> BundlePair:
    changes: tuple[Change, ...] = ()
    if old.report is not None and new.report is not None:
        changes = tuple(_change(figure, old.report, new.report, limits) for figure in _FIGURES)
        changes = tuple(change for change in changes if (change.old, change.new) != (None, None))
    problems = [change.reason for change in changes if change.verdict is Verdict.FAILED]
    if new.report is None:
        problems.append(f"it could not be built: {new.error}")
    elif _rank(new.verdict) < _rank(old.verdict):
        problems.insert(0, f"the verdict was {old.verdict} and is {new.verdict}")
    return BundlePair(
        name=name,
        old_verdict=old.verdict,
        new_verdict=new.verdict,
        changes=changes,
        schemes=_scheme_changes(old.manifest, new.manifest),
        verdict=Verdict.FAILED if problems else Verdict.PASSED,
        reason="; ".join(problems),
    )


def _change(figure: _Figure, old_report: Report, new_report: Report, limits: GrowthLimits) -> Change:
    name, better, limit = figure.name, figure.better, figure.limit(limits)
    old, new = figure.read(old_report), figure.read(new_report)
    verdict, reason = None, ""
    if limit is not None and (old, new) != (None, None):
        if old is None or new is None:
            verdict, reason = Verdict.FAILED, f"{name} has a limit and was measured on one side only"
        elif limit.allows(old, new, better):
            verdict = Verdict.PASSED
        else:
            verdict, reason = (
                Verdict.FAILED,
                f"{name} went from {old:.6g} to {new:.6g}, past {limit.amount:g}{' %' if limit.is_percent else ''}",
            )
    return Change(name=name, old=old, new=new, better=better, limit=limit, verdict=verdict, reason=reason)


def _rank(verdict: Verdict) -> int:
    return (Verdict.FAILED, Verdict.NOT_VALIDATED, Verdict.PASSED).index(verdict)


def _scheme_changes(old: Manifest | None, new: Manifest | None) -> tuple[SchemeChange, ...]:
    if old is None or new is None:
        return ()
    before, after = _labels(old.weights), _labels(new.weights)
    names = [*before, *(name for name in after if name not in before)]
    return tuple(
        SchemeChange(weight=name, old=before.get(name), new=after.get(name))
        for name in names
        if before.get(name) != after.get(name)
    )


def _labels(weights: Mapping[str, WeightLocation]) -> dict[str, str]:
    return {name: _label(location) for name, location in weights.items()}


def _label(location: WeightLocation) -> str:
    return Scheme(
        bits=location.bits,
        group_size=location.group_size,
        symmetric=location.symmetric,
        scale_dtype=location.scale_dtype,
        codebook=location.codebook_kind,
        palette_rows=location.palette_rows,
    ).label()
