"""SARIF: what a code-scanning page shows."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from edgeq.core.report import Gate, Report, Verdict
from edgeq.reports import sarif
from edgeq.reports.sarif import reports_to_sarif
from tests.reports.samples import encoder_report, killed_report, passed_report, unvalidated_report


def only_run(*reports: Report) -> dict[str, Any]:
    document = json.loads(reports_to_sarif(reports))
    assert document["version"] == "2.1.0"
    (run,) = document["runs"]
    return dict(run)


def test_what_passed_leaves_nothing() -> None:
    assert only_run(passed_report())["results"] == []
    assert only_run()["results"] == []


def test_a_failed_gate_is_an_error_and_its_rule_is_known() -> None:
    report = encoder_report()
    run = only_run(passed_report(), report)
    failed = [gate.name for gate in report.gates if gate.verdict is Verdict.FAILED]
    assert [result["ruleId"] for result in run["results"]] == failed
    for result in run["results"]:
        assert result["level"] == "error"
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        assert report.model.source in result["message"]["text"]


def test_a_gate_that_passed_with_something_to_say_is_a_warning() -> None:
    gate = Gate(name="native_kernels", value="2 of 2", limit="2 of 2", verdict=Verdict.PASSED, reason="on wasm, q")
    (result,) = only_run(dataclasses.replace(passed_report(), gates=(*passed_report().gates, gate)))["results"]
    assert (result["level"], result["ruleId"]) == ("warning", "native_kernels")
    assert "on wasm, q" in result["message"]["text"]


@pytest.mark.parametrize(("report", "level"), [(unvalidated_report(), "note"), (killed_report(), "error")])
def test_a_verdict_without_gates_is_told(report: Report, level: str) -> None:
    (result,) = only_run(dataclasses.replace(report, gates=()))["results"]
    assert (result["level"], result["ruleId"]) == (level, "verdict")
    assert report.reason in result["message"]["text"]


def test_the_same_gate_has_the_same_fingerprint() -> None:
    report = encoder_report()
    gates = tuple(dataclasses.replace(gate, value=0.5, reason="other") for gate in report.gates)
    prints = [
        [result["partialFingerprints"] for result in only_run(one)["results"]]
        for one in (report, dataclasses.replace(report, gates=gates))
    ]
    assert prints[0] == prints[1]


def test_more_than_is_read_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sarif, "MOST_RESULTS", 3)
    gate = Gate(name="x", value=1.0, limit=0.0, verdict=Verdict.FAILED)
    report = dataclasses.replace(passed_report(), gates=(gate,) * 5)
    assert len(only_run(report)["results"]) == 3
