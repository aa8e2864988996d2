"""Results on stdout, as lines for people or as one JSON document."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Iterator, Sequence

from edgeq.core.memory_profile import MemoryProfile
from edgeq.core.records import to_plain
from edgeq.core.report import Report
from edgeq.core.target import TargetProfile
from edgeq.reports.columns import print_report, print_target, print_targets
from edgeq.reports.figures import size
from edgeq.reports.memory_profile import memory_profile_text

INDENT = "  "


def line(text: str) -> None:
    """One line of the result."""
    print(text)


def piece(text: str) -> None:
    """A part of a line, at once."""
    print(text, end="", flush=True)


def document(value: object) -> None:
    """A dataclass, or a list of them, as JSON."""
    print(jsonlib.dumps(to_plain(value), indent=2, ensure_ascii=False, allow_nan=False))


def facts(value: object, *, json: bool) -> None:
    """A dataclass as `name  value` lines, nested ones indented; or as JSON."""
    if json:
        document(value)
        return
    for text in _lines(to_plain(value), ""):
        line(text)


def reports(values: Sequence[Report], *, json: bool) -> None:
    """The summary of each report; or the report itself, or a list where there are several."""
    if json:
        document(values[0] if len(values) == 1 else list(values))
        return
    for value in values:
        print_report(value)


def report_with_memory(value: Report, profile: MemoryProfile, *, json: bool) -> None:
    """A report's summary and a memory profile; or one JSON object: the report's, with `memory_profile` beside it."""
    if json:
        document(to_plain(value) | {"memory_profile": to_plain(profile)})
        return
    print_report(value)
    line(f"\n{memory_profile_text(profile)}")


def profiles(values: Sequence[TargetProfile], *, json: bool) -> None:
    """One line per device profile."""
    if json:
        document(list(values))
    else:
        print_targets(values)


def profile(value: TargetProfile, *, json: bool) -> None:
    """Every number of a profile with its source."""
    if json:
        document(value)
    else:
        print_target(value)


def _lines(value: object, indent: str, *, sizes: bool = False) -> Iterator[str]:
    """A JSON object as indented lines; `sizes` says that its numbers are bytes."""
    if not isinstance(value, dict):
        return
    width = max((len(str(key)) for key in value), default=0)
    for key, item in value.items():
        if isinstance(item, dict) and item:
            yield f"{indent}{key}"
            yield from _lines(item, indent + INDENT, sizes="bytes" in key)
        elif isinstance(item, list) and item and isinstance(item[0], dict):
            yield f"{indent}{key}"
            yield from _rows([[_scalar(*cell) for cell in entry.items()] for entry in item], indent + INDENT)
        else:
            yield f"{indent}{key:<{width}}  {_scalar('bytes' if sizes else key, item)}".rstrip()


def _rows(rows: list[list[str]], indent: str) -> Iterator[str]:
    """Cells in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield (indent + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))).rstrip()


def _scalar(name: str, value: object) -> str:
    """One value for people; a name that ends in `bytes` says what a number counts."""
    if value is None or value in ([], {}, ""):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and name.endswith("bytes"):
        return f"{size(value)} ({value:,})"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
