"""One run of a bundle: the child process, how it ended, and the gates that follow from it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgeq.core.details import Answer, Continuation, MemorySample
from edgeq.core.records import to_plain
from edgeq.core.report import Drift, DriftSection, Gate, MemorySection, SpeedSection, Verdict
from edgeq.core.task import TASKS
from edgeq.errors import CorruptInputError, OutputError
from edgeq.files import output_errors
from edgeq.progress import Progress
from edgeq.runtimes.opening import runs_apart
from edgeq.validation.child import ANSWERS
from edgeq.validation.configurations import Configuration
from edgeq.validation.drift import class_drift, embedding_drift, language_drift
from edgeq.validation.gates import (
    Criteria,
    batch_gate,
    drift_gates,
    memory_gates,
    prefill_gate,
    same,
    unjudged_memory_gate,
)
from edgeq.validation.launching import Launch, native_launch
from edgeq.validation.limits import SamplerOnly
from edgeq.validation.memory import (
    DISK_FULL,
    LIMITED_FROM,
    RUNTIME_BYTES,
    Outcome,
    read_tail,
    run_limited,
    uncounted_bytes,
)
from edgeq.validation.reference_set import ReferenceSet
from edgeq.validation.subject import Subject
from edgeq.validation.tensor_cases import TensorCases, difference_of, tensor_drift
from edgeq.validation.texts import answers_of, decoder, tokens_of, with_texts

FREE_SPACE = "Free some space, or point TMPDIR at another disk; then run the same command."
_NOT_THE_ARTIFACT = ("start", "runtime", "end")
"""Phases before the artifact is opened and after its work."""
Values = npt.NDArray[np.floating[Any]]
References = ReferenceSet | TensorCases
Work = Literal["judge", "answer", "run", "fill", "text"]
"""What a child does once the model is open: time it and answer all sequences; only answer them; only time it; fill a
context; or with the text graphs, read and write texts."""


@dataclass(frozen=True, kw_only=True)
class RunLimits:
    """What a run is held to. backend: a memory limit by name, by default the best one of this machine. timeout in
    seconds."""

    limit_bytes: int
    backend: str | None
    timeout: float


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What one run showed. `missing` says why it could not be judged at all, "" where it was: then memory, drift and
    speed are None, and there are no gates."""

    gates: tuple[Gate, ...] = ()
    memory: MemorySection | None = None
    drift: DriftSection | None = None
    speed: SpeedSection | None = None
    planned_memory: dict[str, int] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    runtime_version: str = ""
    missing: str = ""


@dataclass(frozen=True, kw_only=True)
class Run:
    """The child's end and what it wrote down."""

    outcome: Outcome
    result: dict[str, Any]
    memory: MemorySection | None


def run(
    subject: Subject,
    configuration: Configuration,
    references: References,
    criteria: Criteria,
    limits: RunLimits,
    *,
    directory: Path,
    progress: Progress,
    launch: Launch | None = None,
) -> Judgement:
    """Run a bundle in one way, with `directory`, which is empty, for what the child writes.

    launch: how its process starts, by default natively; in an emulator neither memory nor speed is judged. Raises
    OutputError where the disk is full, CorruptInputError where the reference does not fit.
    """
    is_first = configuration.tokens is None
    references = references.leading(configuration.tokens)
    sequences: tuple[tuple[int, ...], ...]
    asked: tuple[Continuation, ...] = ()
    cases: Path | None
    if isinstance(references, TensorCases):
        sequences, cases = (), references.directory
    else:
        sequences, cases = references.sequences, None
        asked = _continued(references, subject.interface.context_length) if is_first else ()
    work: Work = "answer" if launch is not None and launch.is_emulated else "judge"
    done = run_child(
        subject,
        configuration,
        sequences,
        limits,
        directory=directory,
        work=work,
        launch=launch,
        cases=cases,
        continuations=asked,
    )
    if done.result.get("status") == "runtime_missing":
        return Judgement(missing=str(done.result["reason"]))
    if launch is not None and launch.is_emulated and done.outcome.baseline_bytes is None:
        # Nothing of the bundle was opened yet: it is the emulator that does not work here.
        return Judgement(missing=f"It did not start in the emulator: {completed(done, directory, subject).reason}.")
    if done.outcome.returncode == DISK_FULL:
        raise OutputError(f"The disk is full: {directory} could not hold the bundle's answers.", remedy=FREE_SPACE)
    return _judge(subject, done, references, criteria, directory=directory, progress=progress)


