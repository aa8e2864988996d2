"""Measuring a bundle's memory in its real runtime: the smallest limit that it runs in, and its peak by context length.
Each figure is that of a child process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from edgeq.core.memory_profile import ContextMemory, ContextPoint, MemoryTrial, MinimumMemory
from edgeq.core.report import MemorySection, Verdict
from edgeq.errors import CorruptInputError, OutputError, RuntimeUnavailableError, UsageError
from edgeq.progress import Progress, SilentProgress
from edgeq.runtimes.opening import read_manifest
from edgeq.validation.bisection import Bracket, Survives, longest_length, smallest_limit
from edgeq.validation.configurations import Configuration, configurations_of
from edgeq.validation.context_memory import bound_of, first_highest, growth_per_token, lengths_to_measure, parts_of
from edgeq.validation.memory import DISK_FULL
from edgeq.validation.running import FREE_SPACE, RunLimits, Work, completed, run_child
from edgeq.validation.subject import Subject
from edgeq.validation.workplace import working_directory

TOLERANCE = 0.02
FINEST_BYTES = 256 << 10
"""Two runs of the same bundle differ by about so much: allocators hand out pages, and threads take them in turn."""
REPEATS = 3
SEQUENCE_TOKENS = 128
TIMEOUT_SECONDS = 1800.0
NO_MEMORY = "an interpreter ran the program, not its own runtime: its memory says nothing of the device"


@dataclass(frozen=True, kw_only=True)
class _Trial:
    """One child: `reason` is empty where it came to its end within the limit, is_over_limit says whether the limit
    ended it; memory is None where it opened nothing. loaded_bytes: what the process held when the model was open.
    """

    reason: str
    memory: MemorySection | None
    loaded_bytes: int
    is_over_limit: bool


@dataclass(frozen=True, kw_only=True)
class MemoryMeasurement:
    """A bundle whose memory is measured, in the first of its configurations. backend: a memory limit by name, by
    default the best one of this machine. timeout: seconds for each run."""

    subject: Subject
    configuration: Configuration
    backend: str | None
    timeout: float
    progress: Progress

    @classmethod
    def of_bundle(
        cls,
        bundle: Path,
        *,
        backend: str | None = None,
        timeout: float = TIMEOUT_SECONDS,
        progress: Progress | None = None,
    ) -> MemoryMeasurement:
        """Raises RuntimeUnavailableError where this machine cannot tell the memory of the bundle's format,
        BadInputError where the bundle is not as its manifest says."""
        subject = Subject.from_manifest(bundle, read_manifest(bundle))
        if subject.is_reference:
            raise RuntimeUnavailableError(
                f"The memory of {bundle} cannot be measured here: {NO_MEMORY}.", remedy="Measure it on a Mac."
            )
        if subject.interface.task == "module":
            raise UsageError(
                f"{bundle} is a plain module, whose context has no length and whose inputs set its memory.",
                remedy="Read the peak that `edgeq validate` measures.",
            )
        if wrong := subject.wrong_file():
            raise CorruptInputError(f"{bundle}: {wrong}.", remedy="Export the bundle again.")
        return cls(
            subject=subject,
            configuration=configurations_of(subject)[0],
            backend=backend,
            timeout=timeout,
            progress=progress or SilentProgress(),
        )

    def minimum(self) -> MinimumMemory:
        """The smallest limit in which the model is loaded, reads a prompt and writes, or encodes.

        Raises CorruptInputError where the bundle does not run without a limit, or not in several times its own peak.
        """
        self.progress.stage("measuring the peak")
        memory = self._unlimited()
        trials: list[MemoryTrial] = []

        def survives(limit: int) -> bool:
            trials.append(self._under(limit))
            return trials[-1].survived

        peak = memory.peak_dirty_bytes
        self.progress.stage("finding the smallest memory")
        found = smallest_limit(
            survives,
            failing=min(_charged(memory), peak - 1),
            peak=peak,
            tolerance=TOLERANCE,
            finest=FINEST_BYTES,
            repeats=REPEATS,
        )
        if found is None:
            raise CorruptInputError(
                f"The bundle held {peak} bytes without a limit, and does not run within {trials[-1].limit_bytes}: "
                f"{trials[-1].reason}.",
                remedy="Free some memory of this machine and try again.",
            )
        return _minimum(found, memory, trials)

    def by_context(
        self, *, target: str, limit_bytes: int, planned_length: int, cache_bytes_per_token: int
    ) -> ContextMemory:
        """Peaks at several lengths of the context under `limit_bytes`, and the longest that runs.

        planned_length: the target's context. cache_bytes_per_token: one copy of the key-value cache. Raises
        CorruptInputError where something else than memory ends a run.
        """
        context = self.subject.interface.context_length
        self.progress.stage("measuring memory by context length")
        points: list[ContextPoint] = []
        backends: list[str] = []

        def fits(tokens: int) -> bool:
            trial = self._fill(tokens, limit_bytes)
            backends.extend([] if trial.memory is None else [trial.memory.backend])
            points.append(_point(tokens, trial, cache_bytes_per_token * tokens))
            return points[-1].survived

        longest = _longest(fits, lengths_to_measure(context))
        measured = [(one.tokens, one.peak_dirty_bytes) for one in points if one.peak_dirty_bytes is not None]
        return ContextMemory(
            target=target,
            limit_bytes=limit_bytes,
            context_length=context,
            fits_tokens=longest,
            bound=bound_of(longest, context_length=context, planned_length=planned_length),
            cache_bytes_per_token=cache_bytes_per_token,
            growth_bytes_per_token=growth_per_token(measured),
            backend=backends[0] if backends else "",
            points=tuple(sorted(points, key=lambda point: point.tokens)),
        )

    def _unlimited(self) -> MemorySection:
        """The memory of a run that nothing but the machine limits. Raises CorruptInputError where it does not run."""
        trial = self._run("run", self._sequences(), psutil.virtual_memory().total)
        if trial.reason or trial.memory is None:
            raise CorruptInputError(
                f"The bundle does not run even without a limit: {trial.reason}.",
                remedy="`edgeq validate` says what is wrong with it.",
            )
        return trial.memory

    def _under(self, limit: int) -> MemoryTrial:
        trial = self._run("run", self._sequences(), limit)
        peak = None if trial.memory is None else trial.memory.peak_dirty_bytes
        return MemoryTrial(limit_bytes=limit, survived=not trial.reason, peak_dirty_bytes=peak, reason=trial.reason)

    def _fill(self, tokens: int, limit: int) -> _Trial:
        trial = self._run("fill", [self._sequence(tokens)], limit)
        if trial.reason and not trial.is_over_limit:
            raise CorruptInputError(
                f"The bundle does not run with {tokens} tokens: {trial.reason}.",
                remedy="`edgeq validate` says what is wrong with it.",
            )
        return trial

    def _run(self, work: Work, sequences: list[list[int]], limit: int) -> _Trial:
        limits = RunLimits(limit_bytes=limit, backend=self.backend, timeout=self.timeout)
        with working_directory(self.subject.directory.absolute().parent) as directory:
            done = run_child(self.subject, self.configuration, sequences, limits, directory=directory, work=work)
            if done.result.get("status") == "runtime_missing":
                raise RuntimeUnavailableError(str(done.result["reason"]), remedy="See `edgeq doctor`.")
            if done.outcome.returncode == DISK_FULL:
                raise OutputError(f"The disk is full: {directory} could not hold what was measured.", remedy=FREE_SPACE)
            gate = completed(done, directory, self.subject)
        ended_well = done.outcome.survived and gate.verdict is Verdict.PASSED
        return _Trial(
            reason="" if ended_well else done.outcome.failure or gate.reason,
            memory=done.memory,
            loaded_bytes=int(done.result.get("loaded_bytes", 0)),
            is_over_limit=not done.outcome.survived,
        )

    def _sequences(self) -> list[list[int]]:
        return [self._sequence(min(SEQUENCE_TOKENS, self.subject.interface.context_length))]

    def _sequence(self, tokens: int) -> list[int]:
        """Any ids do: what a model holds does not depend on what they say."""
        return [index % self.subject.interface.vocabulary for index in range(tokens)]


def _longest(fits: Survives, lengths: Sequence[int]) -> int:
    """The longest length that fits; up to the first of `lengths` that does not, each is measured."""
    below = 0
    for length in lengths:
        if not fits(length):
            return longest_length(fits, fitting=below, failing=length, tolerance=TOLERANCE).survived
        below = length
    return below


def _minimum(found: Bracket, memory: MemorySection, trials: list[MemoryTrial]) -> MinimumMemory:
    return MinimumMemory(
        minimum_bytes=found.survived,
        failed_bytes=found.failed,
        peak_dirty_bytes=memory.peak_dirty_bytes,
        peak_phase=first_highest(memory.phases),
        backend=memory.backend,
        phases=memory.phases,
        trials=tuple(trials),
    )


def _point(tokens: int, trial: _Trial, cache_bytes: int) -> ContextPoint:
    if trial.reason or trial.memory is None:
        return ContextPoint(tokens=tokens, survived=False, reason=trial.reason)
    memory = trial.memory
    uncharged = memory.process_dirty_bytes - memory.peak_dirty_bytes
    parts = parts_of(
        memory.peak_dirty_bytes,
        runtime=_charged(memory),
        loaded=trial.loaded_bytes - uncharged,
        cache=cache_bytes,
    )
    return ContextPoint(
        tokens=tokens,
        survived=True,
        peak_dirty_bytes=memory.peak_dirty_bytes,
        runtime_bytes=parts.runtime,
        weights_bytes=parts.weights,
        cache_bytes=parts.cache,
        scratch_bytes=parts.scratch,
        peak_phase=first_highest(memory.phases),
        phases=memory.phases,
    )


def _charged(memory: MemorySection) -> int:
    """What of the baseline counts against a limit: what a runtime takes in an app."""
    return memory.baseline_dirty_bytes - (memory.process_dirty_bytes - memory.peak_dirty_bytes)
