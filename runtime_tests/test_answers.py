"""What a report shows beside its figures, of the embedded model in ONNX Runtime: texts, and change by layer."""

from __future__ import annotations

from pathlib import Path

import edgeq
from edgeq.core.report import Verdict
from edgeq.models.reference import PROMPTS


def test_at_16_bits_both_models_write_the_same_and_a_later_validation_says_so_too(tmp_path: Path) -> None:
    report = edgeq.export(target="edge", bits=16, output=tmp_path / "bundle")
    assert report.verdict is Verdict.PASSED
    assert report.drift is not None
    answers, layers = report.drift.answers, report.drift.layers
    assert len(answers) == PROMPTS
    assert all(answer.both for answer in answers)
    assert {answer.original_text + answer.exported_text for answer in answers} == {""}
    assert [layer.layer for layer in layers] == list(range(6))
    assert all(0 < layer.relative_error < 1e-3 and layer.cosine > 0.9999 for layer in layers)
    assert report.frontier is None
    again = edgeq.validate(tmp_path / "bundle")
    assert again.drift is not None
    assert [(one.prompt, one.both) for one in again.drift.answers] == [(one.prompt, one.both) for one in answers]
    assert again.drift.layers == layers


def test_at_2_bits_they_part_where_the_report_marks_it(tmp_path: Path) -> None:
    report = edgeq.export(target="edge", bits=2, method="rtn", output=tmp_path / "bundle")
    assert report.drift is not None
    parted = [answer for answer in report.drift.answers if answer.original_text and answer.exported_text]
    assert parted
    assert all(answer.original_text != answer.exported_text for answer in parted)
    errors = [layer.relative_error for layer in report.drift.layers]
    assert min(errors) > 0.1
