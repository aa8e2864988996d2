"""report.md: complete, small, and not to be taken over by a model's name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from edgeq.core.report import Report
from edgeq.reports.markdown import report_to_markdown
from tests.reports.samples import (
    arm64_report,
    browser_report,
    encoder_report,
    killed_report,
    passed_report,
    unvalidated_report,
)

GOLDEN = Path(__file__).parent / "golden" / "report.md"


def test_report_of_a_language_model_is_the_golden_one() -> None:
    assert report_to_markdown(passed_report()) == GOLDEN.read_text(encoding="utf-8")


@pytest.mark.parametrize("report", [passed_report(), encoder_report(), killed_report(), unvalidated_report()])
def test_fits_a_job_summary(report: Report) -> None:
    assert len(report_to_markdown(report).encode()) < 16_384


def test_verdicts_stand_out() -> None:
    assert "**❌ failed**: killed at the limit" in report_to_markdown(killed_report())
    assert "**⚠️ not validated**: --no-validate was given" in report_to_markdown(unvalidated_report())
    assert "| peak memory | not measured |" in report_to_markdown(unvalidated_report())
    assert "Measured over 64 sentences." in report_to_markdown(encoder_report())


def test_every_run_is_a_row() -> None:
    text = report_to_markdown(browser_report())
    assert "| q4 on webgpu | 1.41 s | 0.53 s | 23.9 | 512.0 MiB | 0.0004 | 0.0317 | passed |" in text
    assert "| q4f16 on webgpu | - | - | - | - | - | - | not validated |" in text
    assert "## Runs" not in report_to_markdown(passed_report())


def test_both_kernels_are_in_the_report() -> None:
    text = report_to_markdown(arm64_report())
    assert "| arm64, cortex-a76 | 0.0003 | 0.0316 | 0.0001 | 0.00469 | passed |" in text
    assert "- arm64: onnxruntime 1.32.0, qemu 10.0.2" in text
    assert "## Kernels" not in report_to_markdown(passed_report())
    assert "- arm64, cortex-a76 was not run: It is not there." in report_to_markdown(arm64_report(ran=False))


def test_names_from_outside_are_text() -> None:
    report = passed_report()
    model = dataclasses.replace(report.model, source="a|b\n# <script>*x*[y](z)`")
    title = report_to_markdown(dataclasses.replace(report, model=model)).splitlines()[0]
    assert title == r"# a|b # \<script\>\*x\*\[y\](z)\` for android"
