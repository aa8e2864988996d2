"""Staging: everything in place under a temporary name, nothing left behind when it fails."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeq.bundle import stage as stage_module
from edgeq.bundle.stage import bundle_name, check_output, discard, remove_stale
from edgeq.core.report import Verdict
from edgeq.errors import InternalError, OutputError
from tests.bundle.samples import encoder_interface, generator_interface, sealed_bundle, staged_bundle


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def dead_process() -> int:
    return int(subprocess.check_output([sys.executable, "-c", "import os; print(os.getpid())"]))


def test_staged_files_are_beside_their_place_and_listed(tmp_path: Path) -> None:
    staged = staged_bundle(tmp_path / "work", tmp_path / "out" / "bundle")
    assert staged.directory == tmp_path / "out" / f".bundle.{os.getpid()}.tmp"
    assert staged.final == tmp_path / "out" / "bundle"
    assert not staged.final.exists()
    found = {path.relative_to(staged.directory).as_posix() for path in staged.directory.rglob("*") if path.is_file()}
    assert {entry.path for entry in staged.manifest.files} == found
    root = "assets/edgeq/my-model"
    assert {f"{root}/model/model.onnx", f"{root}/model/model.onnx_data", f"{root}/golden/golden.json"} <= found
    assert {f"{root}/tokenizer/tokenizer.json", f"{root}/tokenizer/config.json", "LICENSE"} <= found
    assert not any("safetensors" in path for path in found)
    assert staged.manifest.report.verdict is Verdict.NOT_VALIDATED


def test_artifact_is_moved_so_that_no_file_has_two_names(tmp_path: Path) -> None:
    staged = staged_bundle(tmp_path / "work", tmp_path / "bundle")
    assert names(tmp_path / "work" / "artifact") == []
    for entry in staged.model_files:
        assert (staged.directory / entry.path).stat().st_nlink == 1
    assert [Path(entry.path).name for entry in staged.model_files] == ["model.onnx", "model.onnx_data"]


def test_edge_bundles_have_their_files_at_the_top(tmp_path: Path) -> None:
    staged = staged_bundle(tmp_path / "work", tmp_path / "bundle", surface="edge")
    assert staged.manifest.root == "."
    assert (staged.manifest.model, staged.manifest.tokenizer) == ("model/model.onnx", "tokenizer")
    assert [entry.path for entry in staged.model_files] == ["model/model.onnx", "model/model.onnx_data"]
    assert (staged.directory / "run.py").is_file()


def test_model_without_a_fast_tokenizer_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(directory: Path, *, licence: str | None) -> None:
        directory.mkdir(parents=True)
        (directory / "vocab.txt").write_text("a\n")

    monkeypatch.setattr("tests.bundle.samples.write_source", slow)
    staged = staged_bundle(tmp_path / "work", tmp_path / "bundle")
    assert staged.manifest.tokenizer is None
    assert (staged.directory / "assets/edgeq/my-model/tokenizer/vocab.txt").is_file()


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("demo", "demo"),
        ("HuggingFaceTB/SmolLM2-135M", "smollm2-135m"),
        ("/models/My Model (v2)/", "my-model-v2"),
        ("C:\\models\\Tiny", "tiny"),
        ("..", "model"),
        ("/", "model"),
        ("Ünïcode", "n-code"),
    ],
)
def test_bundle_name(source: str, name: str) -> None:
    assert bundle_name(source) == name


def test_failure_while_staging_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interface = dataclasses.replace(generator_interface(), inputs=("input_ids", "input_values"))
    with pytest.raises(InternalError, match="input_values"):
        staged_bundle(tmp_path / "work", tmp_path / "out" / "bundle", interface=interface)
    assert names(tmp_path / "out") == []

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stage_module, "write_licence", full)
    with pytest.raises(OutputError, match="disk is full"):
        staged_bundle(tmp_path / "again", tmp_path / "out" / "bundle")
    assert names(tmp_path / "out") == []


def test_leaving_the_context_removes_what_was_not_sealed(tmp_path: Path) -> None:
    staged = staged_bundle(tmp_path / "work", tmp_path / "out" / "bundle", interface=encoder_interface())
    assert staged.directory.is_dir()
    with pytest.raises(RuntimeError), staged:
        raise RuntimeError("validation broke")
    assert names(tmp_path / "out") == []
    discard(staged)


def test_existing_output_needs_force_and_must_be_a_bundle(tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    check_output(out, force=False)
    out.mkdir()
    with pytest.raises(OutputError, match="exists"):
        check_output(out, force=False)
    check_output(out, force=True)
    (out / "thesis.tex").write_text("ten years of work")
    with pytest.raises(OutputError, match="no edgeq bundle"):
        check_output(out, force=True)
    (out / "edgeq.json").write_text("{}")
    check_output(out, force=True)
    with pytest.raises(OutputError, match="no edgeq bundle"):
        check_output(out / "thesis.tex", force=True)
    with pytest.raises(OutputError, match="cannot be a bundle"):
        check_output(Path("/"), force=True)


def test_existing_output_is_refused_before_anything_moves(tmp_path: Path) -> None:
    out = sealed_bundle(tmp_path / "work", tmp_path / "bundle")
    with pytest.raises(OutputError, match="exists"):
        staged_bundle(tmp_path / "again", out)
    assert names(tmp_path / "again" / "artifact") == ["model.onnx", "model.onnx_data"]


def test_what_dead_processes_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    dead, out = dead_process(), tmp_path / "bundle"
    stays = [".bundle.1.tmp", f".other.{dead}.tmp", f".bundle.{dead}.txt", f"bundle.{dead}.tmp", ".bundle.x.tmp"]
    for name in [*stays, f".bundle.{dead}.tmp", f".bundle.{os.getpid()}.tmp"]:
        (tmp_path / name).mkdir()
    (tmp_path / f".bundle.{dead + 1}.tmp").symlink_to(tmp_path / f".other.{dead}.tmp")
    remove_stale(out)
    assert names(tmp_path) == sorted([*stays, f".bundle.{dead + 1}.tmp"])


def test_bundle_that_a_killed_run_had_set_aside_comes_back(tmp_path: Path) -> None:
    dead, out = dead_process(), tmp_path / "bundle"
    aside = tmp_path / f".bundle.{dead}.old"
    aside.mkdir()
    (aside / "edgeq.json").write_text("{}")
    remove_stale(out)
    assert names(tmp_path) == ["bundle"]
    aside.mkdir()
    remove_stale(out)
    assert names(tmp_path) == ["bundle"]
    assert names(out) == ["edgeq.json"]


def test_output_in_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot be created"):
        staged_bundle(tmp_path / "work", tmp_path / "file" / "bundle")
