"""Reading manifests without a runtime."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from edgeq.core.artifact import Interface
from edgeq.errors import CorruptInputError, UnsafeInputError, UsageError
from edgeq.runtimes.opening import (
    model_path,
    open_bundle,
    read_compute_unit,
    read_interface,
    read_manifest,
    tokenizer_path,
)

INTERFACE = Interface(
    task="text-generation",
    inputs=("input_ids",),
    outputs=("logits",),
    vocabulary=9,
    context_length=16,
    cache=((2, 4), (2, 4)),
    end_of_text_ids=(0,),
)


def test_an_interface_survives_json() -> None:
    assert read_interface(json.loads(json.dumps(asdict(INTERFACE)))) == INTERFACE


@pytest.mark.parametrize("change", [{"task": "painting"}, {"cache": [[1]]}, {"vocabulary": "9"}, {"surprise": 1}])
def test_a_wrong_interface_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(CorruptInputError):
        read_interface(json.loads(json.dumps(asdict(INTERFACE) | change)))


def test_no_interface_is_refused() -> None:
    with pytest.raises(CorruptInputError):
        read_interface(None)


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no bundle"):
        open_bundle(tmp_path / "nowhere")


@pytest.mark.parametrize("content", [None, b"", b"{", b"[1]", b"\xff\xfe\x00"])
def test_an_unfinished_bundle_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "edgeq.json").write_bytes(content)
    with pytest.raises(CorruptInputError):
        read_manifest(tmp_path)


def test_paths_are_resolved_in_the_bundle(tmp_path: Path) -> None:
    manifest = {"model": "a/model.onnx", "tokenizer": "a/tokenizer"}
    assert model_path(tmp_path, manifest) == tmp_path / "a" / "model.onnx"
    assert tokenizer_path(tmp_path, manifest) == tmp_path / "a" / "tokenizer" / "tokenizer.json"
    assert tokenizer_path(tmp_path, {"tokenizer": None}) is None


def test_paths_that_leave_the_bundle_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsafeInputError):
        model_path(tmp_path, {"model": "../model.onnx"})
    with pytest.raises(CorruptInputError):
        model_path(tmp_path, {"model": 5})
    with pytest.raises(CorruptInputError):
        model_path(tmp_path, {})


def test_a_missing_model_file_is_refused(tmp_path: Path) -> None:
    manifest = {
        "format": "onnx",
        "model": "model.onnx",
        "tokenizer": None,
        "interface": asdict(INTERFACE),
        "profile": {"compute_unit": "cpu"},
    }
    (tmp_path / "edgeq.json").write_text(json.dumps(manifest))
    with pytest.raises(CorruptInputError, match="missing"):
        open_bundle(tmp_path)


@pytest.mark.parametrize("format", [None, "tflite", ["onnx"]])
def test_a_format_that_edgeq_does_not_know_is_refused(tmp_path: Path, format: object) -> None:
    manifest = {"format": format, "model": "model.onnx", "tokenizer": None, "interface": asdict(INTERFACE)}
    (tmp_path / "edgeq.json").write_text(json.dumps(manifest))
    with pytest.raises(CorruptInputError, match="no format"):
        open_bundle(tmp_path)


@pytest.mark.parametrize("profile", [None, {}, {"compute_unit": "tpu"}, {"compute_unit": ["gpu"]}, "gpu"])
def test_a_compute_unit_that_edgeq_does_not_know_is_refused(profile: object) -> None:
    assert read_compute_unit({"profile": {"compute_unit": "neural_engine"}}) == "neural_engine"
    with pytest.raises(CorruptInputError, match="no compute unit"):
        read_compute_unit({"profile": profile})


def test_importing_the_drivers_and_the_judge_loads_no_framework() -> None:
    code = (
        "import sys, edgeq.validation, edgeq.runtimes.opening, edgeq.validation.child;"
        "heavy = {'torch', 'transformers', 'onnx', 'onnxruntime', 'tokenizers', 'onnx_ir', 'executorch', 'coremltools'}"
        "& set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
