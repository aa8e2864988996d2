"""Sealing: complete or absent, and the same bytes for the same input."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from edgeq.bundle import seal as seal_module
from edgeq.bundle.manifest import MANIFEST, REPORT_FILES, verify
from edgeq.bundle.seal import seal
from edgeq.core.target import Surface
from edgeq.errors import CorruptInputError, InternalError, OutputError
from edgeq.reports.html import LARGEST
from edgeq.reports.json import read_report
from edgeq.summary import report_texts
from tests.bundle.samples import seal_sample, sealed_bundle, staged_bundle
from tests.reports.samples import killed_report, passed_report, unvalidated_report


def contents(bundle: Path) -> dict[str, bytes]:
    return {path.relative_to(bundle).as_posix(): path.read_bytes() for path in bundle.rglob("*") if path.is_file()}


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_sealed_bundle_verifies_and_nothing_else_is_left(tmp_path: Path) -> None:
    bundle = sealed_bundle(tmp_path / "work", tmp_path / "out" / "bundle")
    verify(bundle)
    assert names(tmp_path / "out") == ["bundle"]
    assert read_report(bundle / "report.json") == passed_report()


def test_the_page_of_the_report_is_part_of_the_seal(tmp_path: Path) -> None:
    bundle = sealed_bundle(tmp_path / "work", tmp_path / "bundle")
    page = bundle / "report.html"
    text = page.read_text()
    assert len(text) < LARGEST
    assert "Where the bytes are" in text
    assert "<script" not in text
    page.write_text(text.replace("passed", "failed"))
    with pytest.raises(CorruptInputError, match=r"report\.html was changed"):
        verify(bundle)


def test_what_validation_left_becomes_part_of_the_bundle(tmp_path: Path) -> None:
    with staged_bundle(tmp_path / "work", tmp_path / "bundle") as staged:
        (staged.directory / "validation").mkdir()
        (staged.directory / "validation" / "inputs.json").write_text("{}")
        bundle = seal_sample(staged)
    assert "validation/inputs.json" in {entry.path for entry in verify(bundle).files}


@pytest.mark.parametrize("surface", ["android", "edge"])
def test_two_exports_differ_in_their_measurements_alone(tmp_path: Path, surface: Surface) -> None:
    first = sealed_bundle(tmp_path / "one", tmp_path / "a" / "first", surface=surface)
    staged = staged_bundle(tmp_path / "two", tmp_path / "b" / "second", surface=surface)
    report = passed_report()
    assert report.speed is not None
    slower = dataclasses.replace(report, speed=dataclasses.replace(report.speed, load_seconds=9.0))
    second = seal(staged, slower, report_texts(slower, staged.manifest))
    a, b = contents(first), contents(second)
    assert set(a) == set(b)
    assert {path for path in a if a[path] != b[path]} == {*REPORT_FILES, MANIFEST}
    plain_a, plain_b = json.loads(a[MANIFEST]), json.loads(b[MANIFEST])
    assert {key for key in plain_a if plain_a[key] != plain_b[key]} == {"report", "seal"}


@pytest.mark.parametrize("report", [killed_report(), unvalidated_report()])
def test_verdict_is_in_manifest_and_readme(tmp_path: Path, report: object) -> None:
    report = killed_report() if report == killed_report() else unvalidated_report()
    staged = staged_bundle(tmp_path / "work", tmp_path / "bundle")
    bundle = seal(staged, report, report_texts(report, staged.manifest))
    assert verify(bundle).report.verdict is report.verdict
    words = {"failed": "Do not ship it", "not_validated": "never run"}[report.verdict]
    assert words in (bundle / "README.md").read_text()


def test_force_replaces_the_old_bundle_only_when_the_new_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = sealed_bundle(tmp_path / "old", tmp_path / "out" / "bundle")
    before = contents(old)
    staged = staged_bundle(tmp_path / "new", old, force=True)

    def full(manifest: object) -> bytes:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(seal_module, "manifest_bytes", full)
        with pytest.raises(OutputError, match="disk is full"):
            seal_sample(staged)
    assert names(tmp_path / "out") == ["bundle"]
    assert contents(old) == before
    sealed_bundle(tmp_path / "newer", old, surface="edge", force=True)
    assert verify(old).surface == "edge"
    assert names(tmp_path / "out") == ["bundle"]


def test_bundle_that_appeared_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    staged = staged_bundle(tmp_path / "work", tmp_path / "out" / "bundle")
    (tmp_path / "out" / "bundle").mkdir()
    with pytest.raises(OutputError, match="exists"):
        seal_sample(staged)
    assert names(tmp_path / "out") == ["bundle"]


def test_report_about_other_weights_is_refused(tmp_path: Path) -> None:
    staged = staged_bundle(tmp_path / "work", tmp_path / "out" / "bundle")
    report = passed_report()
    other = dataclasses.replace(report, weights=dataclasses.replace(report.weights, digest="00"))
    with pytest.raises(InternalError, match="other weights"):
        seal(staged, other, report_texts(other, staged.manifest))
    assert names(tmp_path / "out") == []


def test_staged_directory_with_a_manifest_is_refused(tmp_path: Path) -> None:
    staged = staged_bundle(tmp_path / "work", tmp_path / "out" / "bundle")
    (staged.directory / MANIFEST).write_text("{}")
    with pytest.raises(InternalError, match="sealed already"):
        seal_sample(staged)
