"""Dirty memory of a process tree: anonymous + shared + swapped, what phones kill on. Clean file pages are free."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

REFRESH_EVERY = 20
"""Samples between two looks for new child processes."""
STATUS_FIELDS = ("RssAnon", "RssShmem", "VmSwap", "VmHWM", "VmData")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Bytes: `dirty` now, resident (`rss`, with mapped files) now or at its highest where the system remembers that."""

    dirty: int
    rss: int


def process_sample(pid: int) -> Sample | None:
    """The memory of one process, or None where it is gone."""
    if sys.platform == "linux":
        return _linux_sample(pid)
    return _psutil_sample(pid)


def untouched_bytes(pid: int) -> int:
    """What a process on Linux has reserved of private writable memory and never touched; 0 where it is gone."""
    kibibytes = _status(pid)
    return max(0, kibibytes.get("VmData", 0) - kibibytes.get("RssAnon", 0)) << 10


def _status(pid: int) -> dict[str, int]:
    """The memory fields of a process' status in KiB; empty where it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in status.splitlines())
    return {name: int(value.split()[0]) for name, _, value in pairs if name in STATUS_FIELDS}


def _linux_sample(pid: int) -> Sample | None:
    kibibytes = _status(pid)
    if "RssAnon" not in kibibytes:  # a zombie has no memory
        return None
    dirty = kibibytes["RssAnon"] + kibibytes["RssShmem"] + kibibytes["VmSwap"]
    return Sample(dirty=dirty << 10, rss=kibibytes["VmHWM"] << 10)


def _psutil_sample(pid: int) -> Sample | None:
    """macOS: unique set size; Windows: private bytes. Both leave mapped files out."""
    import psutil

    try:
        info = psutil.Process(pid).memory_full_info()
    except psutil.Error:
        return None
    return Sample(dirty=int(getattr(info, "private", info.uss)), rss=int(info.rss))


def descendants(pid: int) -> tuple[int, ...]:
    """Ids of all living children and their children."""
    import psutil

    try:
        return tuple(child.pid for child in psutil.Process(pid).children(recursive=True))
    except psutil.Error:
        return ()


class TreeMeter:
    """Sums samples over processes and their descendants."""

    def __init__(self, *pids: int) -> None:
        self._pids = pids
        self._children: tuple[int, ...] = ()
        self._count = 0

    def sample(self) -> Sample | None:
        """The trees' memory now, or None where all root processes are gone."""
        if self._count % REFRESH_EVERY == REFRESH_EVERY - 1:
            self._children = tuple(child for pid in self._pids for child in descendants(pid))
        self._count += 1
        roots = [*filter(None, map(process_sample, self._pids))]
        if not roots:
            return None
        samples = [*roots, *filter(None, map(process_sample, self._children))]
        return Sample(dirty=sum(one.dirty for one in samples), rss=sum(one.rss for one in samples))
