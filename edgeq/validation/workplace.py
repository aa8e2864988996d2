"""Where a validation runs: a directory on a disk, as files in memory would be charged to the judged process, and how
many cores there are."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from edgeq.files import output_errors

IN_MEMORY = ("tmpfs", "ramfs")
MOUNTS = Path("/proc/self/mounts")


@contextmanager
def working_directory(beside: Path) -> Iterator[Path]:
    """A temporary directory, removed at the end; `beside` is the place to use where all others lie in memory."""
    candidates = [Path(tempfile.gettempdir()), Path("/var/tmp"), beside]  # noqa: S108 - only a candidate's parent
    on_disk = [path for path in candidates if path.is_dir() and not lies_in_memory(path)]
    parent = (on_disk or candidates)[0]
    if os.name == "posix":
        remove_stale(parent)
    with output_errors(parent):
        temporary = tempfile.TemporaryDirectory(prefix=f"edgeq-{os.getpid()}-", dir=parent)
    with temporary as directory:
        yield Path(directory)


def remove_stale(parent: Path) -> None:
    """Remove the working directories of this user's validations that were killed: they can hold hundreds of MB."""
    for directory in parent.glob("edgeq-*-*"):
        pid = directory.name.split("-")[1]
        with suppress(OSError):
            if pid.isdecimal() and not psutil.pid_exists(int(pid)) and directory.lstat().st_uid == os.getuid():
                shutil.rmtree(directory)


def available_cores() -> int:
    """How many processors this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def lies_in_memory(path: Path, *, mounts: Path = MOUNTS) -> bool:
    """Whether a path's file system keeps its files in memory; False where the system does not say."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    resolved = path.resolve()
    found = (0, "")
    for line in lines:
        _, mount, kind, *_ = line.split(" ")
        mount = mount.replace("\\040", " ")
        # Later mounts hide earlier ones at the same place.
        if resolved.is_relative_to(mount) and len(mount) >= found[0]:
            found = (len(mount), kind)
    return found[1] in IN_MEMORY
