"""Memory over time keeps its peaks in little room."""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path

import edgeq
from edgeq.validation.memory import run_limited
from edgeq.validation.trace import FINEST_SECONDS, MOST_PER_PHASE, Trace


def test_few_readings_are_kept_as_they_are() -> None:
    trace = Trace()
    readings = [(1.0, 10, "load"), (1.5, 30, "load"), (2.0, 20, "decode"), (2.5, 5, "decode")]
    for reading in readings:
        trace.add(*reading)
    assert trace.samples() == readings


def test_a_long_run_keeps_every_phase_and_its_peak() -> None:
    trace = Trace()
    trace.add(0.0, 1, "load")
    trace.add(0.004, 999, "load")  # a spike of one reading
    trace.add(0.008, 2, "load")
    for index in range(100_000):
        trace.add(1.0 + 0.005 * index, 500 if index == 77_777 else 100, "decode")
    samples = trace.samples()
    assert len(samples) <= 3 + MOST_PER_PHASE
    assert (0.004, 999, "load") in samples
    assert [round(seconds, 3) for seconds, dirty, _ in samples if dirty == 500] == [round(1.0 + 0.005 * 77_777, 3)]
    assert all(before[0] < after[0] for before, after in itertools.pairwise(samples))
    assert len(samples) > MOST_PER_PHASE // 4


def test_of_readings_in_one_instant_the_highest_is_kept() -> None:
    trace = Trace()
    for dirty in (5, 9, 7):
        trace.add(FINEST_SECONDS / 10, dirty, "load")
    assert trace.samples() == [(FINEST_SECONDS / 10, 9, "load")]


def test_a_phase_that_comes_again_goes_on() -> None:
    trace = Trace()
    for seconds, phase in ((0.0, "a"), (1.0, "b"), (2.0, "a")):
        trace.add(seconds, 1, phase)
    assert [(seconds, phase) for seconds, _, phase in trace.samples()] == [(0.0, "a"), (2.0, "a"), (1.0, "b")]


CHILD = """
import pathlib, sys
from edgeq.validation.memory import announce, await_limit
phases = pathlib.Path(sys.argv[1])
announce(phases, "load")
await_limit()
held = bytearray(b"x") * (64 << 20)
announce(phases, "decode")
del held
announce(phases, "end")
"""


def test_a_spike_while_loading_is_in_the_samples(tmp_path: Path) -> None:
    phases = tmp_path / "phases"
    outcome = run_limited(
        [sys.executable, "-c", CHILD, str(phases)],
        limit_bytes=1 << 30,
        log=tmp_path / "log",
        phases=phases,
        limited_from="load",
        backend="sampler",
        environment={**os.environ, "PYTHONPATH": str(Path(edgeq.__file__).parent.parent)},
    )
    assert outcome.failure == ""
    assert {phase for _, _, phase in outcome.samples} <= {"load", "decode", "end"}
    assert outcome.baseline_bytes is not None
    spike = max(dirty for _, dirty, phase in outcome.samples if phase == "load")
    assert spike == outcome.phases["load"] == outcome.peak_dirty_bytes
    assert spike >= outcome.baseline_bytes + (64 << 20)
    assert all(seconds >= 0 for seconds, _, _ in outcome.samples)