def _judge(
    subject: Subject,
    done: Run,
    references: References,
    criteria: Criteria,
    *,
    directory: Path,
    progress: Progress,
) -> Judgement:
    """From what the child left in `directory` to gates: memory, that it came to its end, drift."""
    result, memory = done.result, None if subject.is_reference else done.memory
    planned, version = dict(result.get("planned_memory", {})), str(result.get("runtime_version", ""))
    gates: tuple[Gate, ...] = ()
    if memory is not None:
        gates += memory_gates(memory, done.outcome.failure)
    elif subject.is_reference:
        gates += (unjudged_memory_gate(sum(planned.values())),)
    if done.outcome.survived or memory is None:
        gates += (completed(done, directory, subject),)
    if not done.outcome.survived or gates[-1].verdict is not Verdict.PASSED:
        return Judgement(gates=gates, memory=memory, planned_memory=planned, runtime_version=version)
    progress.stage("measuring drift")
    if isinstance(references, TensorCases):
        drift = tensor_drift(references, directory / ANSWERS)
    else:
        drift = _drift(references, subject, directory / ANSWERS, result.get("continuations", ()))
    gates += drift_gates(drift, criteria, subject.interface.vocabulary)
    if "batch_cosine_min" in result:
        gates += (batch_gate(float(result["batch_cosine_min"]), criteria),)
    if "prefill_error" in result:
        gates += (prefill_gate(float(result["prefill_error"]), criteria),)
    return Judgement(
        gates=gates,
        memory=memory,
        drift=drift,
        speed=SpeedSection(**result["speed"]),
        planned_memory=planned,
        facts=dict(result["facts"]),
        runtime_version=version,
    )


def run_child(
    subject: Subject,
    configuration: Configuration,
    sequences: Sequence[Sequence[int]],
    limits: RunLimits,
    *,
    directory: Path,
    work: Work = "judge",
    launch: Launch | None = None,
    cases: Path | None = None,
    continuations: Sequence[Continuation] = (),
    more: Mapping[str, object] | None = None,
) -> Run:
    """Run a bundle's child in `directory`, which is empty; nothing it does raises here. cases: a module's inputs.
    continuations: of the float model, whose prompts the bundle is to continue by as many tokens."""
    request = {
        "work": work,
        "format": subject.format,
        "model": str(configuration.model.absolute()),
        "interface": to_plain(subject.interface),
        "threads": configuration.threads,
        "execution_provider": configuration.execution_provider,
        "profile": {"compute_unit": subject.compute_unit},
        "sequences": sequences,
        "cases": None if cases is None else str(cases.absolute()),
        "prompts": [{"ids": one.prompt, "tokens": len(one.tokens)} for one in continuations],
        "output": str(directory),
        **(more or {}),
    }
    path = directory / "request.json"
    with output_errors(path):
        path.write_text(json.dumps(request), encoding="utf-8")
    launch = launch or native_launch()
    # Of a browser those processes that hold the model are judged: no limit is around them alone, and all is a tab's.
    is_apart = runs_apart(subject.format)
    runtime_bytes = None if is_apart else RUNTIME_BYTES
    outcome = run_limited(
        [*launch.interpreter, "-P", "-m", "edgeq.validation.child", str(path)],
        limit_bytes=limits.limit_bytes,
        log=directory / "log",
        phases=directory / "phases",
        limited_from=LIMITED_FROM,
        runtime_bytes=runtime_bytes,
        backend=SamplerOnly.name if is_apart else limits.backend,
        environment=launch.environment,
        timeout=limits.timeout,
    )
    memory = None if launch.is_emulated else _memory(outcome, runtime_bytes)
    return Run(outcome=outcome, result=_result(directory / "result.json"), memory=memory)


