"""The device's own kernels: the same bundle and inputs on arm64 beside this machine's x86-64, and how they differ."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from edgeq.core.report import ArchitectureDrift, Drift, DriftSection, Gate, Verdict
from edgeq.core.target import Architecture, Cpu
from edgeq.errors import RuntimeUnavailableError, UsageError
from edgeq.progress import Progress
from edgeq.runtimes.arm64.emulator import find_emulator, host_architecture
from edgeq.runtimes.opening import runtime_of
from edgeq.validation.child import ANSWERS
from edgeq.validation.configurations import Configuration
from edgeq.validation.gates import ENOUGH_TOKENS, Criteria, architecture_gate, verdict_of
from edgeq.validation.launching import emulated_launch
from edgeq.validation.limits import SamplerOnly
from edgeq.validation.running import Judgement, References, RunLimits, difference, run
from edgeq.validation.subject import Subject
from edgeq.validation.workplace import working_directory

ARM64: Architecture = "arm64"
USUAL_CPU: Cpu = "cortex-a76"
"""For a bundle whose target names none: an eight-core phone of 2019, a Raspberry Pi 5."""
NATIVE_GATES = ("survived", "peak_dirty_bytes", "completed")
"""What the run on this machine is judged by where another one's drift counts."""
COMPLETED = "completed"
WHOLE_REFERENCE = 50_000_000
"""Parameters up to which an emulated run answers the whole reference: 2,048 tokens in half a minute or so. Of pictures
it answers a few, whatever the parameters: a convolution uses each of its weights at every position."""
SLOWDOWN = 4
"""How much longer an emulated run may take than a native one before it counts as hung."""
NO_EXECUTORCH = (
    "ExecuTorch's Python interface imports torch, whose package for arm64 needs CUDA's libraries, several GB. "
    "Validate on an arm64 machine instead."
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """On which CPUs of arm64 a bundle is run too. missing: why that cannot be, "" where it can. is_asked: there is no
    verdict without them."""

    cpus: tuple[Cpu, ...] = ()
    missing: str = ""
    is_asked: bool = False


def plan_for(subject: Subject, *, arch: Architecture | None = None, all_cpus: bool = False) -> Plan:
    """What is asked for, or else what the bundle's target names. Raises UsageError for what has no meaning."""
    is_asked = arch == ARM64 or all_cpus
    if all_cpus and (arch not in (None, ARM64) or host_architecture() == ARM64):
        raise UsageError(
            "Other CPUs than this machine's are those of an emulated arm64.", remedy="Leave --all-cpus out."
        )
    if is_asked and subject.format not in ("onnx", "executorch"):
        raise UsageError(
            f"A bundle in the format {subject.format} is not emulated: its runtime is not one for Linux on arm64.",
            remedy="Leave --arch and --all-cpus out.",
        )
    if arch not in (None, ARM64, host_architecture()):
        return Plan(missing=f"This machine is {platform.machine()}, and {arch} is not emulated on it.", is_asked=True)
    if arch == "x86_64" or host_architecture() == ARM64 or not (is_asked or subject.validate_cpus):
        return Plan()
    cpus = subject.validate_cpus or (USUAL_CPU,)
    return Plan(cpus=cpus if all_cpus else cpus[:1], missing=_missing(subject), is_asked=is_asked)


def _missing(subject: Subject) -> str:
    if subject.format != "onnx":
        return NO_EXECUTORCH
    try:
        find_emulator()
    except RuntimeUnavailableError as error:
        return str(error)
    return ""


def with_architectures(
    native: Judgement,
    plan: Plan,
    *,
    subject: Subject,
    configuration: Configuration,
    references: References,
    criteria: Criteria,
    timeout: float,
    directory: Path,
    progress: Progress,
) -> Judgement:
    """What a run on this machine showed, with arm64's drift in the place of its own where that ran.

    directory: where the native run has left its answers. timeout in seconds, as of a native run.
    """
    drift = native.drift
    if not plan.cpus or drift is None:
        return native
    here = _native_row(native, drift)
    if plan.missing:
        rows = [_not_run(cpu, plan.missing) for cpu in plan.cpus]
        return replace(native, drift=replace(drift, architectures=(here, *rows)))
    if criteria.parameters > WHOLE_REFERENCE or subject.interface.image is not None:
        configuration = replace(configuration, tokens=ENOUGH_TOKENS)
    # Memory is the emulator's: it is held to nothing but what this machine has.
    memory = psutil.virtual_memory().total
    limits = RunLimits(limit_bytes=memory, backend=SamplerOnly.name, timeout=SLOWDOWN * timeout)
    runs: list[tuple[ArchitectureDrift, Judgement]] = []
    for cpu in plan.cpus:
        progress.stage(f"running the bundle on {ARM64}, {cpu}")
        with working_directory(subject.directory.absolute().parent) as place:
            judged = run(
                subject,
                configuration,
                references,
                criteria,
                limits,
                directory=place,
                progress=progress,
                launch=emulated_launch(cpu),
            )
            answered = references.leading(configuration.tokens)
            apart = None if judged.drift is None else difference(answered, directory / ANSWERS, place / ANSWERS)
        runs.append((_row(cpu, judged, apart), judged))
    return _merged(native, drift, here, runs)


def unmet(plan: Plan, judged: Judgement) -> str:
    """Why what was asked for did not run; "" where it did, or nobody asked."""
    rows = () if judged.drift is None else judged.drift.architectures
    reasons = [row.reason for row in rows if row.verdict is Verdict.NOT_VALIDATED]
    return plan.missing or next(iter(reasons), "") if plan.is_asked else ""


def _merged(
    native: Judgement,
    drift: DriftSection,
    here: ArchitectureDrift,
    runs: Sequence[tuple[ArchitectureDrift, Judgement]],
) -> Judgement:
    """Memory, speed and that it ran from here; drift and its gates from the first CPU; a gate for each other one."""
    rows = (here, *(row for row, _ in runs))
    (_, judged), others = runs[0], runs[1:]
    if judged.missing:
        return replace(native, drift=replace(drift, architectures=rows))
    gates = tuple(gate for gate in native.gates if gate.name in NATIVE_GATES)
    gates += tuple(_named(gate) for gate in judged.gates)
    gates += tuple(architecture_gate(row) for row, _ in others)
    return replace(native, gates=gates, drift=replace(judged.drift or drift, architectures=rows))


def _named(gate: Gate) -> Gate:
    """That the process came to its end is said of both; all else only of arm64's."""
    return replace(gate, name=f"{ARM64}_{COMPLETED}") if gate.name == COMPLETED else gate


def _native_row(native: Judgement, drift: DriftSection) -> ArchitectureDrift:
    verdict, reason = verdict_of([gate for gate in native.gates if gate.name not in NATIVE_GATES])
    return ArchitectureDrift(
        architecture=host_architecture() or platform.machine(),
        cpu="",
        runtime=_runtime(native),
        verdict=verdict,
        reason=reason,
        lowering=drift.lowering,
        total=drift.total,
    )


def _row(cpu: Cpu, judged: Judgement, apart: Drift | None) -> ArchitectureDrift:
    if judged.missing:
        return _not_run(cpu, judged.missing)
    verdict, reason = verdict_of(judged.gates)
    return ArchitectureDrift(
        architecture=ARM64,
        cpu=cpu,
        runtime=f"{_runtime(judged)}, qemu {find_emulator().version()}",
        verdict=verdict,
        reason=reason,
        lowering=None if judged.drift is None else judged.drift.lowering,
        total=None if judged.drift is None else judged.drift.total,
        difference=apart,
    )


def _not_run(cpu: Cpu, reason: str) -> ArchitectureDrift:
    return ArchitectureDrift(architecture=ARM64, cpu=cpu, runtime="", verdict=Verdict.NOT_VALIDATED, reason=reason)


def _runtime(judged: Judgement) -> str:
    """With its version, where the run came far enough to tell it."""
    return f"{runtime_of('onnx').name()} {judged.runtime_version}".rstrip()
