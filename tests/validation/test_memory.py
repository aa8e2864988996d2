"""Running a child: how its end is told, without any limit of the system's."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from edgeq.validation.memory import MEMORY_REFUSED, Outcome, announce, read_tail, run_limited
from edgeq.validation.meter import TreeMeter, process_sample

LARGE = 1 << 30


def run(tmp_path: Path, code: str, *, limit: int = LARGE, timeout: float = 60.0) -> Outcome:
    return run_limited(
        [sys.executable, "-c", code, str(tmp_path / "phases")],
        limit_bytes=limit,
        log=tmp_path / "log",
        phases=tmp_path / "phases",
        backend="sampler",
        timeout=timeout,
    )


def test_a_child_that_ends_well(tmp_path: Path) -> None:
    outcome = run(tmp_path, "print('hello')")
    assert (outcome.returncode, outcome.survived, outcome.failure) == (0, True, "")
    assert outcome.backend == "sampler"
    assert read_tail(tmp_path / "log") == "hello\n"
    assert 0 < outcome.peak_dirty_bytes < outcome.peak_rss_bytes < 100 << 20


def test_an_exit_code_is_a_failure_that_survived(tmp_path: Path) -> None:
    outcome = run(tmp_path, "raise SystemExit(3)")
    assert (outcome.survived, outcome.failure) == (True, "ended with exit code 3")


@pytest.mark.parametrize(("number", "name"), [(11, "SIGSEGV"), (6, "SIGABRT"), (9, "SIGKILL")])
def test_a_crash_is_named(tmp_path: Path, number: int, name: str) -> None:
    outcome = run(tmp_path, f"import os; os.kill(os.getpid(), {number})")
    assert (outcome.survived, outcome.failure) == (True, f"crashed with {name}")


def test_a_child_over_the_limit_is_killed(tmp_path: Path) -> None:
    outcome = run(tmp_path, "import time; x = bytearray(b'1') * (64 << 20); time.sleep(60)", limit=40 << 20)
    assert (outcome.survived, outcome.failure) == (False, "killed at the limit")
    assert outcome.peak_dirty_bytes > 40 << 20


def test_a_peak_that_only_the_child_saw_counts(tmp_path: Path) -> None:
    phases = f"open({str(tmp_path / 'phases')!r}, 'a').write('load 5\\nend {100 << 20}\\n')"
    outcome = run(tmp_path, phases, limit=60 << 20)
    assert (outcome.survived, outcome.failure) == (False, "killed at the limit")
    assert outcome.phases["load"] == 100 << 20


@pytest.mark.parametrize(
    "code",
    [
        f"raise SystemExit({MEMORY_REFUSED})",
        "raise MemoryError",
        "import os, sys; sys.stderr.write('std::bad_alloc'); sys.stderr.flush(); os.abort()",
    ],
)
def test_refused_memory_does_not_survive(tmp_path: Path, code: str) -> None:
    outcome = run(tmp_path, code)
    assert (outcome.survived, outcome.failure) == (False, "an allocation was refused")


def test_a_child_that_hangs_is_ended(tmp_path: Path) -> None:
    outcome = run(tmp_path, "import time; time.sleep(60)", timeout=0.3)
    assert (outcome.survived, outcome.failure) == (True, "did not end within 0 s")


def test_grandchildren_end_with_their_parent(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    code = (
        "import subprocess, sys, time;"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        f"open({str(pid_file)!r}, 'w').write(str(child.pid));"
        "time.sleep(60)"
    )
    run(tmp_path, code, timeout=1.5)
    status = process_sample(int(pid_file.read_text()))
    assert status is None  # gone, or a zombie that its new parent has not collected


def test_phases_hold_their_own_peaks(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from edgeq.validation.memory import announce\n"
        "phases = Path(sys.argv[1])\n"
        "announce(phases, 'one')\n"
        "x = bytearray(b'1') * (48 << 20)\n"
        "announce(phases, 'two')\n"
        "del x\n"
        "announce(phases, 'three')\n"
    )
    outcome = run(tmp_path, code)
    assert outcome.failure == ""
    assert list(outcome.phases)[:4] == ["start", "one", "two", "three"]
    assert outcome.phases["one"] - outcome.phases["start"] > 40 << 20


def test_announce_appends(tmp_path: Path) -> None:
    announce(tmp_path / "phases", "a")
    announce(tmp_path / "phases", "b")
    names = [line.split()[0] for line in (tmp_path / "phases").read_text().splitlines()]
    assert names == ["a", "b"]


def test_a_process_that_is_gone_has_no_memory() -> None:
    assert process_sample(2**30) is None
    assert TreeMeter(2**30).sample() is None
    own = process_sample(os.getpid())
    assert own is not None
    assert own.dirty > 1 << 20


def test_the_tail_of_a_long_log(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"a" * 100 + b"\xffend")
    assert read_tail(tmp_path / "log", size=5) == "a\ufffdend"
