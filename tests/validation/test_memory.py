"""Running a child: how its end is told, without any limit of the system's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeq.validation.memory import (
    MEMORY_REFUSED,
    RUNTIME_BYTES,
    Outcome,
    announce,
    read_tail,
    run_limited,
    uncounted_bytes,
)
from edgeq.validation.meter import TreeMeter, process_sample

LARGE = 1 << 30


def run(
    tmp_path: Path, code: str, *, limit: int = LARGE, timeout: float = 60.0, limited_from: str | None = None
) -> Outcome:
    return run_limited(
        [sys.executable, "-c", code, str(tmp_path / "phases")],
        limit_bytes=limit,
        log=tmp_path / "log",
        phases=tmp_path / "phases",
        limited_from=limited_from,
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


TWO_PARTS = """
import sys, time
from pathlib import Path
from edgeq.validation.memory import announce, await_limit
runtime = bytearray(b"1") * ({before} << 20)
announce(Path(sys.argv[1]), "load")
await_limit()
artifact = bytearray(b"1") * ({after} << 20)
announce(Path(sys.argv[1]), "end")
"""


@pytest.mark.parametrize(("limit", "survived"), [(84, True), (78, False)])
def test_a_large_baseline_is_not_held_against_what_comes_after_it(tmp_path: Path, limit: int, survived: bool) -> None:
    outcome = run(tmp_path, TWO_PARTS.format(before=100, after=48), limit=limit << 20, limited_from="load")
    assert outcome.survived is survived
    assert outcome.baseline_bytes is not None
    assert outcome.baseline_bytes > 100 << 20
    judged = outcome.peak_dirty_bytes - uncounted_bytes(outcome.baseline_bytes)
    assert RUNTIME_BYTES + (46 << 20) < judged < RUNTIME_BYTES + (50 << 20)
    assert (judged <= limit << 20) is survived


def test_a_small_baseline_counts_whole(tmp_path: Path) -> None:
    outcome = run(tmp_path, TWO_PARTS.format(before=1, after=48), limit=50 << 20, limited_from="load")
    assert outcome.baseline_bytes is not None
    assert uncounted_bytes(outcome.baseline_bytes) == 0
    assert not outcome.survived


def test_a_limit_that_the_baseline_alone_breaks(tmp_path: Path) -> None:
    outcome = run(tmp_path, TWO_PARTS.format(before=100, after=0), limit=RUNTIME_BYTES - 1, limited_from="load")
    assert (outcome.survived, outcome.failure) == (False, "killed at the limit")


def test_what_was_held_before_the_baseline_only_is_not_the_peak(tmp_path: Path) -> None:
    passing = "x = bytearray(b'1') * (100 << 20)\nannounce(Path(sys.argv[1]), 'runtime')\ndel x\nruntime ="
    code = TWO_PARTS.format(before=1, after=1).replace("runtime =", passing)
    outcome = run(tmp_path, code, limit=60 << 20, limited_from="load")
    assert outcome.failure == ""
    assert outcome.phases["start"] > 100 << 20
    assert outcome.peak_dirty_bytes < 60 << 20


def test_a_child_that_dies_before_its_baseline_has_none(tmp_path: Path) -> None:
    outcome = run(tmp_path, "import os; os.abort()", limited_from="load")
    assert (outcome.baseline_bytes, outcome.failure) == (None, "crashed with SIGABRT")


def test_a_child_whose_parent_is_gone_does_not_go_on_unlimited(tmp_path: Path) -> None:
    code = "from edgeq.validation.memory import await_limit; await_limit()"
    ended = subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert b"EOFError" in ended.stderr


def test_without_a_named_phase_everything_counts(tmp_path: Path) -> None:
    assert run(tmp_path, "pass").baseline_bytes == 0


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


OTHER_PROCESS = """
import subprocess, sys, time
from pathlib import Path
from edgeq.validation.memory import announce, await_limit
holder = "x = bytearray(b'1') * ({before} << 20); print(flush=True); input(); y = bytearray(b'1') * ({after} << 20); print(flush=True); input()"
other = subprocess.Popen([sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
own = bytearray(b"1") * (200 << 20)
other.stdout.readline()
announce(Path(sys.argv[1]), "load", (other.pid,))
await_limit()
other.stdin.write(b"\\n"); other.stdin.flush()
other.stdout.readline()
announce(Path(sys.argv[1]), "end", (other.pid,))
other.kill()
"""  # noqa: E501 - a program in a program


@pytest.mark.parametrize(("limit", "survived"), [(180, True), (100, False)])
def test_another_process_is_judged_in_the_childs_place(tmp_path: Path, limit: int, survived: bool) -> None:
    outcome = run_limited(
        [sys.executable, "-c", OTHER_PROCESS.format(before=40, after=80), str(tmp_path / "phases")],
        limit_bytes=limit << 20,
        log=tmp_path / "log",
        phases=tmp_path / "phases",
        limited_from="load",
        runtime_bytes=None,
        backend="sampler",
        timeout=60.0,
    )
    assert outcome.survived is survived, outcome
    assert outcome.baseline_bytes is not None
    assert 40 << 20 < outcome.baseline_bytes < 80 << 20  # all of it counts, and nothing of the child's own
    assert outcome.peak_dirty_bytes > (120 << 20 if survived else 100 << 20)
    assert outcome.peak_dirty_bytes < 180 << 20  # 120 MiB and an interpreter; the child itself holds 200
