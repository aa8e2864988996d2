"""A bundle from the real pipeline passes; every mutant of it is refused or fails, even where its manifest is forged."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeq.api import export
from edgeq.bundle.manifest import MANIFEST, file_entry, manifest_bytes, read_manifest
from edgeq.core.report import Report, Verdict
from edgeq.errors import CorruptInputError, RuntimeUnavailableError
from edgeq.pipeline import validate
from edgeq.validation.onnx_weights import artifact_digest
from tests.tiny_models import tiny_llama


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    report = export(tiny_llama(folder / "model"), bits=4, method="mse", output=folder / "bundle")
    assert report.verdict is Verdict.PASSED, report.reason
    return folder / "bundle"


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


def forge(bundle: Path, *, digest: bool = False) -> None:
    """List the files as they are now and seal the manifest anew; with `digest`, claim the weights that are there."""
    manifest = read_manifest(bundle)
    manifest = replace(manifest, files=tuple(file_entry(bundle, entry.path) for entry in manifest.files))
    if digest:
        weights = json.loads((bundle / MANIFEST).read_text())["weights"]
        manifest = replace(manifest, weights_digest=artifact_digest(bundle / manifest.model, weights))
    (bundle / MANIFEST).write_bytes(manifest_bytes(manifest))


def place(bundle: Path, tensor: str, part: str) -> tuple[Path, int, int]:
    """The data file, and the offset and length in it, of one weight's codes or scales."""
    manifest = read_manifest(bundle)
    model = bundle / manifest.model
    name = getattr(manifest.weights[tensor], part)
    graph = onnx.load(model, load_external_data=False).graph
    where = next(one for one in graph.initializer if one.name == name)
    entries = {item.key: item.value for item in where.external_data}
    return model.with_name(entries["location"]), int(entries["offset"]), int(entries["length"])


def mutate_code(bundle: Path) -> None:
    path, offset, _ = place(bundle, "model.layers.0.mlp.down_proj.weight", "codes")
    data = bytearray(path.read_bytes())
    data[offset + 8] ^= 0x80
    path.write_bytes(data)


def mutate_scales(bundle: Path) -> None:
    path, offset, length = place(bundle, "model.layers.0.self_attn.v_proj.weight", "scales")
    data = bytearray(path.read_bytes())
    scales = np.frombuffer(bytes(data[offset : offset + length]), dtype="<f4") * np.float32(1.1)
    data[offset : offset + length] = scales.astype("<f4").tobytes()
    path.write_bytes(data)


def truncate_data(bundle: Path) -> None:
    path = (bundle / read_manifest(bundle).model).with_name("model.onnx_data")
    path.write_bytes(path.read_bytes()[:-5000])


def swap_tokenizer(bundle: Path) -> None:
    """Words exchange their ids: the file is as good as before, and wrong."""
    path = bundle / str(read_manifest(bundle).tokenizer) / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    words = sorted(vocabulary, key=vocabulary.__getitem__)[-200:]
    tokenizer["model"]["vocab"] = vocabulary | {
        word: vocabulary[other] for word, other in zip(words, reversed(words), strict=True)
    }
    path.write_text(json.dumps(tokenizer))


MUTANTS = {"code": mutate_code, "scales": mutate_scales, "data": truncate_data, "tokenizer": swap_tokenizer}


def failed(report: Report) -> set[str]:
    return {gate.name for gate in report.gates if gate.verdict is Verdict.FAILED}


def test_the_bundle_passes_again(bundle: Path) -> None:
    assert validate(bundle).verdict is Verdict.PASSED


@pytest.mark.parametrize("name", MUTANTS)
def test_a_changed_file_is_noticed(bundle: Path, name: str) -> None:
    MUTANTS[name](bundle)
    assert failed(validate(bundle)) == {"files"}


@pytest.mark.parametrize(
    ("name", "gate"),
    [("code", "weights_digest"), ("scales", "weights_digest"), ("data", "weights_digest"), ("tokenizer", "tokenizer")],
)
def test_a_forged_list_of_files_does_not_help(bundle: Path, name: str, gate: str) -> None:
    MUTANTS[name](bundle)
    forge(bundle)
    assert gate in failed(validate(bundle))


def test_a_forged_digest_is_given_away_by_drift(bundle: Path) -> None:
    mutate_scales(bundle)
    forge(bundle, digest=True)
    assert "lowering_kld_mean" in failed(validate(bundle))


def test_a_changed_manifest_is_refused(bundle: Path) -> None:
    text = (bundle / MANIFEST).read_text()
    (bundle / MANIFEST).write_text(text.replace('"weights_digest": "', '"weights_digest": "0'))
    with pytest.raises(CorruptInputError):
        validate(bundle)


def test_a_missing_emulator_is_no_verdict_where_arm64_is_asked_for(bundle: Path) -> None:
    plain = validate(bundle)
    assert plain.verdict is Verdict.PASSED
    assert plain.drift is not None
    assert [row.verdict for row in plain.drift.architectures] == [Verdict.PASSED, Verdict.NOT_VALIDATED]
    asked = validate(bundle, arch="arm64")
    assert asked.verdict is Verdict.NOT_VALIDATED
    assert asked.reason.endswith("Install it: edgeq doctor --install arm64.")
    assert asked.memory is not None
    assert asked.gates
    with pytest.raises(RuntimeUnavailableError, match="edgeq doctor --install arm64") as refusal:
        validate(bundle, arch="arm64", require=True)
    assert refusal.value.exit_code == 3
    native = validate(bundle, arch="x86_64", require=True)
    assert native.drift is not None
    assert native.drift.architectures == ()


def test_too_little_memory_is_a_failed_gate(bundle: Path) -> None:
    report = validate(bundle, memory_limit=20_000_000)
    assert report.verdict is Verdict.FAILED
    assert "killed at the limit" in report.reason
