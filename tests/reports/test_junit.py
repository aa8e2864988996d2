"""JUnit: what a CI server shows."""

from __future__ import annotations

import dataclasses
from xml.etree import ElementTree

from edgeq.core.report import Gate, Verdict
from edgeq.reports.junit import reports_to_junit
from tests.reports.samples import browser_report, encoder_report, killed_report, passed_report, unvalidated_report


def suites(*reports: object) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(reports_to_junit(reports)))  # type: ignore[arg-type]  # noqa: S314 - our own


def test_a_suite_for_each_report_and_a_case_for_each_gate() -> None:
    first, second = suites(passed_report(), browser_report())
    assert first.get("name") == "demo for android, onnx"
    assert second.get("name") == "demo for browser, transformersjs"
    cases = first.findall("testcase")
    assert [case.get("name") for case in cases] == [gate.name for gate in passed_report().gates]
    assert {case.get("classname") for case in cases} == {"android.onnx"}
    assert (first.get("tests"), first.get("failures"), first.get("skipped")) == (str(len(cases)), "0", "0")
    properties = {one.get("name"): one.get("value") for one in first.find("properties") or ()}
    assert properties["artifact_bytes"] == str(passed_report().artifact.bytes)


def test_a_gate_that_passed_with_something_to_say_warns() -> None:
    gate = Gate(name="native_kernels", value="2 of 2", limit="2 of 2", verdict=Verdict.PASSED, reason="on wasm, q")
    (suite,) = suites(dataclasses.replace(passed_report(), gates=(*passed_report().gates, gate)))
    texts = [case.findtext("system-out") or "" for case in suite.findall("testcase")]
    assert [("warning" in text) for text in texts] == [False] * len(passed_report().gates) + [True]
    assert texts[-1].endswith("warning: on wasm, q")
    assert suite.get("failures") == "0"


def test_failed_gates_are_failures_with_their_reason() -> None:
    report = encoder_report()
    (suite,) = suites(report)
    failed = [gate for gate in report.gates if gate.verdict is Verdict.FAILED]
    found = suite.findall("testcase/failure")
    assert (suite.get("failures"), len(found)) == (str(len(failed)), len(failed))
    assert found[0].get("message") == failed[0].reason


def test_what_was_not_validated_is_skipped() -> None:
    (suite,) = suites(unvalidated_report())
    (skipped,) = suite.findall("testcase/skipped")
    assert skipped.get("message") == "--no-validate was given"
    assert (suite.get("tests"), suite.get("skipped")) == ("1", "1")


def test_no_report_is_left_out() -> None:
    assert len(suites(passed_report(), killed_report(), unvalidated_report(), encoder_report())) == 4


def test_text_from_outside_stays_text() -> None:
    gate = Gate(name="a<b>&\"'", value=1.0, limit=0.5, verdict=Verdict.FAILED, reason="x\x00\x1b]<![CDATA[ é")
    (suite,) = suites(dataclasses.replace(passed_report(), gates=(gate,)))
    (case,) = suite.findall("testcase")
    assert case.get("name") == gate.name
    failure = case.find("failure")
    assert failure is not None
    assert failure.get("message") == "x]<![CDATA[ é"
