"""Does this bundle work here? Runs it in its real runtime, under the device's limits, against the original model."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

import edgeq
from edgeq.core.records import to_plain
from edgeq.core.report import Drift, DriftSection, EnvironmentSection, Gate, MemorySection, SpeedSection, Verdict
from edgeq.core.target import Format
from edgeq.errors import BadInputError, CorruptInputError, OutputError, RuntimeUnavailableError
from edgeq.files import output_errors
from edgeq.progress import Progress, SilentProgress
from edgeq.runtimes.opening import read_manifest
from edgeq.validation.drift import embedding_drift, language_drift
from edgeq.validation.gates import (
    Criteria,
    batch_gate,
    bundle_gate,
    drift_gates,
    memory_gates,
    prefill_gate,
    same,
    unjudged_memory_gate,
    verdict_of,
)
from edgeq.validation.golden import tokenizer_problem
from edgeq.validation.memory import DISK_FULL, LIMITED_FROM, Outcome, read_tail, run_limited, uncounted_bytes
from edgeq.validation.reference_set import ReferenceSet
from edgeq.validation.subject import VALIDATION, Subject
from edgeq.validation.weights import artifact_digest
from edgeq.validation.workplace import available_cores, working_directory

RUNTIMES: dict[Format, str] = {"onnx": "onnxruntime", "executorch": "executorch", "coreml": "Core ML"}
REFERENCE_RUNTIME = "reference (MIL interpreter)"
REFERENCE_EXECUTED = (
    "reference-executed: an interpreter ran the saved program, not Core ML, so drift was judged and memory was not; "
    "run validate_on_mac.py on a Mac"
)
TIMEOUT_SECONDS = 1800.0
FREE_SPACE = "Free some space, or point TMPDIR at another disk; then run the same command."
Values = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What validation found; the report takes over its fields. memory, drift and speed are None where nothing ran."""

    verdict: Verdict
    reason: str
    memory: MemorySection | None
    drift: DriftSection | None
    speed: SpeedSection | None
    gates: tuple[Gate, ...]
    planned_memory: dict[str, int]
    environment: EnvironmentSection


@dataclass(frozen=True, kw_only=True)
class _Run:
    """The child's end and what it wrote down."""

    outcome: Outcome
    result: dict[str, Any]


def validate_bundle(
    bundle: Path,
    *,
    criteria: Criteria,
    manifest: Mapping[str, Any] | None = None,
    reference: Path | None = None,
    backend: str | None = None,
    timeout: float = TIMEOUT_SECONDS,
    progress: Progress | None = None,
) -> Measurement:
    """Judge a bundle. What is wrong with it is a failed gate; a runtime that is not there gives `not_validated`.

    manifest: its plain JSON form, where `edgeq.json` is not written yet. reference: a directory as ReferenceSet
    describes it, by default the bundle's own. backend: a memory limit by name, by default the best one of this
    machine. timeout: seconds for the child. Raises BadInputError where the manifest or the reference cannot be read,
    RuntimeUnavailableError where the named backend is not usable.
    """
    progress = progress or SilentProgress()
    subject = Subject.from_manifest(bundle, manifest if manifest is not None else read_manifest(bundle))
    progress.stage("checking the bundle")
    try:
        gates, sound = _static_gates(subject, criteria)
    except RuntimeUnavailableError as error:  # reading some formats takes the package that wrote them
        return _measurement(subject, (), runtime_version="", missing=str(error))
    if not sound:
        return _measurement(subject, gates, runtime_version="")
    references = ReferenceSet.open(bundle / VALIDATION if reference is None else reference)
    if references.task != subject.interface.task:
        raise CorruptInputError("The reference is one for another task.", remedy="Export the bundle again.")
    with working_directory(bundle.absolute().parent) as directory:
        progress.stage("running the bundle")
        limit_bytes = psutil.virtual_memory().total if subject.is_reference else criteria.memory_limit_bytes
        run = _run_child(subject, references, directory, limit_bytes=limit_bytes, backend=backend, timeout=timeout)
        if run.result.get("status") == "runtime_missing":
            return _measurement(subject, gates, runtime_version="", missing=str(run.result["reason"]))
        if run.outcome.returncode == DISK_FULL:
            raise OutputError(f"The disk is full: {directory} could not hold the bundle's answers.", remedy=FREE_SPACE)
        return _judge(subject, run, directory, references, criteria, gates=gates, progress=progress)


