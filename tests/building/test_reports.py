"""A build as text, Markdown, JUnit and SARIF."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from edgeq.building.budgets import judge
from edgeq.building.configuration import Budgets
from edgeq.core.build import Build, CellResult, verdict_of_cells
from edgeq.core.report import EmbeddingDrift, Report, Verdict
from edgeq.errors import CorruptInputError, UsageError
from edgeq.reports.build import build_markdown, build_text, read_build
from edgeq.reports.junit import build_to_junit
from edgeq.reports.sarif import build_to_sarif
from edgeq.settings import Limit
from tests.reports.samples import MIB, encoder_report, passed_report, unvalidated_report

ERROR = "models/<x> is not a directory here. Check the path; a hub id reads owner/name."


def cell(name: str, report: Report | None, budgets: Budgets | None = None, *, target: str = "android") -> CellResult:
    judged = None if report is None else judge(report, budgets or Budgets(), app_bytes=4 * MIB)
    return CellResult(
        name=name,
        model=name.rpartition("-")[2],
        target=target,
        format="onnx",
        key="ab" * 32 if report else "",
        verdict=Verdict.FAILED if judged is None else judged.report.verdict,
        reason=ERROR if judged is None else judged.report.reason,
        reused=name == "android-demo",
        bundle=name if report else None,
        warnings=() if judged is None else judged.warnings,
        error="" if report else ERROR,
        report=None if judged is None else judged.report,
    )


def build_of(*cells: CellResult) -> Build:
    return Build(edgeq_version="0.1.0", settings="ci/edgeq.toml", verdict=verdict_of_cells(cells), cells=cells)


@pytest.fixture
def build() -> Build:
    """A cell that passed, one past its budget, one that is warned of, one that did not run, one that was not built."""
    unrun = dataclasses.replace(unvalidated_report(), gates=())
    return build_of(
        cell("android-demo", passed_report()),
        cell("android-large", passed_report(), Budgets(max_memory=Limit(limit=500 * MIB))),
        cell("ios-warned", passed_report(), Budgets(max_size=Limit(limit=MIB, level="warn")), target="ios"),
        cell("ios-unrun", unrun, target="ios"),
        cell("ios-broken", None, target="ios"),
    )


def test_the_worst_cell_is_the_builds_verdict(build: Build) -> None:
    demo, large, _, unrun, broken = build.cells
    assert build.verdict is Verdict.FAILED
    assert verdict_of_cells((demo,)) is Verdict.PASSED
    assert verdict_of_cells((demo, unrun)) is Verdict.NOT_VALIDATED
    assert verdict_of_cells((unrun, large)) is Verdict.FAILED
    assert verdict_of_cells((demo, broken)) is Verdict.FAILED
    assert verdict_of_cells(()) is Verdict.PASSED


def test_text_has_a_line_for_each_cell_and_the_reasons(build: Build) -> None:
    lines = build_text(build).splitlines()
    assert lines[0].split() == ["cell", "files", "memory", "drift", "tokens/s", "verdict"]
    assert [line.split()[0] for line in lines[1:6]] == [cell.name for cell in build.cells]
    assert lines[1].split() == ["android-demo", "3.9", "MiB", "512.0", "MiB", "0.0317", "233", "passed,", "reused"]
    assert lines[5].split() == ["ios-broken", "-", "-", "-", "-", "error"]
    assert max(map(len, lines[:6])) <= 80
    assert lines[7:] == [
        "  android-large: peak_dirty_bytes: 512.0 MiB is above 500.0 MiB",
        "  ios-warned: warning: bundle_bytes: 4.0 MiB is above 1.0 MiB",
        "  ios-unrun: --no-validate was given",
        f"  ios-broken: {ERROR}",
        "",
        "verdict  failed: 2 passed, 1 failed, 1 not validated, 1 error; 1 reused",
    ]


def test_an_encoders_drift_is_what_its_cosine_lacks() -> None:
    report = encoder_report()
    assert report.drift is not None
    line = build_text(build_of(cell("android-e", report))).splitlines()[1].split()
    assert isinstance(report.drift.total, EmbeddingDrift)
    assert float(line[5]) == pytest.approx(1 - report.drift.total.cosine_mean, rel=1e-3)


def test_markdown_marks_the_failed_cells_alone(build: Build) -> None:
    text = build_markdown(build)
    rows = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert [name for name, line in rows.items() if "❌" in line] == ["android-large", "ios-broken"]
    assert "⚠️ passed" in rows["ios-warned"]
    assert "⚠️ not validated" in rows["ios-unrun"]
    assert "✅ passed (reused)" in rows["android-demo"]
    assert "## android-large ❌\n\n- peak\\_dirty\\_bytes: 512.0 MiB is above 500.0 MiB" in text
    assert "models/\\<x\\>" in text  # what comes from outside is text
    assert "## android-demo" not in text


def test_junit_has_a_suite_per_target_and_a_case_per_gate(build: Build) -> None:
    android, ios = ElementTree.fromstring(build_to_junit(build))  # noqa: S314 - our own
    assert (android.get("name"), ios.get("name")) == ("android", "ios")
    demo, large = build.cells[:2]
    cases = android.findall("testcase")
    assert [(case.get("classname"), case.get("name")) for case in cases] == [
        (one.name, gate.name) for one in (demo, large) for gate in one.gates()
    ]
    red = [case for case in cases if case.find("failure") is not None]
    assert [(case.get("classname"), case.get("name")) for case in red] == [("android-large", "peak_dirty_bytes")]
    for suite in (android, ios):
        found = suite.findall("testcase")
        assert suite.get("tests") == str(len(found))
        for kind, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert suite.get(kind) == str(len(suite.findall(f"testcase/{tag}")))
    (error,) = ios.findall("testcase/error")
    assert error.get("message") == ERROR
    (skipped,) = ios.findall("testcase/skipped")
    assert skipped.get("message") == "--no-validate was given"
    (warning,) = (case for case in ios.findall("testcase") if (case.get("name") or "").endswith("(warning)"))
    assert warning.findtext("system-out") == "warning: 4.0 MiB is above 1.0 MiB"
    properties = {one.get("name"): one.get("value") for one in android.findall("properties/property")}
    assert properties["android-demo.key"] == "ab" * 32
    assert properties["android-large.verdict"] == "failed"


def test_sarif_has_a_result_for_whatever_is_not_green(build: Build) -> None:
    (run,) = json.loads(build_to_sarif(build))["runs"]
    assert [(one["level"], one["ruleId"], one["message"]["text"].partition(":")[0]) for one in run["results"]] == [
        ("error", "peak_dirty_bytes", "android-large"),
        ("warning", "bundle_bytes", "ios-warned"),
        ("note", "verdict", "ios-unrun"),
        ("error", "build", "ios-broken"),
    ]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert [rules[one["ruleIndex"]] for one in run["results"]] == [one["ruleId"] for one in run["results"]]
    (location,) = run["results"][0]["locations"]
    assert location["physicalLocation"]["artifactLocation"]["uri"] == "ci/edgeq.toml"
    prints = [one["partialFingerprints"]["edgeq/v1"] for one in run["results"]]
    assert len(set(prints)) == len(prints)


def test_what_is_no_build_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "build.json"
    with pytest.raises(UsageError, match="cannot be read"):
        read_build(path)
    for text in ("{", "[]", '{"schema": 99}', '{"schema": 1}', '{"schema": 1, "verdict": "green"}'):
        path.write_text(text)
        with pytest.raises(CorruptInputError):
            read_build(path)


def test_a_build_that_passed_leaves_no_finding() -> None:
    passed = build_of(cell("android-demo", passed_report()))
    (run,) = json.loads(build_to_sarif(passed))["runs"]
    assert (run["results"], run["tool"]["driver"]["version"]) == ([], "0.1.0")
    assert build_text(passed).splitlines()[-1] == "verdict  passed: 1 passed; 1 reused"
