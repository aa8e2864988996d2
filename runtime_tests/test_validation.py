"""The judge on whole bundles: passes what is right, fails every mutant, and never passes what it could not run."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgeq.core.report import EmbeddingDrift, LanguageDrift, Verdict
from edgeq.core.scheme import Scheme
from edgeq.errors import CorruptInputError, RuntimeUnavailableError
from edgeq.validation import Measurement, validate_bundle
from edgeq.validation.gates import Criteria
from edgeq.validation.limits import backends
from edgeq.validation.memory import RUNTIME_BYTES
from edgeq.validation.onnx_weights import artifact_digest
from runtime_tests.tiny_onnx import (
    ENCODER,
    make_bundle,
    random_floats,
    relist,
    round_to_nearest,
    save_encoder,
    tokenizer_json,
    write_manifest,
)

CRITERIA = Criteria(bits=2, parameters=10_000, accuracy_level=1, memory_limit_bytes=256 << 20)
USABLE = [backend.name for backend in backends() if backend.usable]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "bundle").mkdir()
    return make_bundle(tmp_path / "bundle")


@pytest.fixture
def encoder_bundle(tmp_path: Path) -> Path:
    (tmp_path / "encoder").mkdir()
    return make_bundle(tmp_path / "encoder", task="feature-extraction")


def judge(bundle: Path, criteria: Criteria = CRITERIA, **options: Any) -> Measurement:  # noqa: ANN401
    return validate_bundle(bundle, criteria=criteria, **options)


def failed(measurement: Measurement) -> set[str]:
    return {gate.name for gate in measurement.gates if gate.verdict is Verdict.FAILED}


def change_initializer(bundle: Path, name: str, change: Any) -> None:  # noqa: ANN401
    """Rewrite one initializer of the model, and the list of files with it."""
    path = bundle / "model" / "model.onnx"
    model = onnx.load(path)
    tensor = next(one for one in model.graph.initializer if one.name == name)
    array = onnx.numpy_helper.to_array(tensor).copy()
    tensor.CopyFrom(onnx.numpy_helper.from_array(change(array), name))
    path.with_name("model.onnx_data").unlink()
    onnx.save_model(model, path, save_as_external_data=True, location="model.onnx_data", size_threshold=128)
    relist(bundle)


def forge_digest(bundle: Path) -> None:
    """Let the manifest claim the weights that are there, so that drift alone must notice."""
    path = bundle / "edgeq.json"
    manifest = json.loads(path.read_text())
    manifest["weights_digest"] = artifact_digest(bundle / "model" / "model.onnx", manifest["weights"])
    path.write_text(json.dumps(manifest))


def flip_code(codes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    codes[3, 0, 5] ^= 0x80
    return codes


def test_a_true_bundle_passes(bundle: Path) -> None:
    found = judge(bundle)
    assert (found.verdict, found.reason) == (Verdict.PASSED, "")
    assert found.memory is not None
    assert found.memory.survived
    assert 0 < found.memory.peak_dirty_bytes <= found.memory.limit_bytes
    # ONNX Runtime's baseline is below what is charged for any runtime, so the whole process counts.
    assert 0 < found.memory.baseline_dirty_bytes < RUNTIME_BYTES
    assert found.memory.peak_dirty_bytes == found.memory.process_dirty_bytes
    assert list(found.memory.phases) == ["load", "prefill", "decode", "drift"]
    assert found.drift is not None
    assert isinstance(found.drift.lowering, LanguageDrift)
    assert found.drift.lowering.max_abs < 1e-4
    assert found.speed is not None
    assert found.speed.decode_tokens_per_second is not None
    assert found.environment.runtime_version


def test_a_true_encoder_passes(encoder_bundle: Path) -> None:
    found = judge(encoder_bundle)
    assert (found.verdict, found.reason) == (Verdict.PASSED, "")
    assert found.drift is not None
    assert isinstance(found.drift.total, EmbeddingDrift)
    assert found.speed is not None
    assert found.speed.latency_ms is not None
    assert "batch_cosine_min" in {gate.name for gate in found.gates}


@pytest.mark.parametrize("backend", USABLE)
def test_every_limit_of_this_machine_gives_a_verdict(bundle: Path, backend: str) -> None:
    passed = judge(bundle, backend=backend)
    assert passed.verdict is Verdict.PASSED, passed.reason
    assert passed.memory is not None
    assert passed.memory.backend == backend
    killed = judge(bundle, replace(CRITERIA, memory_limit_bytes=20_000_000), backend=backend)
    assert killed.verdict is Verdict.FAILED
    assert "killed at the limit" in killed.reason
    assert killed.memory is not None
    assert not killed.memory.survived
    assert killed.speed is None


def test_a_limit_just_below_the_peak_kills(bundle: Path) -> None:
    peak = judge(bundle).memory
    assert peak is not None
    found = judge(bundle, replace(CRITERIA, memory_limit_bytes=peak.peak_dirty_bytes * 9 // 10))
    assert "survived" in failed(found)


@pytest.mark.parametrize("backend", USABLE)
def test_a_heavy_interface_changes_no_verdict(bundle: Path, stub: Path, backend: str) -> None:
    """As if the runtime's Python interface brought 100 MiB with it: neither the figure nor the wall may follow."""
    stub.parent.rmdir()
    (stub.parent.parent / "sitecustomize.py").write_text(
        "import builtins; builtins.ballast = bytearray(b'1') * (100 << 20)"
    )
    heavy = judge(bundle).memory
    assert heavy is not None
    assert heavy.baseline_dirty_bytes > 100 << 20
    added = heavy.process_dirty_bytes - heavy.baseline_dirty_bytes
    assert heavy.peak_dirty_bytes == RUNTIME_BYTES + added
    above = judge(bundle, replace(CRITERIA, memory_limit_bytes=heavy.peak_dirty_bytes + (2 << 20)), backend=backend)
    assert above.verdict is Verdict.PASSED, above.reason
    below = judge(bundle, replace(CRITERIA, memory_limit_bytes=heavy.peak_dirty_bytes - added // 2), backend=backend)
    assert "survived" in failed(below)
    assert "killed at the limit" in below.reason


def test_an_unusable_limit_is_not_replaced_silently(bundle: Path) -> None:
    with pytest.raises(RuntimeUnavailableError):
        judge(bundle, backend="abacus")


@pytest.mark.parametrize("name", ["files", "digest", "drift"])
def test_a_flipped_code_fails(bundle: Path, name: str) -> None:
    """Each line of defence on its own: the file list, the digest of the codes, the drift."""
    manifest = (bundle / "edgeq.json").read_text()
    change_initializer(bundle, "head.codes", flip_code)
    if name == "files":
        (bundle / "edgeq.json").write_text(manifest)
        assert failed(judge(bundle)) == {"files"}
        return
    if name == "drift":
        forge_digest(bundle)
    found = judge(bundle)
    assert "weights_digest" in failed(found) or name == "drift"
    assert "lowering_max_abs" in failed(found)


def test_a_scaled_tensor_fails(bundle: Path) -> None:
    change_initializer(bundle, "v.scales", lambda scales: scales * np.float32(1.1))
    found = judge(bundle)
    assert {"weights_digest", "lowering_kld_mean", "lowering_max_abs"} <= failed(found)
    forge_digest(bundle)
    assert {"lowering_kld_mean", "lowering_max_abs"} == failed(judge(bundle))


def test_a_truncated_data_file_fails(bundle: Path) -> None:
    data = bundle / "model" / "model.onnx_data"
    data.write_bytes(data.read_bytes()[:-4096])
    found = judge(bundle)
    assert failed(found) == {"files"}
    assert found.memory is None
    relist(bundle)
    assert failed(judge(bundle)) == {"weights_digest"}


def test_a_swapped_tokenizer_fails(bundle: Path) -> None:
    (bundle / "tokenizer" / "tokenizer.json").write_text(tokenizer_json("x"))
    assert failed(judge(bundle)) == {"files"}
    relist(bundle)
    assert failed(judge(bundle)) == {"tokenizer"}


def test_a_model_that_the_runtime_refuses_fails(bundle: Path) -> None:
    path = bundle / "model" / "model.onnx"
    model = onnx.load(path, load_external_data=False)
    model.graph.node[0].op_type = "NoSuchOperator"
    path.write_bytes(model.SerializeToString())
    relist(bundle)
    found = judge(bundle)
    assert failed(found) == {"completed"}
    assert "refuses model.onnx" in found.reason


def test_an_encoder_that_forgets_its_mask_fails(encoder_bundle: Path) -> None:
    quantized = {
        name: round_to_nearest(weight, Scheme(bits=4, group_size=32)) for name, weight in random_floats().items()
    }
    (encoder_bundle / "model" / "model.onnx_data").unlink()
    weights = save_encoder(encoder_bundle / "model" / "model.onnx", quantized, masked=False)
    write_manifest(encoder_bundle, ENCODER, weights, quantized)
    assert failed(judge(encoder_bundle)) == {"batch_cosine_min"}


def test_a_product_without_a_kernel_fails(tmp_path: Path) -> None:
    """8 bits with float activations give the right numbers, a hundred times slower."""
    (tmp_path / "bundle").mkdir()
    found = judge(make_bundle(tmp_path / "bundle", bits=8))
    assert failed(found) == {"native_kernels"}
    assert "--accuracy-level 4" in found.reason


def test_a_bundle_too_large_to_deliver_fails(bundle: Path) -> None:
    assert failed(judge(bundle, replace(CRITERIA, bundle_limit_bytes=1000))) == {"bundle_bytes"}


def test_a_strict_drift_limit_fails(bundle: Path) -> None:
    assert failed(judge(bundle, replace(CRITERIA, max_drift=1e-9))) == {"total_kld_mean"}


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory whose `onnxruntime` the child imports in place of the real one."""
    folder = tmp_path / "stub" / "onnxruntime"
    folder.mkdir(parents=True)
    monkeypatch.setenv("PYTHONPATH", str(folder.parent))
    return folder / "__init__.py"


def test_a_missing_runtime_is_never_a_pass(bundle: Path, stub: Path) -> None:
    stub.write_text("raise ImportError('libonnxruntime.so: cannot open shared object file')")
    found = judge(bundle)
    assert found.verdict is Verdict.NOT_VALIDATED
    assert "ONNX Runtime cannot be imported" in found.reason
    assert (found.memory, found.drift, found.speed) == (None, None, None)


def test_a_missing_runtime_does_not_excuse_a_changed_file(bundle: Path, stub: Path) -> None:
    stub.write_text("raise ImportError")
    (bundle / "tokenizer" / "tokenizer.json").write_text("{}")
    assert judge(bundle).verdict is Verdict.FAILED


def test_a_crash_is_a_failed_gate_with_its_signal(bundle: Path, stub: Path) -> None:
    stub.write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    found = judge(bundle)
    assert failed(found) == {"completed"}
    assert "the runtime did not load: crashed with SIGSEGV" in found.reason
    assert found.memory is None


def test_an_exception_in_the_child_is_a_failed_gate(bundle: Path, stub: Path) -> None:
    stub.write_text("raise RuntimeError('broken installation')")
    found = judge(bundle)
    assert failed(found) == {"completed"}
    assert "broken installation" in found.reason


def test_torch_beside_the_runtime_is_noticed(bundle: Path, stub: Path) -> None:
    folder = stub.parent.parent
    stub.parent.rmdir()
    (folder / "torch.py").write_text("")
    (folder / "sitecustomize.py").write_text("import torch")
    found = judge(bundle)
    assert failed(found) == {"completed"}
    assert "torch" in found.reason


def test_a_child_that_hangs_fails(bundle: Path, stub: Path) -> None:
    stub.write_text("import time; time.sleep(60)")
    found = judge(bundle, timeout=1.0)
    assert "did not end" in found.reason


def test_a_reference_for_another_task_is_refused(bundle: Path, encoder_bundle: Path) -> None:
    with pytest.raises(CorruptInputError, match="another task"):
        judge(bundle, reference=encoder_bundle / "validation")


def test_a_bundle_before_it_is_sealed(bundle: Path) -> None:
    """Exporting validates before the manifest is written: it hands over what it will write."""
    manifest = json.loads((bundle / "edgeq.json").read_text())
    (bundle / "edgeq.json").unlink()
    assert judge(bundle, manifest=manifest).verdict is Verdict.PASSED
    with pytest.raises(CorruptInputError):
        judge(bundle)


def test_the_child_s_environment_is_ours(bundle: Path) -> None:
    before = dict(os.environ)
    judge(bundle)
    assert dict(os.environ) == before
