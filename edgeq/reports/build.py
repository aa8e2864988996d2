"""A whole build for people: as a table of 80 columns and as Markdown for a job summary; and `build.json` read back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from edgeq.core.build import BUILD_SCHEMA, Build, CellResult
from edgeq.core.records import from_plain
from edgeq.core.report import Gate, Report, Verdict
from edgeq.errors import CorruptInputError, UsageError
from edgeq.reports import figures
from edgeq.reports.figures import VERDICT_WORDS
from edgeq.reports.markdown import MARKS, as_text, markdown_table

COLUMNS = ("cell", "files", "memory", "drift", "tokens/s", "verdict")
NUMBERS = range(1, 5)


def read_build(path: Path) -> Build:
    """What `edgeq build` wrote. Raises UsageError where there is no such file, CorruptInputError where it is none."""
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}).", remedy="Name a build.json.") from error
    except (ValueError, RecursionError):
        raise CorruptInputError(f"{path} is not JSON.", remedy="Run edgeq build again.") from None
    if not isinstance(data, dict) or data.get("schema") != BUILD_SCHEMA:
        raise CorruptInputError(f"{path} is not of schema {BUILD_SCHEMA}.", remedy="Run edgeq build again.")
    return from_plain(Build, data, path.name)


def build_text(build: Build) -> str:
    """A line per cell, then why those that did not pass did not, and the verdict."""
    lines = _aligned([COLUMNS, *(_row(cell) for cell in build.cells)])
    reasons = [f"  {line}" for cell in build.cells for line in _remarks(cell)]
    if reasons:
        lines += ["", *reasons]
    return "\n".join([*lines, "", f"verdict  {_verdict(build)}"])


def build_markdown(build: Build) -> str:
    """A table of all cells, and the gates of those that failed; short enough for a job summary."""
    parts = ["# Bundles", f"**{MARKS[build.verdict]} {_verdict(build)}**"]
    rows = [(as_text(cell.name), *_figures(cell), _marked(cell)) for cell in build.cells]
    parts.append(markdown_table(COLUMNS, rows, right=NUMBERS))
    for cell in build.cells:
        remarks = [f"- {as_text(line)}" for line in _remarks(cell, named=False)]
        if remarks:
            parts += [f"## {as_text(cell.name)} {_mark(cell)}", "\n".join(remarks)]
    parts.append(
        f"Drift: mean KL divergence in nats per token, for encoders 1 - mean cosine. edgeq {build.edgeq_version}"
    )
    return "\n\n".join(parts) + "\n"


def _verdict(build: Build) -> str:
    """The verdict and how many cells came to what."""
    counts = {words: sum(_word(cell) == words for cell in build.cells) for words in _WORDS}
    told = ", ".join(f"{count} {words}" for words, count in counts.items() if count)
    reused = sum(cell.reused for cell in build.cells)
    return f"{VERDICT_WORDS[build.verdict]}: {told}" + (f"; {reused} reused" if reused else "")


_ERROR = "error"
_WORDS = (*VERDICT_WORDS.values(), _ERROR)


def _word(cell: CellResult) -> str:
    return _ERROR if cell.error else VERDICT_WORDS[cell.verdict]


def _mark(cell: CellResult) -> str:
    return MARKS[Verdict.NOT_VALIDATED] if cell.warnings and cell.verdict is Verdict.PASSED else MARKS[cell.verdict]


def _marked(cell: CellResult) -> str:
    return " ".join(filter(None, (_mark(cell), _word(cell), "(reused)" if cell.reused else "")))


def _row(cell: CellResult) -> tuple[str, ...]:
    return (cell.name, *_figures(cell), _word(cell) + (", reused" if cell.reused else ""))


def _figures(cell: CellResult) -> tuple[str, ...]:
    report = cell.report
    if report is None:
        return ("-",) * len(NUMBERS)
    return (
        figures.size(report.artifact.bytes),
        "-" if report.memory is None else figures.size(report.memory.peak_dirty_bytes),
        _drift(report),
        figures.number(None if report.speed is None else report.speed.decode_tokens_per_second),
    )


def _drift(report: Report) -> str:
    if report.drift is None:
        return "-"
    return figures.number(report.drift.total.distance)


def _remarks(cell: CellResult, *, named: bool = True) -> Iterator[str]:
    """What is wrong with a cell, and what its budgets warn of."""
    prefix = f"{cell.name}: " if named else ""
    if cell.error:
        yield f"{prefix}{cell.error}"
        return
    failed = [gate for gate in cell.gates() if gate.verdict is Verdict.FAILED]
    for gate in failed:
        yield f"{prefix}{_told(gate)}"
    if not failed and cell.reason:
        yield f"{prefix}{cell.reason}"
    for gate in cell.warnings:
        yield f"{prefix}warning: {_told(gate)}"


def _told(gate: Gate) -> str:
    value, limit, _ = figures.gate_cells(gate)
    return f"{gate.name}: {gate.reason or f'{value}, limit {limit}'}"


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if index in NUMBERS else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
