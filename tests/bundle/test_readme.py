"""The bundle's README: what it is for, and a verdict that claims no more than was run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from edgeq.bundle.seal import seal
from edgeq.bundle.text import installed_version, paragraph
from edgeq.core.target import Format, Surface
from edgeq.summary import report_texts
from tests.bundle.samples import seal_sample, staged_bundle
from tests.reports.samples import passed_report


def readme(work: Path, surface: Surface, format: Format, *, has_memory: bool = True) -> str:
    staged = staged_bundle(work / "work", work / "bundle", surface=surface, format=format)
    report = passed_report()
    if not has_memory:
        report = dataclasses.replace(report, memory=None)
    out = seal(staged, report, report_texts(report, staged.manifest))
    return (out / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("surface", "format", "words"),
    [
        ("android", "onnx", ["ONNX Runtime {onnxruntime}", "`model.onnx` is the graph", "two Kotlin files"]),
        ("android", "executorch", ["ExecuTorch {executorch}", "one file, weights and all", "two Kotlin files"]),
        ("ios", "coreml", ["written by coremltools {coremltools}", "`model.mlpackage`", "`validate_on_mac.py`"]),
        ("ios", "executorch", ["ExecuTorch {executorch}", "one file, weights and all", "Swift files"]),
    ],
)
def test_runtime_files_and_use_are_those_of_the_format(
    tmp_path: Path, surface: Surface, format: Format, words: list[str]
) -> None:
    text = readme(tmp_path, surface, format)
    versions = {name: installed_version(name) for name in ("onnxruntime", "executorch", "coremltools")}
    for word in words:
        assert word.format(**versions) in text
    assert "**passed**: it was run in its runtime" in text
    assert ("validate_on_mac" in text) == (format == "coreml")


def test_reference_executed_bundle_does_not_claim_its_runtime(tmp_path: Path) -> None:
    text = readme(tmp_path, "ios", "coreml", has_memory=False)
    assert "**passed**, as far as it could be judged here: a reference interpreter ran it" in text
    assert "Its memory was not judged." in text
    assert "run in its runtime" not in text


def test_bundle_that_was_not_run_says_so(tmp_path: Path) -> None:
    staged = staged_bundle(tmp_path / "work", tmp_path / "bundle", surface="ios", format="coreml")
    sealed = seal_sample(staged)
    assert "reference interpreter" not in (sealed / "README.md").read_text(encoding="utf-8")


def test_paragraph_wraps_without_breaking_names() -> None:
    text = paragraph("word " * 30 + "com.apple.developer.kernel.increased-memory-limit", "  ")
    lines = text.splitlines()
    assert max(map(len, lines)) <= 116
    assert lines[1].startswith("  word")
    assert lines[-1].endswith("com.apple.developer.kernel.increased-memory-limit")