def _result(path: Path) -> dict[str, Any]:
    """What the child wrote down, nothing where it did not come to that."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _memory(outcome: Outcome, runtime_bytes: int | None) -> MemorySection | None:
    """The artifact's memory; None where the child ended before it opened the artifact."""
    if outcome.baseline_bytes is None:
        return None
    uncounted = uncounted_bytes(outcome.baseline_bytes, runtime_bytes)
    return MemorySection(
        peak_dirty_bytes=outcome.peak_dirty_bytes - uncounted,
        process_dirty_bytes=outcome.peak_dirty_bytes,
        baseline_dirty_bytes=outcome.baseline_bytes,
        peak_rss_bytes=outcome.peak_rss_bytes,
        limit_bytes=outcome.limit_bytes,
        backend=outcome.backend,
        survived=outcome.survived,
        phases={
            name: max(0, peak - uncounted) for name, peak in outcome.phases.items() if name not in _NOT_THE_ARTIFACT
        },
        samples=tuple(
            MemorySample(seconds=round(seconds, 4), dirty_bytes=max(0, dirty - uncounted), phase=phase)
            for seconds, dirty, phase in outcome.samples
            if phase not in _NOT_THE_ARTIFACT
        ),
    )


def completed(done: Run, directory: Path, subject: Subject) -> Gate:
    """Whether the child did all that it was asked for, alone with its runtime."""
    opened = done.outcome.baseline_bytes is not None
    if done.outcome.failure:
        last = read_tail(directory / "log").strip().splitlines()[-1:]
        where = [] if opened else ["the runtime did not load"]
        reason = ": ".join([*where, done.outcome.failure, *(line[:300] for line in last)])
    elif done.result.get("status") != "done":
        reason = str(done.result.get("reason", "it left no result"))
    elif not opened:
        reason = "it told no baseline of its memory"
    else:
        stowaway = subject.format == "onnx" and done.result["torch_loaded"]
        reason = "torch was loaded beside the runtime" if stowaway else ""
    return same("completed", "no" if reason else "yes", "yes", reason)


def _drift(references: ReferenceSet, subject: Subject, answers: Path, written: Sequence[Sequence[int]]) -> DriftSection:
    """written: what the artifact continued the first prompts with."""
    artifact = [np.load(answers / f"{index:04d}.npy", mmap_mode="r") for index in range(len(references.sequences))]
    indices = range(len(artifact))
    dequantized = [references.dequantized_values(index) for index in indices]
    original = [references.float_values(index) for index in indices]
    for index in indices:
        if not original[index].shape == dequantized[index].shape == artifact[index].shape:
            raise CorruptInputError(
                f"The reference of sequence {index} has another shape than the artifact's answer.",
                remedy="Export the bundle again.",
            )
    decode = decoder(subject.tokenizer) if references.task == "text-generation" else None
    answered: tuple[Answer, ...] = ()
    if decode:
        asked = _continued(references, subject.interface.context_length)
        answered = answers_of([one.prompt for one in asked], original, artifact, decode)
        answered = with_texts(answered, asked, written, subject.interface.end_of_text_ids, decode)
    return DriftSection(
        quantization=_compare(references, original, dequantized),
        lowering=_compare(references, dequantized, artifact),
        total=_compare(references, original, artifact),
        tokens=tokens_of(references.sequences[0], original[0], dequantized[0], artifact[0], decode) if decode else (),
        answers=answered,
        layers=references.details().layers,
    )


def difference(references: References, answers: Path, others: Path) -> Drift:
    """Of the answers in one run's directory, those of another against them."""
    if isinstance(references, TensorCases):
        return difference_of(references, answers, others)
    indices = range(len(references.sequences))
    a, b = ([np.load(where / f"{index:04d}.npy", mmap_mode="r") for index in indices] for where in (answers, others))
    return _compare(references, a, b)


def _continued(references: ReferenceSet, context_length: int) -> tuple[Continuation, ...]:
    """What the float model wrote, as far as the artifact's context reaches."""
    return tuple(
        replace(one, tokens=one.tokens[: max(0, context_length - len(one.prompt))])
        for one in references.details().continuations
    )


def _compare(references: ReferenceSet, a: Sequence[Values], b: Sequence[Values]) -> Drift:
    if references.task == "text-generation":
        return language_drift(_pairs(references, a, b))
    if TASKS[references.task].is_classifier:
        return class_drift(zip(a, b, strict=True), multi_label=references.multi_label)
    return embedding_drift(np.concatenate([np.atleast_2d(x) for x in a]), np.concatenate([np.atleast_2d(x) for x in b]))


def _pairs(
    references: ReferenceSet, a: Sequence[Values], b: Sequence[Values]
) -> Iterator[tuple[Values, Values, Sequence[int]]]:
    return zip(a, b, references.sequences, strict=True)
