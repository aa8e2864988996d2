"""Running a child under a memory limit, and measuring what it holds: the limit kills, edgeq only reports."""

from __future__ import annotations

import math
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
from edgeq.validation.trace import Trace

SAMPLE_SECONDS = 0.005
LOAD_SAMPLE_SECONDS = 0.001
"""A model is loaded once: what is held for a moment only has one chance to be seen. Prompts come several times."""
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
LIMITED_FROM = "load"
"""The phase that begins with the runtime imported and nothing opened: what is held then is not the artifact's."""
RUNTIME_BYTES = 32 << 20
"""What every process is charged for its runtime, whatever the runtime's baseline was. A process that only imported
ONNX Runtime 1.32, the leanest of the runtimes, held 27 MiB (x86-64, Python 3.11 and numpy in it); rounded up."""
Ending = Literal["exit", "limit", "refused", "timeout"]
_HOLD = "import os, sys; os.read(0, 1); os.execv(sys.argv[1], sys.argv[1:])"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a child ended. Bytes; `phases` maps each announced phase to its own peak of dirty memory, in order.

    `peak_dirty_bytes` is the whole process', from the moment on that the limit holds. `baseline_bytes` is what it held
    at that moment: 0 where the limit holds from the start, None where it ended before. `survived` is False where the
    limit ended it. `failure` says in words how it ended, "" for exit code 0. `samples` are `(seconds, bytes, phase)`
    since the limit holds, thinned.
    """

    returncode: int
    peak_dirty_bytes: int
    baseline_bytes: int | None
    peak_rss_bytes: int
    limit_bytes: int
    backend: str
    survived: bool
    failure: str
    phases: dict[str, int] = field(default_factory=dict)
    samples: tuple[tuple[float, int, str], ...] = ()


def available_backends() -> list[tuple[str, bool, str]]:
    """`(name, usable, why)` of each memory limit, the preferred first; for `edgeq doctor`."""
    return [(backend.name, backend.usable, backend.why) for backend in backends()]


def announce(phases: Path, name: str, processes: tuple[int, ...] = ()) -> None:
    """Called by the child: the phase `name` begins now. Carries the child's own reading, so that no phase is too short
    to be seen. processes: the ids of those that are judged from now on in the child's place."""
    words = (name, held_bytes(processes), *processes)
    with phases.open("a", encoding="utf-8") as stream:
        stream.write(" ".join(map(str, words)) + "\n")


def held_bytes(processes: tuple[int, ...] = ()) -> int:
    """Dirty memory of the processes now, of this one for none."""
    return sum(sample.dirty for sample in filter(None, map(process_sample, processes or (os.getpid(),))))


def await_limit() -> None:
    """Called by a child that `run_limited` was given `limited_from` for, after it announced that phase: returns when
    the limit holds. Raises EOFError where the parent is gone."""
    if not os.read(0, 1):
        raise EOFError("the process that sets the limit is gone")


def uncounted_bytes(baseline: int, runtime_bytes: int | None = RUNTIME_BYTES) -> int:
    """What of a process' baseline is not held against it: all that is above `runtime_bytes`, nothing for None."""
    return 0 if runtime_bytes is None else max(0, baseline - runtime_bytes)


def run_limited(
    command: Sequence[str],
    *,
    limit_bytes: int,
    log: Path,
    phases: Path,
    limited_from: str | None = None,
    runtime_bytes: int | None = RUNTIME_BYTES,
    backend: str | None = None,
    environment: Mapping[str, str] | None = None,
    timeout: float = 900.0,
) -> Outcome:
    """Run `command` until it ends, exceeds `limit_bytes` of dirty memory, or `timeout` seconds have passed.

    `log` receives its stdout and stderr; `phases` is the file that it announces phases in. limited_from: a phase at
    whose announcement the child calls `await_limit`; what it holds then is its baseline, nothing is limited before, and
    from then on it may hold `limit_bytes` and what of the baseline is not counted: all above `runtime_bytes`, nothing
    for None. Nothing that the child does raises here. Raises RuntimeUnavailableError where a named backend is not
    usable.
    """
    limit = open_limit(backend)
    phases.touch()
    try:
        with log.open("wb") as stream, phases.open(encoding="utf-8") as announced:
            process = _start(command, limit, stream.fileno(), environment)
            try:
                watch = _Watch(
                    process, announced, limit, limit_bytes, limited_from=limited_from, runtime_bytes=runtime_bytes
                )
                ending = watch.until_end(time.monotonic() + timeout)
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
        baseline_bytes=watch.baseline,
        peak_rss_bytes=watch.peak_rss,
        limit_bytes=limit_bytes,
        backend=limit.name,
        survived=ending not in ("limit", "refused"),
        failure=_failure(ending, process.returncode, limit.name, timeout),
        phases=watch.phases,
        samples=watch.samples(),
    )


