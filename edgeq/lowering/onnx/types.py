"""Element types of the values of a graph that the translator made, from its inputs and initializers on."""

from __future__ import annotations

import onnx_ir as ir

BOOLEAN = frozenset({"Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or", "Xor", "Not", "IsNaN"})
INTEGER = frozenset({"Shape", "ArgMax", "ArgMin"})
TYPED_BY = {"Where": 1, "GatherBlockQuantized": 2}
"""The input whose type a kernel is chosen by, where it is not the first."""


def element_types(graph: ir.Graph) -> dict[ir.Value, ir.DataType]:
    """The type of every value; graphs hold their nodes in order."""
    types = {value: value.dtype for value in (*graph.inputs, *graph.initializers.values()) if value.dtype is not None}
    for node in graph:
        made = _result_type(node, types)
        types |= dict.fromkeys(node.outputs, made)
    return types


def kernel_type(node: ir.Node, types: dict[ir.Value, ir.DataType]) -> ir.DataType:
    """The type that a runtime looks up a node's kernel by."""
    value = node.inputs[TYPED_BY.get(node.op_type, 0)]
    assert value is not None  # noqa: S101 - no kernel lacks this input
    return types[value]


def _result_type(node: ir.Node, types: dict[ir.Value, ir.DataType]) -> ir.DataType:
    if node.op_type == "Cast":
        return ir.DataType(node.attributes["to"].as_int())
    if node.op_type in BOOLEAN:
        return ir.DataType.BOOL
    return ir.DataType.INT64 if node.op_type in INTEGER else kernel_type(node, types)
