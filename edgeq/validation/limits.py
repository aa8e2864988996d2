"""Memory limits that the system enforces on a child: cgroup v2, cgroup v1, RLIMIT_DATA, or none but the sampler."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from edgeq.errors import InternalError, RuntimeUnavailableError
from edgeq.validation.meter import untouched_bytes

KERNEL_SLACK = 8 << 20
"""Page tables, kernel stacks and batched charges count in a cgroup beside the pages that the gate is about."""
RESERVED_SLACK = 192 << 20
"""RLIMIT_DATA counts what is reserved and never touched: thread stacks (8 MB each), the allocators' arenas, OpenBLAS'
buffer. ONNX Runtime with 95 MB of weights and two threads reserved 95 MiB more than it touched. What is reserved
already when the limit is set comes on top."""

_serial = itertools.count()


class Limit(Protocol):
    """A wall around one process tree. The sampler's own gate comes on top of it, exact to a sample."""

    name: str

    def attach(self, pid: int) -> None:
        """Put a process within the wall before it allocates anything."""
        ...

    def set(self, limit_bytes: int) -> bool:
        """From now on the tree may hold so much dirty memory. False where it holds more already."""
        ...

    def killed(self) -> bool:
        """Whether the system killed for memory within this limit."""
        ...

    def close(self) -> None:
        """End what is left of the tree and remove every trace of the limit."""
        ...


@dataclass(frozen=True, kw_only=True)
class Backend:
    """One way to limit memory: why it is (not) usable here, and how to open it; nothing is limited until it is set."""

    name: str
    usable: bool
    why: str
    open: Callable[[], Limit]


class ControlGroup:
    """A new memory cgroup below `parent`; both versions differ only in the names of their files."""

    def __init__(self, name: str, parent: Path, *, wall: str, swap: str, swap_wall: int | None, events: str) -> None:
        """wall, swap and events are files; `swap` is set to `swap_wall`, or to the wall itself where that is None."""
        self.name = name
        self._wall, self._swap, self._swap_wall, self._events = wall, swap, swap_wall, events
        _remove_stale(parent)
        self.directory = parent / f"edgeq-{os.getpid()}-{next(_serial)}"
        self.directory.mkdir()

    def attach(self, pid: int) -> None:
        (self.directory / "cgroup.procs").write_text(str(pid))

    def set(self, limit_bytes: int) -> bool:
        wall = limit_bytes + KERNEL_SLACK
        settings = {self._wall: wall}
        if (self.directory / self._swap).exists():  # kernels without swap accounting lack it
            settings[self._swap] = wall if self._swap_wall is None else self._swap_wall
        try:
            for file, value in settings.items():
                (self.directory / file).write_text(str(value))
        except OSError as error:
            if error.errno == errno.EBUSY:  # cgroup v1 cannot reclaim down to it
                return False
            raise
        return True

    def killed(self) -> bool:
        lines = (self.directory / self._events).read_text().splitlines()
        counts = dict(line.split(maxsplit=1) for line in lines if " " in line)
        return int(counts.get("oom_kill", "0")) > 0

    def close(self) -> None:
        deadline = time.monotonic() + 10.0
        while time.monotonic() < deadline:
            for pid in _members(self.directory):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            try:
                self.directory.rmdir()
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.01)
            else:
                return
        raise InternalError(f"The cgroup {self.directory} cannot be removed.", remedy=f"Run: rmdir {self.directory}.")


class DataLimit:
    """RLIMIT_DATA: the kernel refuses private writable memory, so the child sees an allocation fail."""

    name = "rlimit_data"

    def __init__(self) -> None:
        self._pid = 0

    def attach(self, pid: int) -> None:
        self._pid = pid

    def set(self, limit_bytes: int) -> bool:
        if sys.platform == "linux":
            import resource

            size = limit_bytes + RESERVED_SLACK + untouched_bytes(self._pid)
            with suppress(ProcessLookupError):
                resource.prlimit(self._pid, resource.RLIMIT_DATA, (size, size))
        return True

    def killed(self) -> bool:
        return False

    def close(self) -> None:
        pass


class SamplerOnly:
    """No help from the system: the parent kills the child when a sample exceeds the limit."""

    name = "sampler"

    def attach(self, pid: int) -> None:
        pass

    def set(self, limit_bytes: int) -> bool:
        return True

    def killed(self) -> bool:
        return False

    def close(self) -> None:
        pass


def backends() -> tuple[Backend, ...]:
    """All backends in order of preference, with what this machine says about each."""
    return (_cgroup_v2(), _cgroup_v1(), _rlimit_data(), _sampler())


