"""The memory meter, calibrated on children that hold known amounts; and limits that must kill, on each backend of this
machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from edgeq.validation.limits import backends
from edgeq.validation.memory import Outcome, run_limited

MEBIBYTE = 1 << 20
USABLE = [backend.name for backend in backends() if backend.usable]
SIZE = 96
NOTHING = "import mmap, sys, time; held = None; time.sleep(0.1)"
ANONYMOUS = f"""
import time
held = bytearray(b"1") * ({SIZE} << 20)
time.sleep(0.1)
"""
SHARED = f"""
import mmap, time
held = mmap.mmap(-1, {SIZE} << 20)
for page in range(0, len(held), 4096): held[page] = 1
time.sleep(0.1)
"""
MAPPED = """
import mmap, sys, time
with open(sys.argv[1], "rb") as stream:
    held = mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ)
total = sum(held[page] for page in range(0, len(held), 4096))
time.sleep(0.1)
"""
TREE = f"""
import subprocess, sys
code = 'import time; held = bytearray(b"1") * ({SIZE // 2} << 20); time.sleep(1.0)'
children = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
assert all(child.wait() == 0 for child in children)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"\1" * (SIZE * MEBIBYTE))
    return path


def run(code: str, file: Path, backend: str, *, limit: int = 400 * MEBIBYTE) -> Outcome:
    folder = file.parent
    (folder / "phases").unlink(missing_ok=True)
    command = [sys.executable, "-c", code, str(file)]
    return run_limited(
        command, limit_bytes=limit, log=folder / "log", phases=folder / "phases", backend=backend, timeout=60.0
    )


def above_nothing(code: str, file: Path, backend: str) -> tuple[int, int]:
    """Dirty and resident bytes beyond those of an empty interpreter."""
    empty, full = run(NOTHING, file, backend), run(code, file, backend)
    assert (empty.failure, full.failure) == ("", "")
    return full.peak_dirty_bytes - empty.peak_dirty_bytes, full.peak_rss_bytes - empty.peak_rss_bytes


def close(found: int, expected: int) -> bool:
    return abs(found - expected) <= max(2 * MEBIBYTE, expected // 50)


@pytest.mark.parametrize("backend", USABLE)
@pytest.mark.parametrize("code", [ANONYMOUS, SHARED], ids=["anonymous", "shared"])
def test_what_is_held_is_dirty(file: Path, backend: str, code: str) -> None:
    dirty, resident = above_nothing(code, file, backend)
    assert close(dirty, SIZE * MEBIBYTE)
    assert close(resident, SIZE * MEBIBYTE)


@pytest.mark.parametrize("backend", USABLE)
def test_mapped_file_pages_are_resident_but_not_dirty(file: Path, backend: str) -> None:
    dirty, resident = above_nothing(MAPPED, file, backend)
    assert close(dirty, 0)
    assert close(resident, SIZE * MEBIBYTE)


def test_children_of_the_child_count(file: Path) -> None:
    dirty, _ = above_nothing(TREE, file, "sampler")
    # Two more interpreters come with the memory that they hold.
    assert SIZE * MEBIBYTE < dirty < (SIZE + 16) * MEBIBYTE


@pytest.mark.parametrize("backend", USABLE)
@pytest.mark.parametrize("code", [ANONYMOUS, SHARED], ids=["anonymous", "shared"])
def test_a_limit_below_the_need_kills(file: Path, backend: str, code: str) -> None:
    outcome = run(code, file, backend, limit=SIZE * MEBIBYTE * 9 // 10)
    assert not outcome.survived
    assert outcome.failure.startswith("killed at the limit")
    assert outcome.backend == backend


@pytest.mark.parametrize("backend", USABLE)
def test_a_limit_above_the_need_does_not(file: Path, backend: str) -> None:
    outcome = run(ANONYMOUS, file, backend, limit=(SIZE + 12) * MEBIBYTE)
    assert (outcome.survived, outcome.failure) == (True, "")


@pytest.mark.parametrize("backend", USABLE)
def test_mapped_files_larger_than_the_limit_survive(file: Path, backend: str) -> None:
    outcome = run(MAPPED, file, backend, limit=24 * MEBIBYTE)
    assert (outcome.survived, outcome.failure) == (True, "")
    assert outcome.peak_rss_bytes > SIZE * MEBIBYTE


@pytest.mark.parametrize("backend", [name for name in USABLE if name.startswith("cgroup")])
def test_the_kernel_kills_what_no_sample_sees(file: Path, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeq.validation.memory.SAMPLE_SECONDS", 0.5)
    outcome = run(ANONYMOUS, file, backend, limit=SIZE * MEBIBYTE // 2)
    assert (outcome.returncode, outcome.survived, outcome.failure) == (-9, False, "killed at the limit")
    assert outcome.peak_dirty_bytes < SIZE * MEBIBYTE // 2


@pytest.mark.skipif("rlimit_data" not in USABLE, reason="only Linux counts private mappings")
def test_refused_memory_is_the_limit_s_doing(file: Path) -> None:
    outcome = run("held = bytearray(1 << 30)", file, "rlimit_data", limit=64 * MEBIBYTE)
    assert (outcome.survived, outcome.failure) == (False, "killed at the limit (an allocation was refused)")


@pytest.mark.parametrize("backend", [name for name in USABLE if name.startswith("cgroup")])
def test_no_cgroup_is_left_behind(file: Path, backend: str) -> None:
    run(ANONYMOUS, file, backend, limit=32 * MEBIBYTE)
    run("import os; os.abort()", file, backend)
    assert not list(Path("/sys/fs/cgroup").glob(f"**/edgeq-{os.getpid()}-*"))
