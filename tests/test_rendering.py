"""The verb `report`: reports of bundles and files, written as HTML, JUnit, SARIF and Markdown."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from edgeq.cli import run
from edgeq.core.report import Report
from edgeq.errors import CorruptInputError, UsageError
from edgeq.rendering import read_pages, write_reports
from edgeq.reports.json import report_to_json
from tests.bundle.samples import sealed_bundle
from tests.reports.samples import encoder_report, passed_report


def written(path: Path, report: Report) -> Path:
    path.write_text(report_to_json(report), encoding="utf-8")
    return path


def test_every_kind_of_file_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = written(tmp_path / "good.json", passed_report()), written(tmp_path / "bad.json", encoder_report())
    out = tmp_path / "new" / "folder"
    names = {"html": "r.html", "junit": "r.xml", "sarif": "r.sarif", "markdown": "r.md"}
    flags = [part for kind, name in names.items() for part in (f"--{kind}", str(out / name))]
    assert run(["report", str(good), str(bad), *flags]) == 1
    assert capsys.readouterr().out.count("verdict") >= 2
    texts = {kind: (out / name).read_text(encoding="utf-8") for kind, name in names.items()}
    assert "2 bundles: 1 failed, 1 passed" in texts["html"]
    assert 'failures="1"' in texts["junit"]
    assert len(json.loads(texts["sarif"])["runs"][0]["results"]) == 1
    assert texts["markdown"].count("# demo for android\n") == 2


def test_reports_that_passed_are_exit_code_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "report.json", passed_report())
    assert run(["report", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "passed"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]


def test_a_bundle_brings_where_its_bytes_are(tmp_path: Path) -> None:
    bundle = sealed_bundle(tmp_path / "work", tmp_path / "bundle")
    (page,) = read_pages([bundle])
    assert page.details.weight_groups
    assert read_pages([bundle / "report.json"]) == (page,)
    (alone,) = read_pages([written(tmp_path / "alone.json", page.report)])
    assert not alone.details.weight_groups


def test_a_report_of_other_weights_takes_nothing_from_the_manifest_beside_it(tmp_path: Path) -> None:
    bundle = sealed_bundle(tmp_path / "work", tmp_path / "bundle")
    report = passed_report()
    weights = dataclasses.replace(report.weights, digest="0" * 64)
    written(bundle / "other.json", dataclasses.replace(report, weights=weights))
    assert not read_pages([bundle / "other.json"])[0].details.weight_groups


def test_a_directory_of_bundles_is_all_of_them(tmp_path: Path) -> None:
    (tmp_path / "build" / "android").mkdir(parents=True)
    for name in ("android/b", "android/a", "c"):
        sealed_bundle(tmp_path / "work" / name, tmp_path / "build" / name)
    written(tmp_path / "build" / "c" / "report.json", encoder_report())
    pages = read_pages([tmp_path / "build"])
    assert [page.report.verdict for page in pages] == ["passed", "passed", "failed"]


def test_what_is_no_report_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(CorruptInputError, match="is of schema None"):
        read_pages([tmp_path / "bad.json"])
    (tmp_path / "empty").mkdir()
    for place in ("empty", "missing"):
        with pytest.raises(UsageError, match=r"There is no report at .*\. Name a bundle"):
            read_pages([tmp_path / place])
    assert run(["report", str(tmp_path / "missing"), "--html", str(tmp_path / "r.html")]) == 2
    assert "There is no report" in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()


def test_a_file_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    path = written(tmp_path / "report.json", passed_report())
    (tmp_path / "file").write_text("")
    assert run(["report", str(path), "--html", str(tmp_path / "file" / "r.html")]) == 2


def test_nothing_is_written_where_one_cannot_be_rendered(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no report to show"):
        write_reports([], {"markdown": tmp_path / "r.md", "html": tmp_path / "r.html"})
    assert list(tmp_path.iterdir()) == []
