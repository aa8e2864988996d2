"""Where reports are found, and what a build says of cells that its bundles do not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgeq.comparison import compare
from edgeq.core.build import Build, CellResult
from edgeq.core.records import to_plain
from edgeq.core.report import Report, Verdict
from edgeq.errors import CorruptInputError, UsageError
from edgeq.finding import find_reports
from edgeq.rendering import read_pages
from tests.bundle.samples import sealed_bundle
from tests.reports.samples import passed_report


def cell(name: str, report: Report | None, error: str = "") -> CellResult:
    return CellResult(
        name=name,
        model="demo",
        target="android",
        format="onnx",
        key="0" * 64,
        verdict=Verdict.FAILED if report is None else report.verdict,
        reason=error,
        reused=False,
        bundle=None if report is None else name,
        error=error,
        report=report,
    )


def write_build(directory: Path, *cells: CellResult) -> Path:
    directory.mkdir(exist_ok=True)
    found = Build(edgeq_version="0", settings="edgeq.toml", verdict=Verdict.PASSED, cells=cells)
    (directory / "build.json").write_text(json.dumps(to_plain(found)), encoding="utf-8")
    return directory


def over_budget(report: Report) -> Report:
    return replace(report, verdict=Verdict.FAILED, reason="bundle_bytes: too large")


def test_a_build_is_its_cells_as_the_budgets_judged_them(tmp_path: Path) -> None:
    bundle = sealed_bundle(tmp_path / "work", tmp_path / "build" / "android-demo")
    report = find_reports(bundle)[""].report
    assert report is not None
    assert report.verdict is not Verdict.FAILED
    build = write_build(
        tmp_path / "build", cell("android-demo", over_budget(report)), cell("ios-demo", None, "no disk")
    )
    for place in (build, build / "build.json"):
        found = find_reports(place)
        assert list(found) == ["android-demo", "ios-demo"]
        assert (found["android-demo"].verdict, found["ios-demo"].verdict) == ("failed", "failed")
        assert found["android-demo"].manifest is not None
        assert (found["ios-demo"].report, found["ios-demo"].error) == (None, "no disk")
        (page,) = read_pages([place])
        assert page.report.verdict is Verdict.FAILED


def test_a_build_s_file_alone_can_be_compared_with(tmp_path: Path) -> None:
    """What a default branch keeps of a build is build.json only."""
    old = write_build(tmp_path / "old", cell("a", passed_report()), cell("b", passed_report()))
    new = write_build(tmp_path / "new", cell("a", over_budget(passed_report())), cell("b", passed_report()))
    found = compare(old / "build.json", new)
    assert [(pair.name, pair.verdict) for pair in found.pairs] == [("a", "failed"), ("b", "passed")]
    assert found.reason == "a: the verdict was passed and is failed"


def test_a_cell_that_can_no_longer_be_built_fails_the_comparison(tmp_path: Path) -> None:
    old = write_build(tmp_path / "old", cell("a", passed_report()), cell("b", None, "no disk"))
    new = write_build(tmp_path / "new", cell("a", None, "no such model"), cell("b", passed_report()))
    found = compare(old, new)
    assert found.reason == "a: it could not be built: no such model"
    assert [pair.verdict for pair in found.pairs] == ["failed", "passed"]


def test_a_damaged_build_is_refused(tmp_path: Path) -> None:
    (tmp_path / "build.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CorruptInputError):
        find_reports(tmp_path)
    with pytest.raises(UsageError, match=r"no report at"):
        find_reports(tmp_path / "nowhere")
