"""Whole processes measured by the kernel, and tables of medians with ratios."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Of one process and the children that it waited for; `peak_rss_bytes` is that of the largest of them."""

    wall_seconds: float
    cpu_seconds: float
    peak_rss_bytes: int


def measure_process(command: Sequence[str], *, cwd: Path) -> Usage:
    """Run a command to its end. Whoever calls this must be small: a child inherits its parent's peak RSS.

    Raises CalledProcessError with what the command wrote.
    """
    with tempfile.TemporaryFile() as log:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=cwd)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            raise subprocess.CalledProcessError(process.returncode, command, log.read())
    return Usage(wall_seconds=wall, cpu_seconds=usage.ru_utime + usage.ru_stime, peak_rss_bytes=usage.ru_maxrss * 1024)


@dataclass(frozen=True, kw_only=True)
class Row:
    """Repeated values of one measurement for edgeq and for its peer, in `unit`."""

    name: str
    unit: str
    edgeq: Sequence[float]
    peer: Sequence[float]


def markdown_table(rows: Sequence[Row], *, peer: str) -> str:
    """Medians side by side, their ratio, and the range of the ratios of runs that were neighbours in time."""
    lines = [f"| | edgeq | {peer} | ratio | of pairs |", "|---|---:|---:|---:|---:|"]
    for row in rows:
        ours, theirs = median(row.edgeq), median(row.peer)
        pairs = [mine / other for mine, other in zip(row.edgeq, row.peer, strict=True)]
        spread = f"{min(pairs):.2f} to {max(pairs):.2f}"
        lines.append(
            f"| {row.name} | {ours:,.2f} {row.unit} | {theirs:,.2f} {row.unit} | {ours / theirs:.2f} | {spread} |"
        )
    return "\n".join(lines)
