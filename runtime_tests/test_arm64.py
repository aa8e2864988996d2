"""Bundles on arm64's own kernels, emulated: what is right passes, what is wrong fails, and a broken emulator judges
nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgeq import doctor
from edgeq.core.report import EmbeddingDrift, LanguageDrift, Verdict
from edgeq.core.target import Cpu
from edgeq.runtimes.arm64.emulator import Emulator
from edgeq.runtimes.arm64.lock import VARIABLE, installed_directory, read_lock
from edgeq.validation import Measurement, validate_bundle
from edgeq.validation.gates import LOWERING_KLD_MEAN, Criteria
from runtime_tests.test_validation import change_initializer, failed, forge_digest
from runtime_tests.tiny_onnx import make_bundle

pytestmark = pytest.mark.usefixtures("emulator")
CRITERIA = Criteria(bits=2, parameters=10_000, accuracy_level=4, memory_limit_bytes=256 << 20)


def bundle_of(tmp_path: Path, *, task: str = "text-generation", cpus: tuple[Cpu, ...] = ("cortex-a76",)) -> Path:
    """A bundle for a device with those CPUs, whose activations are rounded to int8: where kernels differ."""
    (tmp_path / "bundle").mkdir()
    bundle = make_bundle(tmp_path / "bundle", task=task, accuracy_level=4)
    manifest = json.loads((bundle / "edgeq.json").read_text())
    manifest["profile"] |= {"validate_arch": "arm64", "validate_cpus": cpus}
    (bundle / "edgeq.json").write_text(json.dumps(manifest))
    return bundle


def judge(bundle: Path, *, all_cpus: bool = False) -> Measurement:
    return validate_bundle(bundle, criteria=CRITERIA, all_cpus=all_cpus)


def test_a_true_bundle_passes_on_each_cpu(tmp_path: Path) -> None:
    found = judge(bundle_of(tmp_path, cpus=("cortex-a76", "cortex-a53")), all_cpus=True)
    assert (found.verdict, found.reason) == (Verdict.PASSED, "")
    names = [gate.name for gate in found.gates]
    assert {"survived", "peak_dirty_bytes", "completed", "arm64_completed", "lowering_kld_mean"} <= set(names)
    assert names[-1] == "arm64 cortex-a53"
    assert found.memory is not None
    assert found.memory.peak_dirty_bytes < CRITERIA.memory_limit_bytes
    assert found.speed is not None
    assert found.speed.decode_tokens_per_second is not None
    assert found.drift is not None
    here, dotted, plain = found.drift.architectures
    assert (here.architecture, dotted.cpu, plain.cpu) == ("x86_64", "cortex-a76", "cortex-a53")
    assert found.drift.lowering == dotted.lowering
    for row in (dotted, plain):
        assert row.runtime == "onnxruntime 1.32.0, qemu 10.0.2"
        assert isinstance(row.difference, LanguageDrift)
        assert 0 < row.difference.kld_mean < LOWERING_KLD_MEAN
    # Without dot products of int8 ONNX Runtime keeps the activations as they are.
    assert isinstance(dotted.lowering, LanguageDrift)
    assert isinstance(plain.lowering, LanguageDrift)
    assert plain.lowering.relative_error < 1e-4 < dotted.lowering.relative_error


def test_a_true_encoder_passes(tmp_path: Path) -> None:
    found = judge(bundle_of(tmp_path, task="feature-extraction"))
    assert (found.verdict, found.reason) == (Verdict.PASSED, "")
    assert "batch_cosine_min" in {gate.name for gate in found.gates}
    assert found.drift is not None
    difference = found.drift.architectures[1].difference
    assert isinstance(difference, EmbeddingDrift)
    assert 0.999 < difference.cosine_mean < 1.0


def test_a_mutant_fails_by_its_drift_on_arm64(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path)
    change_initializer(bundle, "v.scales", lambda scales: scales * np.float32(1.1))
    forge_digest(bundle)
    found = judge(bundle)
    assert "lowering_kld_mean" in failed(found)
    assert found.drift is not None
    there = found.drift.architectures[1]
    assert (there.architecture, there.verdict) == ("arm64", Verdict.FAILED)
    assert isinstance(there.lowering, LanguageDrift)
    assert there.lowering.kld_mean > LOWERING_KLD_MEAN
    assert "lowering_kld_mean" in there.reason


def test_an_emulator_that_does_not_run_judges_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = bundle_of(tmp_path)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "arm64"))
    broken = Emulator(directory=installed_directory())
    broken.qemu.parent.mkdir(parents=True)
    broken.qemu.write_text("#!/bin/sh\necho cannot map memory >&2\nexit 1\n")
    broken.qemu.chmod(0o755)
    asked = validate_bundle(bundle, criteria=CRITERIA, arch="arm64")
    assert asked.verdict is Verdict.NOT_VALIDATED
    assert "did not start in the emulator" in asked.reason
    assert "cannot map memory" in asked.reason
    assert judge(bundle).verdict is Verdict.PASSED


def test_the_doctor_sees_it() -> None:
    (kernels,) = doctor.examine().arm64
    assert kernels.usable
    (runtime,) = (wheel.version for wheel in read_lock().wheels if wheel.name == "onnxruntime")
    assert kernels.detail.startswith(f"onnxruntime {runtime} under qemu")
