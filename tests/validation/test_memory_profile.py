"""What is made of a bundle's runs, with children whose memory is known: base, spike and growth are given, none runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edgeq.core.memory_profile import ContextMemory
from edgeq.core.report import MemorySection
from edgeq.errors import CorruptInputError, OutputError, RuntimeUnavailableError
from edgeq.validation import memory_profile
from edgeq.validation.configurations import Configuration
from edgeq.validation.memory import DISK_FULL, Outcome
from edgeq.validation.memory_profile import MemoryMeasurement
from edgeq.validation.running import Run, RunLimits, Work
from edgeq.validation.subject import Subject
from tests.bundle.samples import sealed_bundle

MIB = 1 << 20
UNCOUNTED, RUNTIME, WEIGHTS = 40 * MIB, 32 * MIB, 6 * MIB
CACHE_PER_TOKEN, SCRATCH_PER_TOKEN = 16 << 10, 48 << 10


@dataclass
class Machine:
    """Stands in for `run_child`: what a run of so many tokens holds, and whether that fits its limit."""

    extra: int = 0
    result: dict[str, Any] = field(default_factory=lambda: {"status": "done", "torch_loaded": False})
    returncode: int = 0
    failure: str = ""
    asked: list[tuple[Work, int, int]] = field(default_factory=list)

    def peak(self, tokens: int) -> int:
        return RUNTIME + WEIGHTS + self.extra + tokens * (CACHE_PER_TOKEN + SCRATCH_PER_TOKEN)

    def run_child(
        self,
        subject: Subject,
        configuration: Configuration,
        sequences: Sequence[Sequence[int]],
        limits: RunLimits,
        *,
        directory: Path,
        work: Work,
    ) -> Run:
        (directory / "log").write_text("last words\n")
        (sequence,) = sequences
        assert max(sequence) < subject.interface.vocabulary
        self.asked.append((work, len(sequence), limits.limit_bytes))
        peak = self.peak(len(sequence))
        survived = peak <= limits.limit_bytes
        memory = MemorySection(
            peak_dirty_bytes=peak,
            process_dirty_bytes=peak + UNCOUNTED,
            baseline_dirty_bytes=RUNTIME + UNCOUNTED,
            peak_rss_bytes=peak + UNCOUNTED,
            limit_bytes=limits.limit_bytes,
            backend="fake",
            survived=survived,
            phases={"load": RUNTIME + WEIGHTS, "prefill": peak, "decode": peak},
        )
        outcome = Outcome(
            returncode=self.returncode,
            peak_dirty_bytes=peak + UNCOUNTED,
            baseline_bytes=RUNTIME + UNCOUNTED,
            peak_rss_bytes=peak,
            limit_bytes=limits.limit_bytes,
            backend="fake",
            survived=survived,
            failure=self.failure if survived else "killed at the limit",
        )
        result = self.result | {"loaded_bytes": RUNTIME + UNCOUNTED + WEIGHTS} if survived else {}
        return Run(outcome=outcome, result=result, memory=memory)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(memory_profile, "run_child", machine.run_child)
    return machine


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return sealed_bundle(tmp_path / "work", tmp_path / "bundle")


def by_context(bundle: Path, limit: int) -> ContextMemory:
    return MemoryMeasurement.of_bundle(bundle).by_context(
        target="android", limit_bytes=limit, planned_length=64, cache_bytes_per_token=CACHE_PER_TOKEN
    )


def test_the_minimum_is_the_need(bundle: Path, machine: Machine) -> None:
    minimum = MemoryMeasurement.of_bundle(bundle).minimum()
    need = machine.peak(64)  # the sample model's whole context
    assert minimum.failed_bytes < need <= minimum.minimum_bytes <= 1.02 * need
    assert (minimum.peak_dirty_bytes, minimum.peak_phase, minimum.backend) == (need, "prefill", "fake")
    assert {work for work, _, _ in machine.asked} == {"run"}
    assert min(limit for _, _, limit in machine.asked) > RUNTIME
    trials = {trial.limit_bytes: trial for trial in minimum.trials}
    assert trials[minimum.minimum_bytes].survived
    assert not trials[minimum.failed_bytes].survived
    assert trials[minimum.failed_bytes].reason == "killed at the limit"


def test_what_does_not_come_to_its_end_does_not_run(bundle: Path, machine: Machine) -> None:
    machine.failure = "crashed with SIGABRT"
    with pytest.raises(CorruptInputError, match="does not run even without a limit: crashed with SIGABRT"):
        MemoryMeasurement.of_bundle(bundle).minimum()


def test_what_runs_in_no_limit_has_no_minimum(bundle: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a limit it is modest; within one it holds ever more."""
    modest = machine.run_child

    def greedy(*arguments: Any, **named: Any) -> Run:  # noqa: ANN401
        machine.extra = 8 * arguments[3].limit_bytes if machine.asked else 0
        return modest(*arguments, **named)

    monkeypatch.setattr(memory_profile, "run_child", greedy)
    with pytest.raises(CorruptInputError, match=r"does not run within \d+: killed at the limit"):
        MemoryMeasurement.of_bundle(bundle).minimum()


