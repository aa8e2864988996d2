"""Plain modules through the whole pipeline: they answer as torch does with the quantized weights, and mutants fail."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import edgeq
from edgeq.bundle.manifest import read_manifest
from edgeq.core.report import EmbeddingDrift, Report, Verdict
from edgeq.errors import UsageError
from edgeq.files import sha256_file
from edgeq.models.examples import evaluating
from edgeq.runtimes.tensors import TensorModel
from edgeq.validation.memory_profile import MemoryMeasurement
from runtime_tests.test_lowering import places
from runtime_tests.test_mutants import forge, place

TARGET = "rpi5-8gb"


class Mlp(nn.Module):
    """Two outputs; the second is a single number per row."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.score = nn.Linear(64, 96), nn.Linear(96, 64), nn.Linear(64, 1)
        self.scale = nn.Parameter(torch.randn(64))

    def forward(self, x: torch.Tensor, shift: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.second(nn.functional.gelu(self.first(x))) * self.scale + shift
        return {"hidden": hidden, "score": self.score(hidden)}


class Transformer(nn.Module):
    """A table that is the head as well, and torch's own attention with its packed weight."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(300, 64)
        layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(64, 300, bias=False)
        self.head.weight = self.words.weight

    def forward(self, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.layers(self.words(ids), src_key_padding_mask=mask))
        return logits


class Convolutional(nn.Module):
    """A small image classifier with batch norms that have seen something."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32)
        self.body, self.head = nn.Conv2d(32, 64, 3, padding=1), nn.Linear(64, 100)
        with torch.no_grad():
            self.norm.running_mean.normal_(0, 0.2)  # type: ignore[union-attr]
            self.norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = nn.functional.relu(self.norm(self.stem(x)))
        logits: torch.Tensor = self.head(nn.functional.relu(self.body(hidden)).mean((2, 3)))
        return logits


class FixedBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed: torch.Tensor = self.linear(x).reshape(128)
        return mixed


def mlp_inputs(rows: int = 1) -> dict[str, torch.Tensor]:
    return {"shift": torch.randn(rows, 64), "x": torch.randn(rows, 64)}


def drift_of(report: Report, part: str = "lowering") -> EmbeddingDrift:
    assert report.drift is not None
    drift = getattr(report.drift, part)
    assert isinstance(drift, EmbeddingDrift)
    return drift


def opened(bundle: Path) -> TensorModel:
    model = edgeq.load(bundle)
    assert isinstance(model, TensorModel)
    return model


@pytest.fixture(scope="module")
def mlp(tmp_path_factory: pytest.TempPathFactory) -> tuple[Mlp, Report, Path]:
    torch.manual_seed(0)
    module, output = Mlp(), tmp_path_factory.mktemp("mlp") / "bundle"
    return module, edgeq.export(module, mlp_inputs(), target=TARGET, bits=8, accuracy_level=1, output=output), output


def test_an_mlp_answers_as_torch_does(mlp: tuple[Mlp, Report, Path]) -> None:
    module, _, bundle = mlp
    model = opened(bundle)
    assert (model.interface.inputs, model.interface.outputs) == (("shift", "x"), ("hidden", "score"))
    inputs = mlp_inputs(rows=5)
    answers = model.run({name: value.numpy() for name, value in inputs.items()})
    with evaluating(module):
        for name, expected in module(**inputs).items():
            np.testing.assert_allclose(answers[name], expected.numpy(), atol=0.02 * float(expected.abs().max()))


@pytest.mark.parametrize("method", ["rtn", "mse", "hqq"])
def test_the_artifact_is_the_dequantized_module(method: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    module = Transformer()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    inputs = (torch.randint(300, (2, 12)), torch.arange(24).reshape(2, 12) > 20)
    report = edgeq.export(
        module, inputs, target=TARGET, method=method, embedding_bits=4, accuracy_level=1, output=tmp_path / "bundle"
    )
    assert (report.verdict, report.notes) == (Verdict.PASSED, ())
    assert drift_of(report).relative_error < 1e-5
    assert 1e-3 < drift_of(report, "quantization").relative_error < 0.5
    assert report.recipe.method == method
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert module.training
    # the table once, for look-ups and products; attention's packed weight of three quantized as well
    manifest = read_manifest(tmp_path / "bundle")
    assert sorted(name for name in manifest.weights if "layers.0" not in name and "layers.1" not in name) == [
        "words.weight"
    ]
    assert manifest.weights["layers.layers.0.self_attn.in_proj_weight"].shape == (192, 64)
    found = places(tmp_path / "bundle" / "model")
    assert found["words.weight.codes"] == found["words.weight.codes.rows"]
    assert not any(name.startswith("head") for name in found)


def test_a_convolutional_module_is_small_in_the_file(tmp_path: Path) -> None:
    torch.manual_seed(2)
    module, inputs = Convolutional(), (torch.randn(1, 3, 16, 16),)
    report = edgeq.export(module, inputs, target=TARGET, accuracy_level=1, output=tmp_path / "bundle")
    assert report.verdict is Verdict.PASSED, report.reason
    assert drift_of(report).relative_error < 1e-5
    manifest = read_manifest(tmp_path / "bundle")
    assert {name for name, one in manifest.weights.items() if one.is_unpacked} == {"body.weight"}
    assert manifest.weights["body.weight"].shape == (64, 288)
    assert "unpacked to float32 once" in report.notes[0]


def test_a_batch_that_the_module_fixes_stays_fixed(tmp_path: Path) -> None:
    report = edgeq.export(FixedBatch(), (torch.randn(2, 64),), target=TARGET, output=tmp_path / "bundle")
    assert report.verdict is Verdict.PASSED
    assert report.notes[0].startswith("the batch is fixed as in the example inputs: torch cannot trace FixedBatch")
    with pytest.raises(UsageError, match=r"takes float32 \[2, 64\]"):
        opened(tmp_path / "bundle").run({"x": np.zeros((3, 64), np.float32)})


def test_inputs_that_do_not_fit_are_named(mlp: tuple[Mlp, Report, Path]) -> None:
    model, x = opened(mlp[2]), np.zeros((2, 64), np.float32)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"x": x}, "takes shift, x, not x"),
        ({"x": x, "shift": x.astype(np.float64)}, "'shift' is float64"),
        ({"x": x, "shift": x[0]}, r"takes float32 \[batch, 64\]"),
    ]
    for inputs, message in wrong:
        with pytest.raises(UsageError, match=message):
            model.run(inputs)