def open_limit(backend: str | None = None) -> Limit:
    """The first usable backend, or the named one. Raises RuntimeUnavailableError where the named one is not usable."""
    for candidate in backends():
        if backend in (None, candidate.name):
            if candidate.usable:
                return candidate.open()
            if backend is not None:
                raise RuntimeUnavailableError(
                    f"The memory limit {backend} cannot be used here: {candidate.why}.", remedy="See edgeq doctor."
                )
    raise RuntimeUnavailableError(f"There is no memory limit named {backend}.", remedy="See edgeq doctor.")


def _cgroup_v2() -> Backend:
    parent, why = _find_v2()

    def open_group() -> Limit:
        # No swap: what Android lets an app swap out counts against the same limit.
        return ControlGroup(
            "cgroup_v2",
            parent or Path(),
            wall="memory.max",
            swap="memory.swap.max",
            swap_wall=0,
            events="memory.events",
        )

    return Backend(name="cgroup_v2", usable=parent is not None, why=why, open=open_group)


def _cgroup_v1() -> Backend:
    parent, why = _find_v1()

    def open_group() -> Limit:
        return ControlGroup(
            "cgroup_v1",
            parent or Path(),
            wall="memory.limit_in_bytes",
            swap="memory.memsw.limit_in_bytes",
            swap_wall=None,
            events="memory.oom_control",
        )

    return Backend(name="cgroup_v1", usable=parent is not None, why=why, open=open_group)


def _rlimit_data() -> Backend:
    usable = sys.platform == "linux"
    why = "an allocation beyond the limit fails in the child" if usable else "only Linux counts private mappings"
    return Backend(name="rlimit_data", usable=usable, why=why, open=DataLimit)


def _sampler() -> Backend:
    return Backend(
        name="sampler",
        usable=True,
        why="the parent kills on a breach; short peaks can be missed",
        open=SamplerOnly,
    )


def _find_v2() -> tuple[Path | None, str]:
    """The nearest cgroup, from our own upwards, that hands its memory controller to children that we may create."""
    place = _own_cgroup("cgroup2", "")
    if place is None:
        return None, "cgroup v2 is not mounted"
    mount, own = place
    if "memory" not in _words(mount / "cgroup.controllers"):
        return None, "the memory controller is not in the unified hierarchy"
    for directory in (own, *own.parents):
        if "memory" in _words(directory / "cgroup.subtree_control"):
            why = _try_create(directory)
            return (directory, f"below {directory}") if why is None else (None, why)
        if directory == mount:
            break
    return None, "no cgroup above this process delegates the memory controller"


def _find_v1() -> tuple[Path | None, str]:
    place = _own_cgroup("cgroup", "memory")
    if place is None:
        return None, "the memory controller of cgroup v1 is not mounted"
    _, own = place
    why = _try_create(own)
    return (own, f"below {own}") if why is None else (None, why)


def _own_cgroup(filesystem: str, controller: str) -> tuple[Path, Path] | None:
    """`(mount point, this process' directory)` of a hierarchy; a container sees only a part of it below its mount."""
    for line in _lines(Path("/proc/self/mountinfo")):
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        if kind != filesystem or (controller and controller not in options.split(",")):
            continue
        root, mount = fields.split()[3:5]
        for entry in _lines(Path("/proc/self/cgroup")):
            _, controllers, path = entry.split(":", 2)
            if controllers.split(",") == [""] if not controller else controller in controllers.split(","):
                inside = PurePosixPath(path)
                relative = inside.relative_to(root) if inside.is_relative_to(root) else PurePosixPath()
                return Path(mount), Path(mount) / relative
    return None


def _try_create(parent: Path) -> str | None:
    """None where a child cgroup can be made below `parent`, else the reason."""
    probe = parent / f"edgeq-{os.getpid()}-{next(_serial)}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        return f"no cgroup can be made below {parent} ({error.strerror})"
    return None if os.access(parent / "cgroup.procs", os.W_OK) else f"{parent} takes no processes from this user"


def _remove_stale(parent: Path) -> None:
    """Cgroups that an edgeq which was killed left behind; their processes are gone, so rmdir succeeds."""
    for directory in parent.glob("edgeq-*-*"):
        if not Path(f"/proc/{directory.name.split('-')[1]}").exists():
            with suppress(OSError):
                directory.rmdir()


def _members(directory: Path) -> list[int]:
    return [int(line) for line in _lines(directory / "cgroup.procs")]


def _words(path: Path) -> list[str]:
    return [word for line in _lines(path) for word in line.split()]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
