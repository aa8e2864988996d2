"""report.json has the fields that the design names, and a report comes back as it was."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from edgeq.core.report import DriftSection, Report
from edgeq.errors import CorruptInputError, UsageError
from edgeq.reports.json import read_report, report_from_dict, report_to_dict, report_to_json
from tests.reports.samples import (
    arm64_report,
    classifier_report,
    encoder_report,
    killed_report,
    language_drift,
    passed_report,
    unvalidated_report,
)

REPORTS = [
    arm64_report(),
    arm64_report(ran=False),
    passed_report(),
    encoder_report(),
    classifier_report(),
    killed_report(),
    unvalidated_report(),
]


@pytest.mark.parametrize("report", REPORTS)
def test_report_survives_its_file(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(report_to_json(report))
    assert read_report(path) == report


def test_field_names_are_those_of_the_design() -> None:
    plain = report_to_dict(passed_report())
    assert set(plain) == {
        "schema", "edgeq_version", "target", "format", "verdict", "reason", "model", "recipe", "weights", "artifact",
        "memory", "drift", "speed", "gates", "environment", "planned_memory",
        "backends", "frontier", "notes", "tokenizer",
    }  # fmt: skip
    assert set(plain["model"]) == {"source", "revision", "task", "architecture", "parameters"}
    assert {"bits", "method", "group_size"} <= set(plain["recipe"])
    assert set(plain["weights"]) == {"digest", "bits_per_weight", "bytes", "float_bytes"}
    assert set(plain["artifact"]["files"][0]) == {"path", "bytes", "sha256"}
    assert {
        "peak_dirty_bytes",
        "process_dirty_bytes",
        "baseline_dirty_bytes",
        "peak_rss_bytes",
        "limit_bytes",
        "backend",
        "survived",
    } <= set(plain["memory"])
    assert set(plain["drift"]) == {
        "quantization", "lowering", "total", "tokens", "answers", "architectures", "layers",
    }  # fmt: skip
    assert {"kld_mean", "kld_p999", "kld_max", "top1_agreement", "perplexity_ratio"} <= set(plain["drift"]["total"])
    assert {"name", "value", "limit", "verdict"} <= set(plain["gates"][0])
    assert set(plain["environment"]) == {"runtime", "runtime_version", "platform", "python"}


def test_broken_models_have_infinite_drift_in_valid_json() -> None:
    worst = dataclasses.replace(language_drift(1.0), kld_max=float("inf"), perplexity=float("inf"))
    report = dataclasses.replace(passed_report(), drift=DriftSection(quantization=worst, lowering=worst, total=worst))
    text = report_to_json(report)
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert report_from_dict(json.loads(text)) == report


def test_other_schemas_are_refused() -> None:
    with pytest.raises(CorruptInputError, match="schema 99"):
        report_from_dict({**report_to_dict(passed_report()), "schema": 99})
    with pytest.raises(CorruptInputError, match="schema None"):
        report_from_dict([])


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(CorruptInputError, match=r"report\.json has the unknown entry 'colour'"):
        report_from_dict({**report_to_dict(passed_report()), "colour": "red"})


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_report(tmp_path / "absent.json")
    path = tmp_path / "report.json"
    for data in (b"{", b"\xff\xfe", b"[" * 100_000):
        path.write_bytes(data)
        with pytest.raises(CorruptInputError, match="is not JSON"):
            read_report(path)
    with path.open("wb") as stream:
        stream.truncate(33 * 2**20)
    with pytest.raises(CorruptInputError, match="too large"):
        read_report(path)
