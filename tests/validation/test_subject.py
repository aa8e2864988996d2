"""What a manifest says, and whether its files are still as listed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from edgeq.core.artifact import Interface
from edgeq.core.records import to_plain
from edgeq.errors import BadInputError, CorruptInputError, UnsafeInputError
from edgeq.validation.subject import Subject

INTERFACE = Interface(
    task="feature-extraction", inputs=("input_ids",), outputs=("x",), vocabulary=4, context_length=8, dimension=2
)


def make_manifest(directory: Path) -> dict[str, Any]:
    (directory / "model.onnx").write_bytes(b"model")
    entry = {"path": "model.onnx", "bytes": 5, "sha256": hashlib.sha256(b"model").hexdigest()}
    return {
        "format": "onnx",
        "root": ".",
        "model": "model.onnx",
        "tokenizer": None,
        "golden": "golden/golden.json",
        "interface": to_plain(INTERFACE),
        "weights": {},
        "weights_digest": "abc",
        "runtime": {"threads": 4},
        "profile": {"compute_unit": "gpu"},
        "files": [entry],
        "report": {"files": []},
    }


def test_a_manifest_becomes_paths_and_nouns(tmp_path: Path) -> None:
    subject = Subject.from_manifest(tmp_path, make_manifest(tmp_path))
    assert subject.interface == INTERFACE
    assert subject.model == tmp_path / "model.onnx"
    assert subject.tokenizer is None
    assert (subject.threads, subject.compute_unit, subject.app_bytes, subject.wrong_file()) == (4, "gpu", 5, "")


def test_reports_are_judged_as_files_and_not_as_part_of_the_app(tmp_path: Path) -> None:
    manifest = make_manifest(tmp_path)
    (tmp_path / "report.html").write_bytes(b"page")
    entry = {"path": "report.html", "bytes": 4, "sha256": hashlib.sha256(b"page").hexdigest()}
    manifest["report"] = {"files": [entry]}
    subject = Subject.from_manifest(tmp_path, manifest)
    assert (subject.app_bytes, subject.wrong_file()) == (5, "")
    (tmp_path / "report.html").write_bytes(b"other")
    assert subject.wrong_file() == "report.html has 5 bytes, not 4"


@pytest.mark.parametrize("key", ["root", "model", "interface", "weights", "weights_digest", "runtime", "files"])
def test_a_missing_entry_is_refused(tmp_path: Path, key: str) -> None:
    manifest = make_manifest(tmp_path)
    del manifest[key]
    with pytest.raises(CorruptInputError):
        Subject.from_manifest(tmp_path, manifest)


@pytest.mark.parametrize(
    "change",
    [{"model": 3}, {"interface": []}, {"runtime": {}}, {"runtime": {"threads": "x"}}, {"files": [{"path": "x"}]}],
)
def test_an_entry_without_sense_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(CorruptInputError):
        Subject.from_manifest(tmp_path, make_manifest(tmp_path) | change)


@pytest.mark.parametrize("entry", ["model", "tokenizer", "golden"])
def test_paths_that_leave_the_bundle_are_refused(tmp_path: Path, entry: str) -> None:
    with pytest.raises(UnsafeInputError):
        Subject.from_manifest(tmp_path, make_manifest(tmp_path) | {entry: "../x"})


def test_changed_files_are_named(tmp_path: Path) -> None:
    subject = Subject.from_manifest(tmp_path, make_manifest(tmp_path))
    (tmp_path / "model.onnx").write_bytes(b"MODEL")
    assert subject.wrong_file() == "model.onnx was changed"
    (tmp_path / "model.onnx").write_bytes(b"mod")
    assert subject.wrong_file() == "model.onnx has 3 bytes, not 5"
    (tmp_path / "model.onnx").unlink()
    assert subject.wrong_file() == "model.onnx is missing"


def test_listed_paths_must_stay_inside(tmp_path: Path) -> None:
    manifest = make_manifest(tmp_path)
    manifest["files"][0]["path"] = "../model.onnx"
    with pytest.raises(BadInputError):
        Subject.from_manifest(tmp_path, manifest).wrong_file()


def test_only_what_the_app_carries_counts(tmp_path: Path) -> None:
    manifest = make_manifest(tmp_path)
    paths = ("assets/m/model.onnx", "validation/float/0000.npy", "README.md")
    manifest["files"] = [{"path": path, "bytes": 10**index, "sha256": ""} for index, path in enumerate(paths)]
    assert Subject.from_manifest(tmp_path, manifest).app_bytes == 101
    assert Subject.from_manifest(tmp_path, manifest | {"root": "assets/m"}).app_bytes == 1