def _start(
    command: Sequence[str], limit: Limit, log: int, environment: Mapping[str, str] | None
) -> subprocess.Popen[bytes]:
    """Start the child, held back until it is released: what it touched before it is attached would not be charged."""
    held = [sys.executable, "-I", "-S", "-c", _HOLD, *command] if os.name == "posix" else list(command)
    process = subprocess.Popen(held, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment)
    try:
        limit.attach(process.pid)
    except BaseException:
        _kill_tree(process)
        raise
    return process


class _Watch:
    """The sampling loop, the moment at which the limit is set, and what was seen."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        announced: TextIO,
        limit: Limit,
        limit_bytes: int,
        *,
        limited_from: str | None,
        runtime_bytes: int | None,
    ) -> None:
        self.phases: dict[str, int] = {}
        self.peak_dirty = 0
        self.peak_rss = 0
        self.baseline: int | None = None
        self._process = process
        self._announced = announced
        self._limit, self._limit_bytes, self._limited_from = limit, limit_bytes, limited_from
        self._runtime_bytes = runtime_bytes
        self._meter = TreeMeter(process.pid)
        self._judged: tuple[int, ...] = (process.pid,)
        self._allowed: float = math.inf
        self._partial = ""
        self._phase = "start"
        self._trace, self._started = Trace(), time.monotonic()

    def until_end(self, deadline: float) -> Ending:
        """Sample until the process ends by itself, holds too much, or time is up; it may still be running then."""
        if self._limited_from is None:
            self._set_limit(0)
        if os.name == "posix":
            self._release()
        if self._limited_from is None:
            self._close_input()
        while self._process.poll() is None:
            self._read_phases()
            sample = self._meter.sample()
            if sample is not None:
                self._record(sample.dirty)
                self.peak_rss = max(self.peak_rss, sample.rss)
            if self.peak_dirty > self._allowed:
                return "limit"
            if time.monotonic() > deadline:
                return "timeout"
            time.sleep(LOAD_SAMPLE_SECONDS if self._phase == LIMITED_FROM else SAMPLE_SECONDS)
        self._read_phases()
        return "limit" if self.peak_dirty > self._allowed else "exit"

    def samples(self) -> tuple[tuple[float, int, str], ...]:
        """Memory over time since the limit holds."""
        return tuple(self._trace.samples())

    def _set_limit(self, baseline: int) -> None:
        """Let the process hold `limit_bytes` and what is not counted of its baseline; what was held before is past."""
        self.baseline = self.peak_dirty = baseline
        self._trace, self._started = Trace(), time.monotonic()
        allowed = self._limit_bytes + uncounted_bytes(baseline, self._runtime_bytes)
        self._allowed = allowed if self._limit.set(allowed) else -1

    def _release(self) -> None:
        """Let the process go on where it waits."""
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.write(b"\n")
                self._process.stdin.flush()

    def _close_input(self) -> None:
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()

    def _record(self, dirty: int) -> None:
        self.peak_dirty = max(self.peak_dirty, dirty)
        self.phases[self._phase] = max(self.phases.get(self._phase, 0), dirty)
        self._trace.add(time.monotonic() - self._started, dirty, self._phase)

    def _read_phases(self) -> None:
        """Take in new announcements; each carries a reading that still belongs to the phase before it."""
        *lines, self._partial = (self._partial + self._announced.read()).split("\n")
        for line in lines:
            name, dirty, *others = line.split(" ")
            processes = tuple(map(int, others))
            if processes not in ((), self._judged):
                self._meter, self._judged, self.peak_rss = TreeMeter(*processes), processes, 0
            self._record(int(dirty))
            self._phase = name
            if name == self._limited_from and self.baseline is None:
                self._set_limit(int(dirty))
                self._release()
                self._close_input()


def _kill_tree(process: subprocess.Popen[bytes]) -> None:
    """End a child and its descendants, and collect it."""
    if process.poll() is None:
        for pid in descendants(process.pid):
            with suppress(OSError):
                os.kill(pid, signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
        process.kill()
    process.wait()
    if process.stdin is not None:
        process.stdin.close()


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