def test_run_py_checks_and_runs_from_the_bundle_alone(mlp: tuple[Mlp, Report, Path], tmp_path: Path) -> None:
    bundle = mlp[2]
    script = [sys.executable, "-I", str(bundle / "run.py")]
    assert subprocess.run([*script, "--check"], capture_output=True, text=True, check=True).stdout == "all is well\n"
    x = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    np.savez(tmp_path / "in.npz", x=x, shift=x)
    subprocess.run([*script, str(tmp_path / "in.npz"), str(tmp_path / "out.npz")], check=True)
    with np.load(tmp_path / "out.npz") as outputs:
        expected = opened(bundle).run({"x": x, "shift": x})
        assert all(np.array_equal(outputs[name], values) for name, values in expected.items())


def flip_code(bundle: Path) -> None:
    path, offset, _ = place(bundle, "first.weight", "codes")
    data = bytearray(path.read_bytes())
    data[offset + 8] ^= 0x80
    path.write_bytes(data)


def scale_vector(bundle: Path) -> None:
    """A float weight, which no digest is about."""
    path = bundle / "model" / "model.onnx_data"
    data = path.read_bytes()
    expected = np.load(bundle / "validation" / "scale.npy").tobytes()
    assert data.count(expected) == 1
    path.write_bytes(data.replace(expected, (np.frombuffer(expected, np.float32) * 2).tobytes()))


def turn_reference(bundle: Path) -> None:
    path = bundle / "validation" / "dequantized" / "0000-0.npy"
    np.save(path, -np.load(path))


@pytest.mark.parametrize(
    ("mutate", "gate"),
    [
        (flip_code, "weights_digest"),
        (scale_vector, "lowering_relative_error of hidden"),
        (turn_reference, "lowering_cosine_mean"),
    ],
)
def test_mutants_fail(mutate: Callable[[Path], None], gate: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Mlp()
    bundle = tmp_path / "bundle"
    edgeq.export(module, mlp_inputs(), target=TARGET, accuracy_level=1, embedding_bits=4, output=bundle)
    assert edgeq.validate(bundle).verdict is Verdict.PASSED
    np.save(bundle / "validation" / "scale.npy", module.scale.detach().numpy())
    mutate(bundle)
    (bundle / "validation" / "scale.npy").unlink()
    assert edgeq.validate(bundle).verdict is Verdict.FAILED  # the listed sha256
    forge(bundle)
    report = edgeq.validate(bundle)
    assert report.verdict is Verdict.FAILED
    assert gate in {one.name for one in report.gates if one.verdict is Verdict.FAILED}


def test_a_memory_limit_that_is_too_low_fails(mlp: tuple[Mlp, Report, Path]) -> None:
    _, report, bundle = mlp
    assert report.memory is not None
    assert report.memory.survived
    assert edgeq.validate(bundle, memory_limit=report.memory.peak_dirty_bytes * 9 // 10).verdict is Verdict.FAILED


def test_a_module_has_no_context_to_measure(mlp: tuple[Mlp, Report, Path]) -> None:
    with pytest.raises(UsageError, match="is a plain module"):
        MemoryMeasurement.of_bundle(mlp[2])


def test_an_android_bundle_says_what_the_module_takes(tmp_path: Path) -> None:
    report = edgeq.export(Mlp(), mlp_inputs(), output=tmp_path / "bundle", validate=False)
    assert report.verdict is Verdict.NOT_VALIDATED
    kotlin = (tmp_path / "bundle" / "android" / "EdgeqModel.kt").read_text()
    assert " * shift: float32 [batch, 64]\n" in kotlin
    assert " * gives score: float32 [batch, 1]\n" in kotlin
    golden = next((tmp_path / "bundle").rglob("golden.json"))
    assert json.loads(golden.read_text())["cases"] == []


def test_two_exports_have_the_same_files(mlp: tuple[Mlp, Report, Path], tmp_path: Path) -> None:
    module, _, first = mlp
    torch.manual_seed(0)
    Mlp()
    edgeq.export(module, mlp_inputs(), target=TARGET, bits=8, accuracy_level=1, output=tmp_path / "bundle")
    for name in ("model.onnx", "model.onnx_data"):
        assert sha256_file(first / "model" / name) == sha256_file(tmp_path / "bundle" / "model" / name)