def _judge(
    subject: Subject,
    run: _Run,
    directory: Path,
    references: ReferenceSet,
    criteria: Criteria,
    *,
    gates: tuple[Gate, ...],
    progress: Progress,
) -> Measurement:
    """From what the child left in `directory` to gates: memory, that it came to its end, drift."""
    planned, version = dict(run.result.get("planned_memory", {})), str(run.result.get("runtime_version", ""))
    memory = None if subject.is_reference else _memory(run.outcome)
    if memory is not None:
        gates += memory_gates(memory, run.outcome.failure)
    elif subject.is_reference:
        gates += (unjudged_memory_gate(sum(planned.values())),)
    if run.outcome.survived or memory is None:
        gates += (_completed(run, directory, subject.format),)
    if not run.outcome.survived or gates[-1].verdict is not Verdict.PASSED:
        return _measurement(subject, gates, runtime_version=version, memory=memory, planned=planned)
    progress.stage("measuring drift")
    drift = _drift(references, directory / "artifact")
    gates += drift_gates(drift, criteria, subject.interface.vocabulary)
    if "batch_cosine_min" in run.result:
        gates += (batch_gate(float(run.result["batch_cosine_min"]), criteria),)
    if "prefill_error" in run.result:
        gates += (prefill_gate(float(run.result["prefill_error"]), criteria),)
    speed = SpeedSection(**run.result["speed"])
    return _measurement(
        subject, gates, runtime_version=version, memory=memory, drift=drift, speed=speed, planned=planned
    )


def _static_gates(subject: Subject, criteria: Criteria) -> tuple[tuple[Gate, ...], bool]:
    """Gates that need no runtime, and whether the bundle is sound enough to be run at all."""
    wrong = subject.wrong_file()
    gates: tuple[Gate, ...] = (same("files", wrong or "as listed", "as listed", wrong),)
    if criteria.bundle_limit_bytes is not None:
        gates += (bundle_gate(subject.app_bytes, criteria.bundle_limit_bytes),)
    if wrong:
        return gates, False
    try:
        digest, problem = artifact_digest(subject.format, subject.model, subject.weights), ""
    except BadInputError as error:
        digest, problem = "unreadable", error.what
    reason = problem or "the artifact's weights are not the quantized ones"
    gates += (same("weights_digest", digest, subject.weights_digest, reason),)
    if subject.golden is not None:
        mismatch = tokenizer_problem(subject.golden, subject.tokenizer)
        gates += (same("tokenizer", mismatch or "as expected", "as expected", mismatch),)
    return gates, not problem


def _run_child(
    subject: Subject,
    references: ReferenceSet,
    directory: Path,
    *,
    limit_bytes: int,
    backend: str | None,
    timeout: float,
) -> _Run:
    request = {
        "format": subject.format,
        "model": str(subject.model.absolute()),
        "interface": to_plain(subject.interface),
        # More threads than cores would wait for each other, which no device does.
        "threads": min(subject.threads, available_cores()),
        "profile": {"compute_unit": subject.compute_unit},
        "sequences": references.sequences,
        "output": str(directory),
    }
    path = directory / "request.json"
    with output_errors(path):
        path.write_text(json.dumps(request), encoding="utf-8")
    outcome = run_limited(
        [sys.executable, "-P", "-m", "edgeq.validation.child", str(path)],
        limit_bytes=limit_bytes,
        log=directory / "log",
        phases=directory / "phases",
        limited_from=LIMITED_FROM,
        backend=backend,
        environment=_environment(),
        timeout=timeout,
    )
    result_path = directory / "result.json"
    result = json.loads(result_path.read_text(encoding="utf-8")) if result_path.is_file() else {}
    return _Run(outcome=outcome, result=result)


