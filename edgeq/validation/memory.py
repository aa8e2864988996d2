"""Running a child under a memory limit, and measuring what it holds: the limit kills, edgeq only reports."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TextIO

from edgeq.validation.limits import DataLimit, Limit, backends, open_limit
from edgeq.validation.meter import TreeMeter, descendants, process_sample

SAMPLE_SECONDS = 0.005
MEMORY_REFUSED = 87
"""Exit code of a child that was refused memory and could still say so."""
DISK_FULL = 88
"""Exit code of a child whose answers found no room."""
REFUSALS = (
    "MemoryError",
    "bad_alloc",
    "bad allocation",
    "Cannot allocate memory",
    "Failed to allocate memory",
    "Memory allocation still failed",
    "pthread_create failed",
)
Ending = Literal["exit", "limit", "refused", "timeout"]
_HOLD = "import os, sys; os.read(0, 1); os.execv(sys.argv[1], sys.argv[1:])"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a child ended. Bytes; `phases` maps each announced phase to its own peak of dirty memory, in order.

    `survived` is False where the limit ended it. `failure` says in words how it ended, "" for exit code 0.
    """

    returncode: int
    peak_dirty_bytes: int
    peak_rss_bytes: int
    limit_bytes: int
    backend: str
    survived: bool
    failure: str
    phases: dict[str, int] = field(default_factory=dict)


def available_backends() -> list[tuple[str, bool, str]]:
    """`(name, usable, why)` of each memory limit, the preferred first; for `edgeq doctor`."""
    return [(backend.name, backend.usable, backend.why) for backend in backends()]


def announce(phases: Path, name: str) -> None:
    """Called by the child: the phase `name` begins now. Carries the child's own reading, so that no phase is too short
    to be seen."""
    sample = process_sample(os.getpid())
    with phases.open("a", encoding="utf-8") as stream:
        stream.write(f"{name} {sample.dirty if sample else 0}\n")


def run_limited(
    command: Sequence[str],
    *,
    limit_bytes: int,
    log: Path,
    phases: Path,
    backend: str | None = None,
    environment: Mapping[str, str] | None = None,
    timeout: float = 900.0,
) -> Outcome:
    """Run `command` until it ends, exceeds `limit_bytes` of dirty memory, or `timeout` seconds have passed.

    `log` receives its stdout and stderr; `phases` is the file that it announces phases in. Nothing that the child does
    raises here. Raises RuntimeUnavailableError where a named backend is not usable.
    """
    limit = open_limit(limit_bytes, backend)
    phases.touch()
    try:
        with log.open("wb") as stream, phases.open(encoding="utf-8") as announced:
            process = _start(command, limit, stream.fileno(), environment)
            try:
                watch = _Watch(process, announced)
                ending = watch.until_end(limit_bytes, time.monotonic() + timeout)
            finally:
                _kill_tree(process)
        ending = "limit" if limit.killed() else ending
    finally:
        limit.close()
    if ending == "exit" and process.returncode != 0 and _refused(process.returncode, log):
        ending = "refused"
    return Outcome(
        returncode=process.returncode,
        peak_dirty_bytes=watch.peak_dirty,
        peak_rss_bytes=watch.peak_rss,
        limit_bytes=limit_bytes,
        backend=limit.name,
        survived=ending not in ("limit", "refused"),
        failure=_failure(ending, process.returncode, limit.name, timeout),
        phases=watch.phases,
    )


def _start(
    command: Sequence[str], limit: Limit, log: int, environment: Mapping[str, str] | None
) -> subprocess.Popen[bytes]:
    """Start the child, held back until it is under the limit: what it touched before would not be charged."""
    held = [sys.executable, "-I", "-S", "-c", _HOLD, *command] if os.name == "posix" else list(command)
    process = subprocess.Popen(held, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment)
    try:
        limit.attach(process.pid)
        if process.stdin is not None:
            with suppress(BrokenPipeError):
                process.stdin.write(b"\n")
                process.stdin.close()
    except BaseException:
        _kill_tree(process)
        raise
    return process


class _Watch:
    """The sampling loop and what it has seen."""

    def __init__(self, process: subprocess.Popen[bytes], announced: TextIO) -> None:
        self.phases: dict[str, int] = {}
        self.peak_dirty = 0
        self.peak_rss = 0
        self._process = process
        self._announced = announced
        self._partial = ""
        self._phase = "start"

    def until_end(self, limit_bytes: int, deadline: float) -> Ending:
        """Sample until the process ends by itself, holds too much, or time is up; it may still be running then."""
        meter = TreeMeter(self._process.pid)
        while self._process.poll() is None:
            self._read_phases()
            sample = meter.sample()
            if sample is not None:
                self._record(sample.dirty)
                self.peak_rss = max(self.peak_rss, sample.rss)
            if self.peak_dirty > limit_bytes:
                return "limit"
            if time.monotonic() > deadline:
                return "timeout"
            time.sleep(SAMPLE_SECONDS)
        self._read_phases()
        return "limit" if self.peak_dirty > limit_bytes else "exit"

    def _record(self, dirty: int) -> None:
        self.peak_dirty = max(self.peak_dirty, dirty)
        self.phases[self._phase] = max(self.phases.get(self._phase, 0), dirty)

    def _read_phases(self) -> None:
        """Take in new announcements; each carries a reading that still belongs to the phase before it."""
        *lines, self._partial = (self._partial + self._announced.read()).split("\n")
        for line in lines:
            name, _, dirty = line.rpartition(" ")
            self._record(int(dirty))
            self._phase = name


def _kill_tree(process: subprocess.Popen[bytes]) -> None:
    """End a child and its descendants, and collect it."""
    if process.poll() is None:
        for pid in descendants(process.pid):
            with suppress(OSError):
                os.kill(pid, signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
        process.kill()
    process.wait()


def _refused(returncode: int, log: Path) -> bool:
    """Whether a child that failed did so because memory was refused: it said so, or its runtime did while dying."""
    return returncode == MEMORY_REFUSED or any(word in read_tail(log) for word in REFUSALS)


def _failure(ending: Ending, returncode: int, backend: str, timeout: float) -> str:
    match ending:
        case "limit":
            return "killed at the limit"
        case "refused":
            refusal = "an allocation was refused"
            return f"killed at the limit ({refusal})" if backend == DataLimit.name else refusal
        case "timeout":
            return f"did not end within {timeout:.0f} s"
        case "exit":
            if returncode < 0:
                return f"crashed with {_signal_name(-returncode)}"
            return f"ended with exit code {returncode}" if returncode else ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def read_tail(log: Path, *, size: int = 65536) -> str:
    """The last `size` bytes of a child's output as text."""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - size))
        return stream.read().decode("utf-8", errors="replace")
