"""Bundles for ExecuTorch and Core ML: they pass, and every mutant fails, even where its manifest is forged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeq.api import export
from edgeq.bundle.manifest import read_manifest
from edgeq.core.report import Verdict
from edgeq.pipeline import export_formats, quantize, validate
from edgeq.validation.coreml_weights import CoremlWeights
from edgeq.validation.executorch_weights import ExecuTorchWeights
from runtime_tests.test_mutants import failed, forge, swap_tokenizer
from tests.tiny_models import tiny_bert, tiny_llama

WEIGHT = "model.layers.0.mlp.gate_proj.weight"
TARGETS = {"executorch": "android", "coreml": "ios"}


@pytest.fixture(scope="module", params=TARGETS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    model = tiny_llama(folder / "model", layers=1)
    report = export(model, target=TARGETS[request.param], format=request.param, method="mse", output=folder / "bundle")
    assert report.verdict is Verdict.PASSED, report.reason
    return folder / "bundle"


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


def data_file(bundle: Path) -> Path:
    """The file that holds the weights."""
    model = bundle / read_manifest(bundle).model
    return model if model.is_file() else next(model.rglob("weight.bin"))


def stored(bundle: Path, part: str) -> bytes:
    """One weight's codes or scales as they lie in the file."""
    manifest = read_manifest(bundle)
    location, model = manifest.weights[WEIGHT], bundle / manifest.model
    place = getattr(location, part)
    if manifest.format == "executorch":
        outputs, inputs = location.shape
        size = outputs * inputs // 2 if part == "codes" else outputs * (inputs // (location.group_size or inputs)) * 2
        return ExecuTorchWeights(model)._bytes(place, size)
    values = CoremlWeights(model).array(place)
    if part == "scales":
        return values.astype(np.float16).tobytes()
    nibbles = values.astype(np.uint8).ravel() & 15
    return (nibbles[0::2] | (nibbles[1::2] << 4)).tobytes()


def replace_bytes(bundle: Path, old: bytes, new: bytes) -> None:
    path = data_file(bundle)
    contents = path.read_bytes()
    assert contents.count(old) == 1
    path.write_bytes(contents.replace(old, new))


def mutate_code(bundle: Path) -> None:
    codes = stored(bundle, "codes")
    replace_bytes(bundle, codes, bytes([codes[0] ^ 0x80]) + codes[1:])


def mutate_scales(bundle: Path) -> None:
    """A tenth more: bfloat16 and float16 keep at least 7 bits of it."""
    scales = stored(bundle, "scales")
    if read_manifest(bundle).format == "executorch":
        values = (np.frombuffer(scales, np.uint16).astype(np.uint32) << 16).view(np.float32) * np.float32(1.1)
        changed = (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    else:
        changed = (np.frombuffer(scales, np.float16) * np.float16(1.1)).tobytes()
    replace_bytes(bundle, scales, changed)


def truncate_data(bundle: Path) -> None:
    path = data_file(bundle)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


MUTANTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "code": (mutate_code, "weights_digest"),
    "scales": (mutate_scales, "weights_digest"),
    "data": (truncate_data, "weights_digest"),
    "tokenizer": (swap_tokenizer, "tokenizer"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_fails_and_a_forged_list_of_files_does_not_help(bundle: Path, name: str) -> None:
    mutate, gate = MUTANTS[name]
    mutate(bundle)
    assert failed(validate(bundle)) == {"files"}
    forge(bundle)
    assert gate in failed(validate(bundle))


def test_what_core_ml_did_not_run_is_not_fully_judged(bundle: Path) -> None:
    report = validate(bundle)
    assert report.verdict is Verdict.PASSED
    if report.format == "coreml":
        assert report.memory is None
        assert "reference-executed" in report.reason
        (gate,) = (gate for gate in report.gates if gate.name == "peak_dirty_bytes")
        assert gate.verdict is Verdict.NOT_VALIDATED
    else:
        assert report.memory is not None
        assert report.memory.survived
    assert report.planned_memory


def test_a_limit_just_below_the_peak_kills(bundle: Path) -> None:
    """What torch holds in the process does not count, and does not hide the artifact either."""
    if read_manifest(bundle).format != "executorch":
        pytest.skip("its memory is not judged here")
    memory = validate(bundle).memory
    assert memory is not None
    assert memory.baseline_dirty_bytes > 3 * memory.peak_dirty_bytes
    below = validate(bundle, memory_limit=memory.peak_dirty_bytes * 9 // 10)
    assert "survived" in failed(below)
    assert "killed at the limit" in below.reason


def test_all_formats_of_a_target_hold_the_same_codes(tmp_path: Path) -> None:
    model = tiny_bert(tmp_path / "model")
    store = quantize(model, target="ios", format="all", method="mse", output=tmp_path / "store")
    reports = export_formats(model, target="ios", format="all", method="mse", output=tmp_path / "bundles")
    assert [report.format for report in reports] == ["coreml", "executorch"]
    assert {report.weights.digest for report in reports} == {store.weights_digest}
    for report in reports:
        (gate,) = (gate for gate in report.gates if gate.name == "weights_digest")
        assert gate.verdict is Verdict.PASSED, gate.reason
        assert (tmp_path / "bundles" / report.format / "edgeq.json").is_file()