def test_a_context_that_fits_is_measured_at_its_lengths(bundle: Path, machine: Machine) -> None:
    context = by_context(bundle, 1024 * MIB)
    assert [point.tokens for point in context.points] == [32, 40, 51, 64]
    assert (context.fits_tokens, context.bound, context.context_length) == (64, "target", 64)
    assert context.growth_bytes_per_token == pytest.approx(CACHE_PER_TOKEN + SCRATCH_PER_TOKEN)
    for point in context.points:
        assert point.peak_dirty_bytes == machine.peak(point.tokens)
        assert (point.runtime_bytes, point.weights_bytes) == (RUNTIME, WEIGHTS)
        assert point.cache_bytes == point.tokens * CACHE_PER_TOKEN
        assert point.scratch_bytes == point.tokens * SCRATCH_PER_TOKEN
    assert {(work, limit) for work, _, limit in machine.asked} == {("fill", 1024 * MIB)}


@pytest.mark.parametrize("longest", [0, 1, 31, 32, 45, 63])
def test_the_longest_context_within_a_limit_is_found(bundle: Path, machine: Machine, longest: int) -> None:
    context = by_context(bundle, machine.peak(longest) + 1)
    assert (context.fits_tokens, context.bound) == (longest, "memory")
    assert all(point.survived == (point.tokens <= longest) for point in context.points)
    assert all(point.reason == "killed at the limit" for point in context.points if not point.survived)
    assert len(machine.asked) == len(context.points)  # no length twice


def test_another_end_than_memory_s_is_no_bound(bundle: Path, machine: Machine) -> None:
    machine.failure = "did not end within 5 s"
    with pytest.raises(CorruptInputError, match="does not run with 32 tokens: did not end within 5 s"):
        by_context(bundle, 1024 * MIB)


def test_a_missing_runtime_is_said(bundle: Path, machine: Machine) -> None:
    machine.result = {"status": "runtime_missing", "reason": "ONNX Runtime cannot be imported.", "torch_loaded": False}
    with pytest.raises(RuntimeUnavailableError, match="cannot be imported"):
        MemoryMeasurement.of_bundle(bundle).minimum()


def test_a_full_disk_is_said(bundle: Path, machine: Machine) -> None:
    machine.returncode = DISK_FULL
    with pytest.raises(OutputError, match="disk is full"):
        MemoryMeasurement.of_bundle(bundle).minimum()


def test_a_changed_bundle_is_not_measured(bundle: Path, machine: Machine) -> None:
    (bundle / "README.md").write_text("changed")
    with pytest.raises(CorruptInputError, match=r"README\.md"):
        MemoryMeasurement.of_bundle(bundle)
    assert machine.asked == []


@pytest.mark.skipif("__import__('sys').platform == 'darwin'", reason="Core ML runs there")
def test_an_interpreter_s_memory_is_not_measured(tmp_path: Path, machine: Machine) -> None:
    bundle = sealed_bundle(tmp_path / "work", tmp_path / "bundle", surface="ios", format="coreml")
    with pytest.raises(RuntimeUnavailableError, match="an interpreter ran the program"):
        MemoryMeasurement.of_bundle(bundle)
    assert machine.asked == []
