"""Budgets on finished reports: each as a gate, an error or a warning, and what cannot be measured."""

from __future__ import annotations

import dataclasses

import pytest

from edgeq.building.budgets import judge
from edgeq.building.configuration import Budgets
from edgeq.core.report import EmbeddingDrift, Gate, Report, Verdict
from edgeq.settings import Limit
from edgeq.validation import REFERENCE_EXECUTED, REFERENCE_RUNTIME
from edgeq.validation.gates import backend_gate
from tests.reports.samples import MIB, browser_report, encoder_report, killed_report, passed_report, unvalidated_report

SIZE = 5 * MIB
"""What goes into the app, for these tests."""


def gate_of(report: Report, name: str) -> Gate:
    (found,) = (gate for gate in report.gates if gate.name == name)
    return found


def test_without_budgets_the_report_is_the_bundles() -> None:
    for report in (passed_report(), encoder_report(), killed_report(), browser_report(), unvalidated_report()):
        judged = judge(report, Budgets(), app_bytes=SIZE)
        assert judged.warnings == ()
        assert dataclasses.replace(judged.report, reason=report.reason) == report


CASES = [
    ("max_size", SIZE, "bundle_bytes", 0.5),
    ("max_memory", 512 * MIB, "peak_dirty_bytes", 0.5),
    ("max_drift", 0.0317, "total_kld_mean", 0.0001),
    ("min_decode_tokens_per_second", 233.0, "decode_tokens_per_second", -0.5),
]


@pytest.mark.parametrize(("budget", "value", "name", "step"), CASES)
def test_a_limit_is_met_up_to_and_with_itself(budget: str, value: float, name: str, step: float) -> None:
    judged = judge(passed_report(), Budgets(**{budget: Limit(limit=value)}), app_bytes=SIZE)
    assert (judged.report.verdict, judged.warnings) == (Verdict.PASSED, ())
    assert gate_of(judged.report, name).limit == pytest.approx(value)

    beyond = judge(passed_report(), Budgets(**{budget: Limit(limit=value - step)}), app_bytes=SIZE)
    assert beyond.report.verdict is Verdict.FAILED
    assert beyond.report.reason.startswith(f"{name}: ")
    failed = [gate for gate in beyond.report.gates if gate.verdict is Verdict.FAILED]
    assert [gate.name for gate in failed] == [name]
    assert failed[0].value == pytest.approx(value)


@pytest.mark.parametrize(("budget", "value", "name", "step"), CASES)
def test_a_warning_leaves_verdict_and_gates(budget: str, value: float, name: str, step: float) -> None:
    report = passed_report()
    judged = judge(report, Budgets(**{budget: Limit(limit=value - step, level="warn")}), app_bytes=SIZE)
    assert (judged.report.verdict, judged.report.reason, judged.report.gates) == (Verdict.PASSED, "", report.gates)
    assert judged.report.memory == report.memory
    assert [(gate.name, gate.verdict) for gate in judged.warnings] == [(name, Verdict.FAILED)]
    assert judged.report.notes == (*report.notes, f"warning: {name}: {judged.warnings[0].reason}")
    met = judge(report, Budgets(**{budget: Limit(limit=value, level="warn")}), app_bytes=SIZE)
    assert (met.warnings, met.report) == ((), report)


def test_a_budget_takes_the_place_of_the_targets_limit() -> None:
    report = passed_report()
    judged = judge(report, Budgets(max_memory=Limit(limit=600 * MIB)), app_bytes=SIZE).report
    assert [gate.name for gate in judged.gates] == [gate.name for gate in report.gates]
    assert judged.memory is not None
    assert judged.memory.limit_bytes == 600 * MIB


def test_a_wider_budget_lifts_a_gate_that_failed() -> None:
    failed = dataclasses.replace(
        passed_report(),
        verdict=Verdict.FAILED,
        reason="total_kld_mean: too much",
        gates=(Gate(name="total_kld_mean", value=0.0317, limit=0.01, verdict=Verdict.FAILED, reason="too much"),),
    )
    assert judge(failed, Budgets(), app_bytes=SIZE).report.verdict is Verdict.FAILED
    wide = Budgets(max_drift=Limit(limit=0.1))
    lifted = judge(failed, wide, app_bytes=SIZE).report
    assert (lifted.verdict, lifted.reason) == (Verdict.PASSED, "")
    # what ran elsewhere than on the device is still said
    environment = dataclasses.replace(failed.environment, runtime=REFERENCE_RUNTIME)
    elsewhere = judge(dataclasses.replace(failed, environment=environment), wide, app_bytes=SIZE).report
    assert (elsewhere.verdict, elsewhere.reason) == (Verdict.PASSED, REFERENCE_EXECUTED)


