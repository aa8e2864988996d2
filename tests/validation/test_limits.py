"""Limits: which ones a machine offers, and what is written to the kernel; on made-up cgroup trees."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from edgeq.errors import RuntimeUnavailableError
from edgeq.validation import limits
from edgeq.validation.limits import KERNEL_SLACK, Backend, ControlGroup, SamplerOnly, backends, open_limit
from edgeq.validation.memory import available_backends

NAMES = ["cgroup_v2", "cgroup_v1", "rlimit_data", "sampler"]


def make_tree(root: Path, monkeypatch: pytest.MonkeyPatch, *, mountinfo: str, own: str) -> None:
    """Let the module see `mountinfo` and `own` in place of this process' own."""
    proc = {"/proc/self/mountinfo": mountinfo, "/proc/self/cgroup": own}
    real = limits._lines

    def lines(path: Path) -> list[str]:
        return proc[str(path)].splitlines() if str(path) in proc else real(path)

    monkeypatch.setattr(limits, "_lines", lines)
    root.mkdir(parents=True, exist_ok=True)


def group(directory: Path, *, controllers: str = "", subtree: str = "") -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "cgroup.controllers").write_text(controllers)
    (directory / "cgroup.subtree_control").write_text(subtree)
    (directory / "cgroup.procs").write_text("")


def test_every_backend_is_listed_with_a_reason() -> None:
    found = available_backends()
    assert [name for name, _, _ in found] == NAMES
    assert all(why for _, _, why in found)
    assert found[-1][1]


def test_v2_is_the_nearest_cgroup_that_delegates_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mountinfo = f"30 23 0:26 / {tmp_path} rw shared:4 - cgroup2 cgroup2 rw"
    make_tree(tmp_path, monkeypatch, mountinfo=mountinfo, own="0::/user/app/run")
    group(tmp_path, controllers="cpu memory", subtree="cpu memory")
    group(tmp_path / "user", controllers="cpu memory", subtree="memory")
    group(tmp_path / "user/app", controllers="memory", subtree="")
    group(tmp_path / "user/app/run", controllers="", subtree="")
    assert limits._find_v2() == (tmp_path / "user", f"below {tmp_path / 'user'}")


def test_v2_without_delegation_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mountinfo = f"30 23 0:26 / {tmp_path} rw - cgroup2 cgroup2 rw"
    make_tree(tmp_path, monkeypatch, mountinfo=mountinfo, own="0::/")
    group(tmp_path, controllers="memory", subtree="cpu")
    parent, why = limits._find_v2()
    assert parent is None
    assert "delegates" in why
    group(tmp_path, controllers="cpu hugetlb")
    assert "unified hierarchy" in limits._find_v2()[1]


def test_no_cgroups_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tree(tmp_path, monkeypatch, mountinfo="", own="")
    by_name = {backend.name: backend for backend in backends()}
    assert not by_name["cgroup_v2"].usable
    assert not by_name["cgroup_v1"].usable
    assert "not mounted" in by_name["cgroup_v1"].why


def test_v1_is_found_from_inside_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mountinfo = f"36 31 0:32 /docker/abc {tmp_path} rw - cgroup cgroup rw,memory"
    make_tree(tmp_path, monkeypatch, mountinfo=mountinfo, own="5:memory:/docker/abc/job\n4:cpu:/x")
    group(tmp_path / "job")
    assert limits._find_v1() == (tmp_path / "job", f"below {tmp_path / 'job'}")


def test_a_parent_that_refuses_children_is_not_usable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mountinfo = f"36 31 0:32 / {tmp_path} rw - cgroup cgroup rw,memory"
    make_tree(tmp_path, monkeypatch, mountinfo=mountinfo, own="5:memory:/gone")
    parent, why = limits._find_v1()
    assert parent is None
    assert "no cgroup can be made" in why


def v2_group(parent: Path) -> ControlGroup:
    return ControlGroup(
        "cgroup_v2", parent, wall="memory.max", swap="memory.swap.max", swap_wall=0, events="memory.events"
    )


def v1_group(parent: Path, *, wall: str = "limit") -> ControlGroup:
    return ControlGroup("cgroup_v1", parent, wall=wall, swap="memsw", swap_wall=None, events="memory.oom_control")


def test_v1_limits_memory_and_swap_together(tmp_path: Path) -> None:
    control = v1_group(tmp_path)
    (control.directory / "memsw").write_text("")
    assert control.set(100)
    assert {(control.directory / name).read_text() for name in ("limit", "memsw")} == {str(100 + KERNEL_SLACK)}


def test_the_wall_can_be_moved(tmp_path: Path) -> None:
    control = v2_group(tmp_path)
    assert control.set(100)
    assert (control.directory / "memory.max").read_text() == str(100 + KERNEL_SLACK)
    assert not (control.directory / "memory.swap.max").exists()  # this kernel has no swap accounting
    (control.directory / "memory.swap.max").write_text("max")
    assert control.set(200)
    assert (control.directory / "memory.max").read_text() == str(200 + KERNEL_SLACK)
    assert (control.directory / "memory.swap.max").read_text() == "0"
    control.attach(4242)
    assert (control.directory / "cgroup.procs").read_text() == "4242"


def test_the_kernel_s_events_say_who_was_killed(tmp_path: Path) -> None:
    control = v2_group(tmp_path)
    events = control.directory / "memory.events"
    events.write_text("low 0\nhigh 3\nmax 12\noom 0\noom_kill 0\n")
    assert not control.killed()
    events.write_text("low 0\noom 1\noom_kill 1\n")
    assert control.killed()
    events.unlink()
    control.close()
    assert not control.directory.exists()


def test_a_wall_that_cannot_be_set_is_not_passed_over(tmp_path: Path) -> None:
    control = v1_group(tmp_path, wall="missing/file")
    with pytest.raises(OSError, match="No such file"):
        control.set(1)
    control.close()
    assert list(tmp_path.iterdir()) == []


def test_v1_says_where_more_is_held_already(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(self: Path, text: str) -> int:
        raise OSError(errno.EBUSY, "Device or resource busy")

    control = v1_group(tmp_path)
    monkeypatch.setattr(Path, "write_text", busy)
    assert not control.set(1)


def test_cgroups_of_killed_runs_are_cleared(tmp_path: Path) -> None:
    (tmp_path / "edgeq-999999999-0").mkdir()
    (tmp_path / f"edgeq-{os.getpid()}-x").mkdir()
    v1_group(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert "edgeq-999999999-0" not in names
    assert f"edgeq-{os.getpid()}-x" in names


def test_the_first_usable_backend_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(name: str, *, usable: bool) -> Backend:
        return Backend(name=name, usable=usable, why="so", open=SamplerOnly)

    monkeypatch.setattr(limits, "backends", lambda: (made("a", usable=False), made("b", usable=True)))
    assert open_limit().name == "sampler"
    with pytest.raises(RuntimeUnavailableError, match="cannot be used here: so"):
        open_limit("a")
    with pytest.raises(RuntimeUnavailableError, match="no memory limit named c"):
        open_limit("c")


def test_the_kernel_s_own_pages_are_not_held_against_the_child() -> None:
    assert 0 < KERNEL_SLACK <= 16 << 20