def _environment() -> dict[str, str]:
    """Ours, with edgeq itself importable and numpy's own thread pools (memory that no app would have) off."""
    package_root = str(Path(edgeq.__file__).parent.parent)
    paths = [path for path in (os.environ.get("PYTHONPATH"), package_root) if path]
    single = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return os.environ | single | {"PYTHONPATH": os.pathsep.join(paths)}


def _memory(outcome: Outcome) -> MemorySection | None:
    """The artifact's memory; None where the child ended before it opened the artifact."""
    if outcome.baseline_bytes is None:
        return None
    uncounted = uncounted_bytes(outcome.baseline_bytes)
    return MemorySection(
        peak_dirty_bytes=outcome.peak_dirty_bytes - uncounted,
        process_dirty_bytes=outcome.peak_dirty_bytes,
        baseline_dirty_bytes=outcome.baseline_bytes,
        peak_rss_bytes=outcome.peak_rss_bytes,
        limit_bytes=outcome.limit_bytes,
        backend=outcome.backend,
        survived=outcome.survived,
        phases={
            name: max(0, peak - uncounted)
            for name, peak in outcome.phases.items()
            if name not in ("start", "runtime", "end")
        },
    )


def _completed(run: _Run, directory: Path, format: Format) -> Gate:
    """Whether the child did all that it was asked for, alone with its runtime."""
    opened = run.outcome.baseline_bytes is not None
    if run.outcome.failure:
        last = read_tail(directory / "log").strip().splitlines()[-1:]
        where = [] if opened else ["the runtime did not load"]
        reason = ": ".join([*where, run.outcome.failure, *(line[:300] for line in last)])
    elif run.result.get("status") != "done":
        reason = str(run.result.get("reason", "it left no result"))
    elif not opened:
        reason = "it told no baseline of its memory"
    else:
        stowaway = format == "onnx" and run.result["torch_loaded"]
        reason = "torch was loaded beside the runtime" if stowaway else ""
    return same("completed", "no" if reason else "yes", "yes", reason)


def _drift(references: ReferenceSet, answers: Path) -> DriftSection:
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
    return DriftSection(
        quantization=_compare(references, original, dequantized),
        lowering=_compare(references, dequantized, artifact),
        total=_compare(references, original, artifact),
    )


def _compare(references: ReferenceSet, a: Sequence[Values], b: Sequence[Values]) -> Drift:
    if references.task == "text-generation":
        return language_drift(_pairs(references, a, b))
    return embedding_drift(np.concatenate([np.atleast_2d(x) for x in a]), np.concatenate([np.atleast_2d(x) for x in b]))


def _pairs(
    references: ReferenceSet, a: Sequence[Values], b: Sequence[Values]
) -> Iterator[tuple[Values, Values, Sequence[int]]]:
    return zip(a, b, references.sequences, strict=True)


def _measurement(
    subject: Subject,
    gates: tuple[Gate, ...],
    *,
    runtime_version: str,
    missing: str = "",
    memory: MemorySection | None = None,
    drift: DriftSection | None = None,
    speed: SpeedSection | None = None,
    planned: dict[str, int] | None = None,
) -> Measurement:
    verdict, reason = verdict_of(gates)
    if verdict is Verdict.PASSED and subject.is_reference and not missing:
        reason = REFERENCE_EXECUTED
    if verdict is Verdict.PASSED and missing:
        verdict, reason = Verdict.NOT_VALIDATED, missing
    return Measurement(
        verdict=verdict,
        reason=reason,
        memory=memory,
        drift=drift,
        speed=speed,
        gates=gates,
        planned_memory=planned or {},
        environment=EnvironmentSection(
            runtime=REFERENCE_RUNTIME if subject.is_reference else RUNTIMES[subject.format],
            runtime_version=runtime_version,
            platform=platform.platform(),
            python=platform.python_version(),
        ),
    )
