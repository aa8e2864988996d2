"""The gate on kernels, on graphs of a few nodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeq.targets.kernels import Product
from edgeq.validation.kernel_coverage import gate_of, products


def model(
    path: Path, nodes: list[onnx.NodeProto], zero_points: np.ndarray[tuple[int, ...], np.dtype[np.generic]]
) -> Path:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])
    graph = helper.make_graph(nodes, "tiny", [value], [], [numpy_helper.from_array(zero_points, "zero")])
    onnx.save(helper.make_model(graph), path)
    return path


def node(name: str, inputs: str, bits: int, level: int) -> onnx.NodeProto:
    return helper.make_node(
        "MatMulNBits", inputs.split(","), [f"{name}_out"], name=name, bits=bits, block_size=32, accuracy_level=level
    )


def test_products_are_read_from_the_graph(tmp_path: Path) -> None:
    nodes = [
        node("plain", "x,codes,scales", 8, 4),
        node("integers", "x,codes,scales,zero", 4, 1),
        node("ordered", "x,codes,scales,,order", 4, 4),
        helper.make_node("Relu", ["x"], ["y"]),
    ]
    found = products(model(tmp_path / "model.onnx", nodes, np.zeros(4, np.uint8)))
    assert found == {
        "plain": Product(bits=8, block_size=32, accuracy_level=4),
        "integers": Product(bits=4, block_size=32, accuracy_level=1),
        "ordered": Product(bits=4, block_size=32, accuracy_level=4, column_order=True),
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_float_zero_points_are_seen(tmp_path: Path, dtype: type[np.generic]) -> None:
    nodes = [node("floats", "x,codes,scales,zero", 4, 4)]
    assert products(model(tmp_path / "model.onnx", nodes, np.zeros(4, dtype)))["floats"].float_zero_points


def test_one_slow_product_fails_the_gate_by_its_name() -> None:
    fast = Product(bits=4, block_size=32, accuracy_level=1)
    (passed,) = gate_of({"a": fast, "b": fast})
    assert (passed.name, passed.value, passed.verdict) == ("native_kernels", "2 of 2", "passed")
    (failed,) = gate_of({"a": fast, "head": Product(bits=8, block_size=32, accuracy_level=1)})
    assert (failed.value, failed.limit, failed.verdict) == ("1 of 2", "2 of 2", "failed")
    assert failed.reason.startswith("head (8 bits, groups of 32, accuracy level 1) has no native kernel")
    assert "--accuracy-level 4" in failed.reason
    assert gate_of({}) == ()
