"""Does this bundle work here? Runs it in its real runtime, under the device's limits, against the original model."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from edgeq.core.report import (
    BackendSection,
    DriftSection,
    EnvironmentSection,
    Gate,
    MemorySection,
    SpeedSection,
    TokenizerSection,
    Verdict,
)
from edgeq.core.target import Architecture, Format
from edgeq.errors import BadInputError, CorruptInputError, RuntimeUnavailableError
from edgeq.progress import Progress, SilentProgress
from edgeq.runtimes.opening import read_manifest
from edgeq.validation.architectures import Plan, plan_for, unmet, with_architectures
from edgeq.validation.configurations import Configuration, configurations_of
from edgeq.validation.gates import Criteria, backend_gate, bundle_gate, same, verdict_of
from edgeq.validation.golden import tokenizer_problem
from edgeq.validation.kernel_coverage import kernel_gates
from edgeq.validation.picture_graph import picture_gates
from edgeq.validation.reference_set import ReferenceSet
from edgeq.validation.running import Judgement, References, RunLimits, run
from edgeq.validation.size_gates import size_gates
from edgeq.validation.subject import VALIDATION, Subject
from edgeq.validation.tensor_cases import TensorCases
from edgeq.validation.text_run import TextJudgement, judge_text, section_of
from edgeq.validation.weights import artifact_digest
from edgeq.validation.workplace import working_directory

RUNTIMES: dict[Format, str] = {
    "onnx": "onnxruntime",
    "executorch": "executorch",
    "coreml": "Core ML",
    "transformersjs": "onnxruntime-web",
}
REFERENCE_RUNTIME = "reference (MIL interpreter)"
REFERENCE_EXECUTED = (
    "reference-executed: an interpreter ran the saved program, not Core ML, so drift was judged and memory was not; "
    "run validate_on_mac.py on a Mac"
)
TIMEOUT_SECONDS = 1800.0


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
    tokenizer: TokenizerSection = field(default_factory=TokenizerSection)
    backends: tuple[BackendSection, ...] = ()


def validate_bundle(
    bundle: Path,
    *,
    criteria: Criteria,
    manifest: Mapping[str, Any] | None = None,
    reference: Path | None = None,
    backend: str | None = None,
    timeout: float = TIMEOUT_SECONDS,
    arch: Architecture | None = None,
    all_cpus: bool = False,
    progress: Progress | None = None,
) -> Measurement:
    """Judge a bundle. What is wrong with it is a failed gate; a runtime that is not there gives `not_validated`.

    manifest: its plain JSON form, where `edgeq.json` is not written yet. reference: a directory as ReferenceSet
    describes it, by default the bundle's own. backend: a memory limit by name, by default the best one of this
    machine. timeout: seconds for each run. arch: whose kernels are judged, by default the target's where they can run
    here; all_cpus: on each CPU that the target names. Raises BadInputError where the manifest or the reference cannot
    be read, RuntimeUnavailableError where the named backend is not usable, UsageError for an architecture that the
    format has no runtime for.
    """
    progress = progress or SilentProgress()
    subject = Subject.from_manifest(bundle, manifest if manifest is not None else read_manifest(bundle))
    plan = plan_for(subject, arch=arch, all_cpus=all_cpus)
    progress.stage("checking the bundle")
    try:
        gates, sound = _static_gates(subject, criteria)
    except RuntimeUnavailableError as error:  # reading some formats takes the package that wrote them
        return _measurement(subject, (), Judgement(missing=str(error)))
    if not sound:
        return _measurement(subject, gates, Judgement())
    place = bundle / VALIDATION if reference is None else reference
    references = TensorCases.open(place) if subject.interface.task == "module" else ReferenceSet.open(place)
    if isinstance(references, ReferenceSet) and references.task != subject.interface.task:
        raise CorruptInputError("The reference is one for another task.", remedy="Export the bundle again.")
    limit_bytes = psutil.virtual_memory().total if subject.is_reference else criteria.memory_limit_bytes
    limits = RunLimits(limit_bytes=limit_bytes, backend=backend, timeout=timeout)
    runs = _run_all(subject, plan, references, criteria, limits, progress=progress)
    text = _read_texts(subject, runs[0][0], references, criteria, limits, progress=progress)
    return _together(subject, gates, runs, unmet(plan, runs[0][1]), text)


def _run_all(
    subject: Subject,
    plan: Plan,
    references: References,
    criteria: Criteria,
    limits: RunLimits,
    *,
    progress: Progress,
) -> list[tuple[Configuration, Judgement]]:
    """Each way of running the bundle here, with what `plan` adds to it."""
    runs: list[tuple[Configuration, Judgement]] = []
    for configuration in configurations_of(subject):
        progress.stage(f"running the bundle{configuration.name and ': ' + configuration.name}")
        with working_directory(subject.directory.absolute().parent) as directory:
            judged = run(subject, configuration, references, criteria, limits, directory=directory, progress=progress)
            judged = with_architectures(
                judged,
                plan,
                subject=subject,
                configuration=configuration,
                references=references,
                criteria=criteria,
                timeout=limits.timeout,
                directory=directory,
                progress=progress,
            )
        runs.append((configuration, judged))
    return runs


def _read_texts(
    subject: Subject,
    configuration: Configuration,
    references: References,
    criteria: Criteria,
    limits: RunLimits,
    *,
    progress: Progress,
) -> TextJudgement | None:
    """The run of the graphs that read text; None for a bundle without them."""
    if subject.text is None or not isinstance(references, ReferenceSet):
        return None
    progress.stage("reading texts")
    with working_directory(subject.directory.absolute().parent) as directory:
        return judge_text(
            subject,
            subject.text,
            configuration,
            references=references,
            criteria=criteria,
            limits=limits,
            directory=directory,
        )


def _static_gates(subject: Subject, criteria: Criteria) -> tuple[tuple[Gate, ...], bool]:
    """Gates that need no runtime, and whether the bundle is sound enough to be run at all."""
    wrong = subject.wrong_file()
    gates: tuple[Gate, ...] = (same("files", wrong or "as listed", "as listed", wrong),)
    if criteria.bundle_limit_bytes is not None:
        gates += (bundle_gate(subject.app_bytes, criteria.bundle_limit_bytes),)
    if wrong:
        return gates, False
    digest, problem = _digest(subject)
    reason = problem or "the artifact's weights are not the quantized ones"
    gates += (same("weights_digest", digest, subject.weights_digest, reason),)
    if subject.golden is not None and subject.interface.task != "module":
        mismatch = tokenizer_problem(subject.golden, subject.tokenizer)
        gates += (same("tokenizer", mismatch or "as expected", "as expected", mismatch),)
    image = subject.interface.image
    if subject.picture is not None and image is not None and image.resizing is not None:
        gates += picture_gates(subject.picture, image, image.resizing)
    return gates if problem else (*gates, *kernel_gates(subject), *size_gates(subject)), not problem


def _digest(subject: Subject) -> tuple[str, str]:
    """The weights digest that all models of the bundle have, or the first other one; and why it cannot be read."""
    digest = subject.weights_digest
    try:
        for model in subject.models().values():
            digest = artifact_digest(subject.format, model, subject.weights)
            if digest != subject.weights_digest:
                break
    except BadInputError as error:
        return "unreadable", error.what
    return digest, ""


def _together(
    subject: Subject,
    gates: tuple[Gate, ...],
    runs: Sequence[tuple[Configuration, Judgement]],
    lacking: str,
    text: TextJudgement | None,
) -> Measurement:
    """One verdict from all runs: the first one's gates, and a gate for each other one; with text graphs theirs too.
    lacking: see `_measurement`."""
    _, first = runs[0]
    gates += first.gates
    if text is not None:
        missing = first.missing or text.missing
        first = replace(first, missing=missing)
        measured = _measurement(subject, (*gates, *text.gates), first, lacking=lacking)
        return replace(measured, tokenizer=text.section)
    if len(runs) == 1:
        return _measurement(subject, gates, first, lacking=lacking)
    backends = tuple(_backend(configuration, judged) for configuration, judged in runs)
    gates += tuple(backend_gate(backend) for backend in backends[1:])
    return _measurement(subject, gates, first, backends, lacking=lacking)


def _backend(configuration: Configuration, judged: Judgement) -> BackendSection:
    """Without what is only shown, and once: the report has it of the first run."""
    verdict, reason = verdict_of(judged.gates)
    return BackendSection(
        name=configuration.name,
        dtype=configuration.dtype,
        execution_provider=configuration.execution_provider,
        threads=configuration.threads,
        is_required=configuration.is_required,
        verdict=Verdict.NOT_VALIDATED if judged.missing else verdict,
        reason=judged.missing or reason,
        memory=judged.memory and replace(judged.memory, samples=()),
        drift=judged.drift and replace(judged.drift, tokens=(), answers=(), layers=()),
        speed=judged.speed,
        gates=judged.gates,
        facts=judged.facts,
    )


def _measurement(
    subject: Subject,
    gates: tuple[Gate, ...],
    first: Judgement,
    backends: tuple[BackendSection, ...] = (),
    *,
    lacking: str = "",
) -> Measurement:
    """lacking: why there can be no verdict although the bundle ran, "" where there can."""
    verdict, reason = verdict_of(gates)
    if verdict is Verdict.PASSED:
        reason = _reservation(subject, first, backends)
        if first.missing or lacking:
            verdict, reason = Verdict.NOT_VALIDATED, first.missing or lacking
    return Measurement(
        verdict=verdict,
        reason=reason,
        memory=first.memory,
        drift=first.drift,
        speed=first.speed,
        gates=gates,
        planned_memory=first.planned_memory,
        environment=EnvironmentSection(
            runtime=REFERENCE_RUNTIME if subject.is_reference else RUNTIMES[subject.format],
            runtime_version=first.runtime_version,
            platform=platform.platform(),
            python=platform.python_version(),
        ),
        tokenizer=section_of(subject.text),
        backends=backends,
    )


def _reservation(subject: Subject, first: Judgement, backends: Sequence[BackendSection]) -> str:
    """What a passed verdict does not cover on this machine; empty where it is whole."""
    if subject.is_reference:
        return REFERENCE_EXECUTED
    missing = [
        f"{backend.name} was not run: {backend.reason}"
        for backend in backends
        if backend.is_required and backend.verdict is Verdict.NOT_VALIDATED
    ]
    host = first.facts.get("host", "")
    if host.startswith("Node"):
        missing.insert(0, f"{host} ran it, no browser: drift and WASM memory were judged, a tab's memory was not")
    return "; ".join(missing)
