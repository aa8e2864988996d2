"""The memory meter, calibrated on children that hold known amounts; and limits that must kill, on each backend of this
machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from edgeq.validation.context_memory import first_highest
from edgeq.validation.limits import backends
from edgeq.validation.memory import RUNTIME_BYTES, Outcome, run_limited

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
WRITTEN = """
import mmap, sys, time
with open(sys.argv[1], "rb") as stream:
    held = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
for page in range(0, len(held), 4096): held[page] = 2
time.sleep(0.1)
"""
MEMORY_FILE = f"""
import mmap, os, time
file = os.memfd_create("file")
os.truncate(file, {SIZE} << 20)
held = mmap.mmap(file, 0)
for page in range(0, len(held), 4096): held[page] = 1
time.sleep(0.1)
"""
TOGETHER = """
import mmap, sys, time
anonymous = bytearray(b"1") * (40 << 20)
shared = mmap.mmap(-1, 24 << 20)
for page in range(0, len(shared), 4096): shared[page] = 1
with open(sys.argv[1], "rb") as stream:
    mapped = mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ)
total = sum(mapped[page] for page in range(0, len(mapped), 4096))
time.sleep(0.1)
"""
GIVEN_BACK = f"""
import mmap, time
for size in ({SIZE} << 20, {SIZE // 2} << 20):
    held = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE)
    for page in range(0, size, 4096): held[page] = 1
    time.sleep(0.1)
    held.close()
"""
PHASES = ("load", "prefill", "decode")
SPIKE = f"""
import mmap, sys, time
from pathlib import Path
from edgeq.validation.memory import announce, await_limit
phases = Path(sys.argv[2])
for phase in {PHASES}:
    announce(phases, phase)
    if phase == "load":
        await_limit()
    held = mmap.mmap(-1, (64 if phase == sys.argv[3] else 8) << 20, flags=mmap.MAP_PRIVATE)
    for page in range(0, len(held), 4096): held[page] = 1
    time.sleep(0.05)
    held.close()
announce(phases, "end")
"""
TREE = f"""
import subprocess, sys
code = 'import time; held = bytearray(b"1") * ({SIZE // 2} << 20); time.sleep(1.0)'
children = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
assert all(child.wait() == 0 for child in children)
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("meter") / "file"
    path.write_bytes(b"\1" * (SIZE * MEBIBYTE))
    return path


def run(code: str, file: Path, backend: str, *, limit: int = 400 * MEBIBYTE) -> Outcome:
    folder = file.parent
    (folder / "phases").unlink(missing_ok=True)
    command = [sys.executable, "-c", code, str(file)]
    return run_limited(
        command, limit_bytes=limit, log=folder / "log", phases=folder / "phases", backend=backend, timeout=60.0
    )


def run_with_spike(file: Path, backend: str, phase: str, *, limit: int) -> Outcome:
    """A child that holds 8 MiB for a moment in each phase, and 64 MiB in one."""
    folder = file.parent
    (folder / "phases").unlink(missing_ok=True)
    command = [sys.executable, "-c", SPIKE, str(file), str(folder / "phases"), phase]
    return run_limited(
        command,
        limit_bytes=limit,
        log=folder / "log",
        phases=folder / "phases",
        limited_from="load",
        backend=backend,
        timeout=60.0,
    )


def above_nothing(code: str, file: Path, backend: str) -> tuple[int, int]:
    """Dirty and resident bytes beyond those of an empty interpreter."""
    empty, full = run(NOTHING, file, backend), run(code, file, backend)
    assert (empty.failure, full.failure) == ("", "")
    return full.peak_dirty_bytes - empty.peak_dirty_bytes, full.peak_rss_bytes - empty.peak_rss_bytes


def close(found: int, expected: int) -> bool:
    return abs(found - expected) <= max(2 * MEBIBYTE, expected // 50)


@pytest.mark.parametrize("backend", USABLE)
@pytest.mark.parametrize(
    "code", [ANONYMOUS, SHARED, WRITTEN, MEMORY_FILE], ids=["anonymous", "shared", "written", "memory file"]
)
def test_what_is_held_is_dirty(file: Path, backend: str, code: str) -> None:
    dirty, resident = above_nothing(code, file, backend)
    assert close(dirty, SIZE * MEBIBYTE)
    assert close(resident, SIZE * MEBIBYTE)


@pytest.mark.parametrize("backend", USABLE)
def test_mapped_file_pages_are_resident_but_not_dirty(file: Path, backend: str) -> None:
    dirty, resident = above_nothing(MAPPED, file, backend)
    assert close(dirty, 0)
    assert close(resident, SIZE * MEBIBYTE)


@pytest.mark.parametrize("backend", USABLE)
def test_kinds_add_up(file: Path, backend: str) -> None:
    dirty, resident = above_nothing(TOGETHER, file, backend)
    assert close(dirty, 64 * MEBIBYTE)
    assert close(resident, (64 + SIZE) * MEBIBYTE)


@pytest.mark.parametrize("backend", USABLE)
@pytest.mark.parametrize("size", [4, 16, 256])
def test_small_and_large_amounts_are_told(file: Path, backend: str, size: int) -> None:
    code = f"import time; held = bytearray(b'1') * ({size} << 20); time.sleep(0.1)"
    dirty, resident = above_nothing(code, file, backend)
    assert close(dirty, size * MEBIBYTE)
    assert close(resident, size * MEBIBYTE)


@pytest.mark.parametrize("backend", USABLE)
def test_what_was_given_back_is_not_held(file: Path, backend: str) -> None:
    """The peak is that of one moment, not the sum of all that was ever asked for."""
    dirty, _ = above_nothing(GIVEN_BACK, file, backend)
    assert close(dirty, SIZE * MEBIBYTE)


@pytest.mark.parametrize("backend", USABLE)
@pytest.mark.parametrize("phase", PHASES)
def test_a_short_spike_is_seen_and_named_by_its_phase(file: Path, backend: str, phase: str) -> None:
    outcome = run_with_spike(file, backend, phase, limit=400 * MEBIBYTE)
    assert (outcome.survived, outcome.failure) == (True, "")
    assert outcome.baseline_bytes is not None
    above = {name: outcome.phases[name] - outcome.baseline_bytes for name in PHASES}
    assert first_highest(above) == phase
    for name, held in above.items():
        assert close(held, (64 if name == phase else 8) * MEBIBYTE)
    assert close(outcome.peak_dirty_bytes - outcome.baseline_bytes, 64 * MEBIBYTE)


@pytest.mark.parametrize("backend", USABLE)
def test_a_short_spike_above_the_limit_kills(file: Path, backend: str) -> None:
    outcome = run_with_spike(file, backend, "load", limit=RUNTIME_BYTES + 24 * MEBIBYTE)
    assert not outcome.survived
    assert outcome.failure.startswith("killed at the limit")
    assert "prefill" not in outcome.phases


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
