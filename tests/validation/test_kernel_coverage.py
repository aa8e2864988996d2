"""The gate on kernels, on graphs of a few nodes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeq.targets.kernels import Product
from edgeq.validation.kernel_coverage import gate_of, neural_engine_gate, products, program_gate, slow_calls


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


FAST = Product(bits=4, block_size=32, accuracy_level=1)


def test_one_slow_product_fails_the_gate_by_its_name() -> None:
    (passed,) = gate_of({"a": FAST, "b": FAST}, ("onnxruntime",))
    assert (passed.name, passed.value, passed.verdict, passed.reason) == ("native_kernels", "2 of 2", "passed", "")
    slow = Product(bits=8, block_size=32, accuracy_level=1)
    (failed,) = gate_of({"a": FAST, "head": slow}, ("onnxruntime",))
    assert (failed.value, failed.limit, failed.verdict) == ("1 of 2", "2 of 2", "failed")
    assert failed.reason.startswith("head (8 bits, groups of 32, accuracy level 1) has no native kernel")
    assert "--accuracy-level 4" in failed.reason
    assert gate_of({}, ("onnxruntime",)) == ()


def test_what_webgpu_computes_passes_and_says_what_wasm_rebuilds() -> None:
    (gate,) = gate_of({"q in q4": FAST, "k in q4": FAST}, ("wasm", "webgpu"))
    assert (gate.value, gate.limit, gate.verdict) == ("2 of 2", "2 of 2", "passed")
    assert gate.reason.startswith("on wasm, q in q4 (4 bits, groups of 32, accuracy level 1) and 1 more have no native")
    assert "17 to 25 times" in gate.reason
    assert "open it with WebGPU" in gate.reason


def test_what_no_provider_computes_fails_where_another_choice_would_not() -> None:
    ordered = Product(bits=4, block_size=32, accuracy_level=1, column_order=True)
    (gate,) = gate_of({"a": FAST, "b": ordered}, ("wasm", "webgpu"))
    assert (gate.value, gate.verdict) == ("1 of 2", "failed")
    assert gate.reason.startswith("b (")
    assert "quantize with edgeq" in gate.reason


def test_wasm_alone_has_no_better_choice() -> None:
    (gate,) = gate_of({"a": FAST}, ("wasm",))
    assert (gate.value, gate.limit, gate.verdict) == ("0 of 1", None, "passed")
    assert gate.reason.startswith("on wasm, a (")


@pytest.mark.parametrize(
    ("entry", "is_slow"),
    [
        ({"group_size": 32}, True),
        ({"group_size": 64}, False),
        ({"group_size": None}, False),
        ({"group_size": None, "codebook_kind": "kmeans"}, False),
    ],
)
def test_the_neural_engine_takes_no_groups(entry: dict[str, object], is_slow: bool) -> None:
    whole = {"group_size": None, "shape": [8, 64]}
    (gate,) = neural_engine_gate({"a": whole, "b": {"shape": [8, 64], **entry}})
    assert (gate.value, gate.verdict) == (("1 of 2", "failed") if is_slow else ("2 of 2", "passed"))
    assert gate.reason.startswith("b has groups of 32: the Neural Engine") == is_slow
    assert neural_engine_gate({}) == ()


def program(operator: str, *values: object) -> SimpleNamespace:
    """A program of a delegate's call and one kernel's with all values as arguments."""
    calls = [SimpleNamespace(delegate_index=0), SimpleNamespace(op_index=0, args=list(range(len(values))))]
    plan = SimpleNamespace(
        name="forward",
        operators=[SimpleNamespace(name=operator)],
        values=[SimpleNamespace(val=value) for value in values],
        chains=[SimpleNamespace(instructions=[SimpleNamespace(instr_args=call) for call in calls])],
    )
    return SimpleNamespace(execution_plan=[plan])


STORED = SimpleNamespace(sizes=[4, 8], data_buffer_idx=3)
COMPUTED = SimpleNamespace(sizes=[4, 8], data_buffer_idx=0)
VECTOR = SimpleNamespace(sizes=[8], data_buffer_idx=3)


@pytest.mark.parametrize(
    ("operator", "value", "is_slow"),
    [
        ("aten::mm", STORED, True),
        ("quantized_decomposed::dequantize_per_channel", STORED, True),
        ("torchao::dequantize_affine", STORED, True),
        ("aten::mm", COMPUTED, False),
        ("aten::addmm", VECTOR, False),
        ("quantized_decomposed::embedding_byte", STORED, False),
        ("aten::add", STORED, False),
    ],
)
def test_calls_with_stored_weights_outside_of_delegates_are_slow(operator: str, value: object, is_slow: bool) -> None:
    found = slow_calls(program(operator, COMPUTED, SimpleNamespace(int_val=1), value))
    assert found == ([f"forward: {operator}, instruction 1"] if is_slow else [])


def test_one_call_apart_from_xnnpack_fails_by_its_name() -> None:
    (gate,) = program_gate(["forward: aten::mm, instruction 7"], 24)
    assert (gate.value, gate.limit, gate.verdict) == ("24 of 25", "25 of 25", "failed")
    assert gate.reason.startswith("forward: aten::mm, instruction 7")
    assert "--format onnx" in gate.reason
    assert [one.verdict for one in program_gate([], 24)] == ["passed"]
    assert program_gate([], 0) == ()
