"""A comparison for people: as text of 80 columns and as Markdown for a pull request."""

from __future__ import annotations

from edgeq.core.comparison import BundlePair, Change, Comparison, GrowthLimit
from edgeq.core.report import Verdict
from edgeq.reports.figures import VERDICT_WORDS, number, size
from edgeq.reports.markdown import MARKS, as_text, markdown_table

COLUMNS = ("figure", "old", "new", "change", "limit", "verdict")
MOST_SCHEMES = 20
"""Changed weights that are listed; a whole model's would drown the rest."""


def comparison_text(comparison: Comparison) -> str:
    """The whole answer."""
    lines = []
    for pair in comparison.pairs:
        lines += [pair.name] if pair.name else []
        lines += _aligned([COLUMNS, *_rows(pair)])
        lines += [f"  {line}" for line in _scheme_lines(pair)]
        lines.append("")
    lines += [f"only in old: {name}" for name in comparison.removed]
    lines += [f"only in new: {name}" for name in comparison.added]
    reason = f": {comparison.reason}" if comparison.reason else ""
    return "\n".join([*lines, f"verdict  {VERDICT_WORDS[comparison.verdict]}{reason}"])


def comparison_markdown(comparison: Comparison) -> str:
    """Short enough for a comment: one table for each pair."""
    reason = f": {as_text(comparison.reason)}" if comparison.reason else ""
    parts = ["# Changes", f"**{MARKS[comparison.verdict]} {VERDICT_WORDS[comparison.verdict]}**{reason}"]
    for pair in comparison.pairs:
        mark = f" {MARKS[pair.verdict]}"
        parts += [f"## {as_text(pair.name)}{mark}"] if pair.name else []
        parts.append(markdown_table(COLUMNS, _rows(pair), right=(1, 2, 3, 4)))
        parts += ["\n".join(f"- {as_text(line)}" for line in _scheme_lines(pair))] if pair.schemes else []
    gone = [f"- only in old: {as_text(name)}" for name in comparison.removed]
    gone += [f"- only in new: {as_text(name)}" for name in comparison.added]
    parts += ["\n".join(gone)] if gone else []
    return "\n\n".join(parts) + "\n"


def _rows(pair: BundlePair) -> list[tuple[str, ...]]:
    rows = [_row(change) for change in pair.changes]
    old, new = VERDICT_WORDS[pair.old_verdict], VERDICT_WORDS[pair.new_verdict]
    worse = pair.reason.startswith("the verdict was")
    return [*rows, ("verdict", old, new, "", "", VERDICT_WORDS[Verdict.FAILED] if worse else "")]


def _row(change: Change) -> tuple[str, ...]:
    verdict = "" if change.verdict is None else VERDICT_WORDS[change.verdict]
    values = (_value(change.name, change.old), _value(change.name, change.new))
    return (change.name, *values, _difference(change), _limit(change.name, change.limit), verdict)


def _value(name: str, value: float | None) -> str:
    return size(value) if name.endswith("bytes") and value is not None else number(value)


def _difference(change: Change) -> str:
    if change.old is None or change.new is None:
        return "-"
    if change.old == change.new:
        return "same"
    if change.old == 0:
        return f"+{_value(change.name, change.new)}"
    return f"{100 * (change.new / change.old - 1):+.1f} %"


def _limit(name: str, limit: GrowthLimit | None) -> str:
    if limit is None:
        return ""
    return f"{limit.amount:g} %" if limit.is_percent else _value(name, limit.amount)


def _scheme_lines(pair: BundlePair) -> list[str]:
    lines = [f"{one.weight}: {one.old or 'absent'} -> {one.new or 'absent'}" for one in pair.schemes[:MOST_SCHEMES]]
    left = len(pair.schemes) - len(lines)
    return [*lines, *([f"and {left} more weights"] if left else [])]


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if 0 < index < len(row) - 1 else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