def test_an_encoder_drifts_by_its_cosine_and_decodes_nothing() -> None:
    report = encoder_report()
    assert report.drift is not None
    assert isinstance(report.drift.total, EmbeddingDrift)
    drift = 1 - report.drift.total.cosine_mean
    budgets = Budgets(max_drift=Limit(limit=drift * 1.001), min_decode_tokens_per_second=Limit(limit=1))
    judged = judge(report, budgets, app_bytes=SIZE).report
    assert gate_of(judged, "total_cosine_mean").verdict is Verdict.PASSED
    assert gate_of(judged, "decode_tokens_per_second").verdict is Verdict.NOT_VALIDATED
    tighter = judge(report, Budgets(max_drift=Limit(limit=drift * 0.999)), app_bytes=SIZE).report
    assert gate_of(tighter, "total_cosine_mean").verdict is Verdict.FAILED


def test_what_did_not_run_stays_not_validated_but_its_size_is_known() -> None:
    report = dataclasses.replace(unvalidated_report(), gates=())
    every = Budgets(
        max_size=Limit(limit=SIZE),
        max_memory=Limit(limit=1),
        max_drift=Limit(limit=0),
        min_decode_tokens_per_second=Limit(limit=1),
    )
    judged = judge(report, every, app_bytes=SIZE)
    assert (judged.report.verdict, judged.report.reason) == (Verdict.NOT_VALIDATED, report.reason)
    verdicts = {gate.name: gate.verdict for gate in judged.report.gates}
    assert verdicts.pop("bundle_bytes") is Verdict.PASSED
    assert set(verdicts.values()) == {Verdict.NOT_VALIDATED}
    assert len(verdicts) == 3
    small = judge(report, Budgets(max_size=Limit(limit=SIZE - 1)), app_bytes=SIZE).report
    assert small.verdict is Verdict.FAILED


def test_a_warning_cannot_be_given_of_what_was_not_measured() -> None:
    every = Budgets(max_memory=Limit(limit=1, level="warn"), max_drift=Limit(limit=0, level="warn"))
    assert judge(unvalidated_report(), every, app_bytes=SIZE).warnings == ()


def test_an_estimate_keeps_the_reason_of_its_gate() -> None:
    report = passed_report()
    estimate = Gate(
        name="peak_dirty_bytes", value=1.0, limit=None, verdict=Verdict.NOT_VALIDATED, reason="estimated: no device"
    )
    report = dataclasses.replace(report, memory=None, gates=(estimate,))
    judged = judge(report, Budgets(max_memory=Limit(limit=1)), app_bytes=SIZE).report
    assert judged.gates == (estimate,)


def test_a_process_that_was_killed_stays_killed() -> None:
    survived = Gate(name="survived", value="no", limit="yes", verdict=Verdict.FAILED, reason="killed at the limit")
    report = dataclasses.replace(killed_report(), gates=(survived, *killed_report().gates))
    judged = judge(report, Budgets(max_memory=Limit(limit=2**50)), app_bytes=SIZE).report
    assert judged.verdict is Verdict.FAILED
    assert judged.reason.startswith("survived: killed at the limit")


def test_every_way_of_running_has_the_budget() -> None:
    """The page's second run takes 100 MiB more than its first, and the third could not be made."""
    report = browser_report()
    first, second, third = report.backends
    assert second.memory is not None
    peak = second.memory.peak_dirty_bytes
    memory = dataclasses.replace(
        second.memory,
        peak_dirty_bytes=peak + 100 * MIB,
        process_dirty_bytes=second.memory.process_dirty_bytes + 100 * MIB,
    )
    backends = (first, dataclasses.replace(second, memory=memory), third)
    gates = (*report.gates, *(backend_gate(one) for one in backends[1:]))
    report = dataclasses.replace(report, backends=backends, gates=gates)
    limit = peak + 50 * MIB

    judged = judge(report, Budgets(max_memory=Limit(limit=limit)), app_bytes=SIZE).report
    assert [one.verdict for one in judged.backends] == [Verdict.PASSED, Verdict.FAILED, Verdict.NOT_VALIDATED]
    assert judged.verdict is Verdict.FAILED
    assert gate_of(judged, "peak_dirty_bytes").verdict is Verdict.PASSED
    assert gate_of(judged, second.name).reason == "peak_dirty_bytes: 612.0 MiB is above 562.0 MiB"

    warned = judge(report, Budgets(max_memory=Limit(limit=limit, level="warn")), app_bytes=SIZE)
    assert [gate.name for gate in warned.warnings] == [f"{second.name} peak_dirty_bytes"]
    assert warned.report.verdict is Verdict.PASSED
