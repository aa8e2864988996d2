"""ONNX Runtime computes with exactly the weights that `dequantize()` says; through its raw API, not our driver."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from edgeq.core.scheme import Scheme
from edgeq.core.tensor import QuantizedTensor
from runtime_tests.tiny_onnx import Floats, Graph, round_to_nearest, value

ort = pytest.importorskip("onnxruntime")
# 32 columns and 64: whole groups. 40 and 172: a short last group. 5: a single short group.
INPUTS = (5, 32, 40, 64, 172)


def make_tensor(scheme: Scheme, outputs: int, inputs: int) -> QuantizedTensor:
    rng = np.random.default_rng(outputs * 1000 + inputs)
    return round_to_nearest(rng.standard_normal((outputs, inputs)).astype(np.float32), scheme)


def run(path: Path, feeds: dict[str, np.ndarray]) -> Floats:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    output: Floats = session.run(None, feeds)[0]
    return output


def run_linear(directory: Path, tensor: QuantizedTensor, x: Floats, accuracy_level: int) -> Floats:
    graph = Graph(nodes=[], initializers=[], weights={}, accuracy_level=accuracy_level)
    graph.linear("x", "w", tensor, "y")
    outputs, inputs = tensor.shape
    graph.save(
        [value("x", TensorProto.FLOAT, ["rows", inputs])],
        [value("y", TensorProto.FLOAT, ["rows", outputs])],
        directory / "model.onnx",
    )
    return run(directory / "model.onnx", {"x": x})


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("group_size", [32, 16])
def test_matmul_holds_the_dequantized_weights(
    tmp_path: Path, bits: int, symmetric: bool, inputs: int, group_size: int
) -> None:
    tensor = make_tensor(Scheme(bits=bits, group_size=group_size, symmetric=symmetric), 24, inputs)
    identity = np.eye(inputs, dtype=np.float32)
    found = run_linear(tmp_path, tensor, identity, accuracy_level=1)
    assert np.abs(found.T - tensor.dequantize()).max() <= 1e-6 * np.abs(found).max()


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("inputs", INPUTS)
def test_matmul_with_int8_activations_is_near(tmp_path: Path, bits: int, symmetric: bool, inputs: int) -> None:
    tensor = make_tensor(Scheme(bits=bits, symmetric=symmetric), 24, inputs)
    x = np.random.default_rng(0).standard_normal((7, inputs)).astype(np.float32)
    found, expected = run_linear(tmp_path, tensor, x, accuracy_level=4), x @ tensor.dequantize().T
    error = float(np.sqrt(((found - expected) ** 2).mean() / (expected**2).mean()))
    assert error < 0.02


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("inputs", [32, 64, 172, 40])
def test_gather_holds_the_dequantized_weights(tmp_path: Path, bits: int, symmetric: bool, inputs: int) -> None:
    tensor = make_tensor(Scheme(bits=bits, symmetric=symmetric), 24, inputs)
    graph = Graph(nodes=[], initializers=[], weights={}, accuracy_level=1)
    graph.gather("ids", "w", tensor, "y")
    graph.save(
        [value("ids", TensorProto.INT64, ["batch", "sequence"])],
        [value("y", TensorProto.FLOAT, ["batch", "sequence", inputs])],
        tmp_path / "model.onnx",
    )
    ids = np.arange(24, dtype=np.int64).reshape(2, 12)
    found = run(tmp_path / "model.onnx", {"ids": ids})
    assert np.array_equal(found, tensor.dequantize()[ids])


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_one_scale_per_channel_is_one_large_group(tmp_path: Path, bits: int) -> None:
    tensor = make_tensor(Scheme(bits=bits, group_size=None, symmetric=True), 24, 40)
    found = run_linear(tmp_path, tensor, np.eye(40, dtype=np.float32), accuracy_level=1)
    assert np.abs(found.T - tensor.dequantize()).max() <= 1e-6 * np.abs(found).max()
