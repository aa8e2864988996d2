"""`edgeq export --format all` on the command line: one store, a bundle and a verdict per format, one JSON list."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeq import cli
from edgeq.bundle.manifest import verify
from edgeq.store import QuantizedModel
from tests.tiny_models import tiny_bert

FORMATS = {"android": ["onnx", "executorch"], "ios": ["coreml", "executorch"]}


@pytest.mark.parametrize("target", FORMATS)
def test_every_format_of_a_target_from_one_store(
    tmp_path: Path, target: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_bert(tmp_path / "model", layers=1)
    options = ["--target", target, "--bits", "8", "--format", "all"]
    assert cli.run(["quantize", "model", *options, "--output", "store"]) == 0
    capsys.readouterr()
    assert cli.run(["export", "model", *options, "--output", "bundles", "--json"]) == 0
    streams = capsys.readouterr()
    reports = json.loads(streams.out)
    assert [report["format"] for report in reports] == FORMATS[target]
    digest = QuantizedModel.open(tmp_path / "store").weights_digest
    for report in reports:
        bundle = tmp_path / "bundles" / report["format"]
        assert (report["target"], report["verdict"], report["weights"]["digest"]) == (target, "passed", digest)
        assert verify(bundle).weights_digest == digest
        assert json.loads((bundle / "report.json").read_text()) == report
        if report["format"] == "coreml":  # an interpreter ran it
            assert report["memory"] is None
        else:
            memory = report["memory"]
            assert 0 < memory["baseline_dirty_bytes"] < memory["process_dirty_bytes"]
            assert memory["peak_dirty_bytes"] <= memory["limit_bytes"]
    assert sorted(path.name for path in (tmp_path / "bundles").iterdir()) == sorted(FORMATS[target])


@pytest.fixture
def too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> str:
    """What an export prints under a limit that neither format of android can meet; the bundles are in `bundles`."""
    monkeypatch.chdir(tmp_path)
    tiny_bert(tmp_path / "model", layers=1)
    options = ["--target", "android", "--bits", "8", "--format", "all", "--max-memory", "20MB"]
    assert cli.run(["export", "model", *options, "--output", "bundles"]) == 1
    return " ".join(capfd.readouterr().out.split())


def test_a_failed_format_fails_the_export_and_damage_is_one_line(
    too_large: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert too_large.count("verdict failed: survived: killed at the limit") == 2
    assert too_large.count(", of which baseline ") == 2
    for format in FORMATS["android"]:
        verify(tmp_path / "bundles" / format)
    program = next((tmp_path / "bundles").rglob("model.pte"))
    contents = program.read_bytes()
    program.write_bytes(contents[:200] + bytes([contents[200] ^ 255]) + contents[201:])
    assert cli.run(["run", "bundles/executorch"]) == 4
    streams = capfd.readouterr()
    assert streams.out == ""
    assert len(streams.err.splitlines()) == 1
    assert "model.pte was changed" in streams.err
