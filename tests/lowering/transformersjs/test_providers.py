"""What onnxruntime-web computes where: element types are followed through a graph, and counts are right."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch

from edgeq.errors import UnsupportedModelError
from edgeq.lowering.onnx.graph import MICROSOFT, GraphBuilder
from edgeq.lowering.onnx.types import element_types
from edgeq.lowering.transformersjs.providers import WASM, WEBGPU_FLOATS, check_wasm, fallback_notes, has_webgpu_kernel

FLOAT, INT64, INT32, BOOL = ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL


def value(name: str, dtype: ir.DataType) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(["n", 8]), type=ir.TensorType(dtype))


def graph(builder: GraphBuilder, *inputs: ir.Value) -> ir.Graph:
    made = ir.Graph(list(inputs), [], nodes=builder.nodes, opset_imports={"": 23, MICROSOFT: 1})
    for name, constant in builder.initializers.items():
        made.initializers[name] = constant
    return made


def test_types_follow_the_value_that_a_kernel_is_chosen_by() -> None:
    builder, x, ids = GraphBuilder(), value("x", FLOAT), value("ids", INT64)
    rows = builder.op("Gather", x, ids)
    is_large = builder.op("Greater", rows, builder.scalar(1.0, torch.float32))
    chosen = builder.op("Where", is_large, ids, builder.op("Shape", rows))
    narrow = builder.cast(chosen, torch.int32)
    codes = builder.constant(np.zeros((4, 8), np.uint8))
    table = builder.op("GatherBlockQuantized", codes, ids, x, domain=MICROSOFT)
    best = builder.op("ArgMax", table)
    types = element_types(graph(builder, x, ids))
    found = [types[one] for one in (rows, is_large, chosen, narrow, table, best)]
    assert found == [FLOAT, BOOL, INT64, INT32, FLOAT, INT64]


def test_whole_numbers_and_a_few_operators_are_the_cpus() -> None:
    builder, x, ids = GraphBuilder(), value("x", FLOAT), value("ids", INT64)
    builder.op("Add", builder.op("Cos", builder.op("Mul", x, x)), builder.op("Sin", x))
    builder.op("Sub", builder.op("Sub", ids, ids), ids)
    builder.op("Gather", x, ids)
    assert fallback_notes(graph(builder, x, ids)) == (
        "WebGPU has no kernel for 1 Cos, 1 Sin, 2 Sub: they run on the CPU",
    )
    alone, y = GraphBuilder(), value("y", FLOAT)
    alone.op("Mul", y, y)
    assert fallback_notes(graph(alone, y)) == ()
    assert has_webgpu_kernel("Gather", ir.DataType.UINT8)
    assert not has_webgpu_kernel("Add", ir.DataType.UINT8)


def test_what_no_provider_has_is_refused_by_name() -> None:
    builder, x, ids = GraphBuilder(), value("x", FLOAT), value("ids", INT64)
    builder.op("Add", builder.cast(x, torch.float64), builder.cast(x, torch.float64))
    codes = builder.constant(np.zeros((4, 8), np.uint8))
    builder.op("GatherBlockQuantized", codes, ids, x, domain=MICROSOFT)
    expected = r"Add of DOUBLE \(1\), Cast of FLOAT \(2\), GatherBlockQuantized of FLOAT \(1\)"
    with pytest.raises(UnsupportedModelError, match=expected):
        check_wasm(graph(builder, x, ids))


def test_webgpu_has_nothing_that_the_cpu_lacks() -> None:
    assert WEBGPU_FLOATS < WASM
