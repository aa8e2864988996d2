"""Budgets as gates on a finished report: another budget needs neither the model nor its runtime again."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgeq.building.configuration import Budgets
from edgeq.core.report import (
    BackendSection,
    ClassDrift,
    DriftSection,
    EmbeddingDrift,
    Gate,
    LanguageDrift,
    MemorySection,
    Report,
    SpeedSection,
    Verdict,
)
from edgeq.reports.figures import size
from edgeq.settings import Limit
from edgeq.validation import REFERENCE_EXECUTED, REFERENCE_RUNTIME
from edgeq.validation.gates import at_least, at_most, backend_gate, not_applicable, verdict_of

DECODE = "decode_tokens_per_second"


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The report with the budgets among its gates. warnings: those that only warn and were passed over."""

    report: Report
    warnings: tuple[Gate, ...]


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """What one way of running a bundle measured; size in bytes of what goes into the app."""

    size: int
    memory: MemorySection | None
    drift: DriftSection | None
    speed: SpeedSection | None


def judge(report: Report, budgets: Budgets, *, app_bytes: int) -> Judged:
    """The report as the budgets want it. app_bytes: what goes into the app.

    A budget that is an error takes the place of the target's own limit, as the option of `edgeq export` with its name
    does, in each way of running the bundle. One that warns leaves the target's limit, and the verdict, as they are.
    """
    first = _Measured(size=app_bytes, memory=report.memory, drift=report.drift, speed=report.speed)
    backends = tuple(_judged_backend(backend, budgets) for backend in report.backends)
    gates = _with_budgets(report.gates, first, budgets)
    by_name = {gate.name: gate for gate in (backend_gate(one) for one in backends[1:])}
    gates = tuple(by_name.get(gate.name, gate) for gate in gates)
    verdict, reason = verdict_of(gates)
    if verdict is Verdict.PASSED and report.verdict is Verdict.NOT_VALIDATED:
        verdict, reason = report.verdict, report.reason
    elif verdict is Verdict.PASSED:
        reason = report.reason if report.verdict is Verdict.PASSED else _reservation(report)
    judged = replace(
        report,
        verdict=verdict,
        reason=reason,
        gates=gates,
        backends=backends,
        memory=_with_limit(report.memory, budgets.max_memory),
    )
    warnings = _warnings(report, first, budgets)
    notes = (*report.notes, *(f"warning: {gate.name}: {gate.reason}" for gate in warnings))
    return Judged(report=replace(judged, notes=notes), warnings=warnings)


def _judged_backend(backend: BackendSection, budgets: Budgets) -> BackendSection:
    if backend.verdict is Verdict.NOT_VALIDATED:
        return backend
    measured = _Measured(size=0, memory=backend.memory, drift=backend.drift, speed=backend.speed)
    gates = _with_budgets(backend.gates, measured, replace(budgets, max_size=None))
    verdict, reason = verdict_of(gates)
    memory = _with_limit(backend.memory, budgets.max_memory)
    return replace(backend, gates=gates, verdict=verdict, reason=reason, memory=memory)


def _with_budgets(gates: tuple[Gate, ...], measured: _Measured, budgets: Budgets) -> tuple[Gate, ...]:
    """`gates` with those of the budgets that are errors: in the place of the gate of that name, else behind them all.
    One that cannot be measured keeps the target's gate, which says why."""
    found = {gate.name: gate for gate in _budget_gates(measured, budgets, level="error")}
    kept = {gate.name for gate in gates if gate.name in found and found[gate.name].verdict is Verdict.NOT_VALIDATED}
    replaced = tuple(found[gate.name] if gate.name in found and gate.name not in kept else gate for gate in gates)
    names = {gate.name for gate in gates}
    return (*replaced, *(gate for name, gate in found.items() if name not in names))


def _warnings(report: Report, first: _Measured, budgets: Budgets) -> tuple[Gate, ...]:
    """Every budget that warns and was passed over, in any way of running the bundle."""
    found = [gate for gate in _budget_gates(first, budgets, level="warn") if gate.verdict is Verdict.FAILED]
    for backend in report.backends[1:]:
        measured = _Measured(size=0, memory=backend.memory, drift=backend.drift, speed=backend.speed)
        gates = _budget_gates(measured, replace(budgets, max_size=None), level="warn")
        found += [replace(gate, name=f"{backend.name} {gate.name}") for gate in gates if gate.verdict is Verdict.FAILED]
    return tuple(found)


def _budget_gates(measured: _Measured, budgets: Budgets, *, level: str) -> list[Gate]:
    """A gate for each budget of that level, named as validation names what it measures."""
    wanted = [
        (budgets.max_size, _size_gate),
        (budgets.max_memory, _memory_gate),
        (budgets.max_drift, _drift_gate),
        (budgets.min_decode_tokens_per_second, _decode_gate),
    ]
    return [make(measured, limit) for limit, make in wanted if limit is not None and limit.level == level]


def _size_gate(measured: _Measured, limit: Limit) -> Gate:
    return at_most("bundle_bytes", measured.size, limit.limit, _above(measured.size, limit))


def _memory_gate(measured: _Measured, limit: Limit) -> Gate:
    name = "peak_dirty_bytes"
    if measured.memory is None:
        return not_applicable(name, None, "its memory was not measured")
    peak = measured.memory.peak_dirty_bytes
    return at_most(name, peak, limit.limit, _above(peak, limit))


def _above(count: int, limit: Limit) -> str:
    return f"{size(count)} is above {size(limit.limit)}"


def _drift_gate(measured: _Measured, limit: Limit) -> Gate:
    total = None if measured.drift is None else measured.drift.total
    match total:
        case LanguageDrift() | ClassDrift():
            return at_most("total_kld_mean", total.kld_mean, limit.limit)
        case EmbeddingDrift():
            return at_least("total_cosine_mean", total.cosine_mean, 1.0 - limit.limit)
        case _:
            return not_applicable("total_drift", None, "its drift was not measured")


def _decode_gate(measured: _Measured, limit: Limit) -> Gate:
    speed = None if measured.speed is None else measured.speed.decode_tokens_per_second
    if speed is None:
        return not_applicable(DECODE, None, "it writes no tokens here, or was not run")
    return at_least(DECODE, speed, limit.limit)


def _with_limit(memory: MemorySection | None, budget: Limit | None) -> MemorySection | None:
    """The section with the limit that counts."""
    if memory is None or budget is None or budget.level == "warn":
        return memory
    return replace(memory, limit_bytes=int(budget.limit))


def _reservation(report: Report) -> str:
    """What a verdict that a wider budget turned to passed does not cover; validation says it of those that passed."""
    if report.environment.runtime == REFERENCE_RUNTIME:
        return REFERENCE_EXECUTED
    left_out = [one for one in report.backends if one.is_required and one.verdict is Verdict.NOT_VALIDATED]
    return "; ".join(f"{one.name} was not run: {one.reason}" for one in left_out)
