"""Who computes: one thread per core, each running torch's operations alone, or torch with all cores at once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

MOST_THREADS = 8


def cores() -> int:
    """How many threads compute at once."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(available, MOST_THREADS)


@contextmanager
def all_threads() -> Iterator[None]:
    """Within the block torch uses all cores for one operation, as large products want it."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(cores())
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def workers() -> Iterator[ThreadPoolExecutor]:
    """One thread per core, each running torch's operations alone: rows are better parallel than single additions."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    # glibc hands buffers of a few MB back to the system at every free until it has seen a larger one freed.
    large = torch.empty(6 << 20)
    del large
    pool = ThreadPoolExecutor(cores(), thread_name_prefix="quantize")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(before)
