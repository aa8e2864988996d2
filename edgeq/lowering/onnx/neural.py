"""Converters of linear layers, embeddings, norms and matrix products: where the quantized weights enter the graph."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch
from torch import fx

from edgeq.lowering import operators
from edgeq.lowering.onnx.graph import MICROSOFT
from edgeq.lowering.onnx.linears import LinearGroup
from edgeq.lowering.onnx.translator import Converter, Translator, arguments, option, tensor
from edgeq.lowering.onnx.web import look_up
from edgeq.lowering.onnx.weights import Matrix, rows_name

aten = torch.ops.aten


def _linear(t: Translator, node: fx.Node) -> ir.Value:
    """`x @ weight^T + bias`."""
    x, weight = arguments(node)[0], arguments(node)[1]
    bias = option(node, 2, "bias", None)
    name = t.weight_name(weight)
    if name is None:
        turned = t.graph.op("Transpose", t.value(weight), attributes={"perm": [1, 0]})
        return _plus(t, t.graph.op("MatMul", t.value(x), turned), bias)
    if t.weights.scheme(name) is None:
        return _plus(t, t.graph.op("MatMul", t.value(x), _float_matrix(t, name, transposed=True)), bias)
    if node not in t.linears.of:  # its bias is computed
        return _plus(t, matmul_n_bits(t, t.value(x), t.weights.matrix((name,)), None), bias)
    return _quantized_linear(t, node)


def _quantized_linear(t: Translator, node: fx.Node) -> ir.Value:
    """The node's share of its group's product."""
    group = t.linears.of[node]
    if len(group.nodes) == 1:
        return _group_product(t, group)
    if node not in t.values:
        widths = [t.weights.shape(name)[0] for name in group.weights]
        parts = t.graph.multi_op(
            "Split",
            _group_product(t, group),
            t.graph.int64(*widths),
            outputs=len(widths),
            attributes={"axis": -1},
        )
        t.values |= dict(zip(group.nodes, parts, strict=True))
    value = t.values[node]
    assert isinstance(value, ir.Value)  # noqa: S101 - a part of the split
    return value


def _group_product(t: Translator, group: LinearGroup) -> ir.Value:
    if group not in t.products:
        biases = [t.weight_name(arguments(node)[2]) for node in group.nodes] if group.has_bias else []
        bias = t.weights.concatenated(tuple(name for name in biases if name is not None)) if biases else None
        x = t.value(group.nodes[0].args[0])
        t.products[group] = matmul_n_bits(t, x, t.weights.matrix(group.weights), bias)
    return t.products[group]


def packed_linear(t: Translator, nodes: tuple[fx.Node | None, ...]) -> ir.Value | None:
    """The whole product of a group, where `nodes` are exactly its members in order; else None."""
    group = t.linears.of.get(nodes[0]) if nodes[0] is not None else None
    return _group_product(t, group) if group is not None and group.nodes == nodes else None


def _plus(t: Translator, product: ir.Value, bias: Any) -> ir.Value:  # noqa: ANN401
    return product if bias is None else t.graph.op("Add", product, t.value(bias))


def _float_matrix(t: Translator, name: str, *, transposed: bool) -> ir.Value:
    value = t.weights.floating(name, transposed=transposed)
    return value if value.dtype == t.graph.float_type else t.graph.cast(value, torch.float32)


def _addmm(t: Translator, node: fx.Node) -> ir.Value:
    """`beta * bias + alpha * (x @ y)`, as transformers' Conv1D writes it, or with a batch in front."""
    bias, left, right = arguments(node)[:3]
    product, added = _product(t, left, right), t.value(bias)
    for name, number in node.kwargs.items():
        scale = t.value(number, torch.float32)
        if name == "alpha" and number != 1:
            product = t.graph.op("Mul", product, scale)
        elif name == "beta" and number != 1:
            added = t.graph.op("Mul", added, scale)
    return t.graph.op("Add", product, added)


def matmul_n_bits(t: Translator, x: ir.Value, matrix: Matrix, bias: ir.Value | None) -> ir.Value:
    """`x @ dequantize(matrix)^T`, computed from the packed codes."""
    inputs = [x, matrix.codes, matrix.scales, matrix.zero_points]
    if bias is not None:
        inputs += [None, bias]
    attributes = {
        "K": matrix.inputs,
        "N": matrix.outputs,
        "bits": matrix.bits,
        "block_size": matrix.block,
        "accuracy_level": t.weights.accuracy_level,
    }
    return t.graph.op("MatMulNBits", *inputs, attributes=attributes, domain=MICROSOFT)


def _matmul(t: Translator, node: fx.Node) -> ir.Value:
    return _product(t, *arguments(node)[:2])


def _product(t: Translator, left: Any, right: Any) -> ir.Value:  # noqa: ANN401 - fx arguments
    """`x @ y`, where y may be a weight `[inputs, outputs]` or the transpose of one `[outputs, inputs]`."""
    for weight, transposed in ((right, False), (_untransposed(right), True)):
        name = t.weight_name(weight)
        if name is None:
            continue
        if t.weights.scheme(name) is None:
            return t.graph.op("MatMul", t.value(left), _float_matrix(t, name, transposed=transposed))
        if t.weights.input_axis(name) == int(transposed):
            return matmul_n_bits(t, t.value(left), t.weights.matrix((name,)), None)
    return t.graph.op("MatMul", t.value(left), t.value(right))


def _untransposed(node: Any) -> Any:  # noqa: ANN401 - an fx argument
    """The matrix whose transpose a node is, or None."""
    if not isinstance(node, fx.Node) or node.op != "call_function" or tensor(node).dim() != 2:
        return None
    turned = node.target in (aten.t.default, aten.numpy_T.default, aten.transpose.int, aten.permute.default)
    return arguments(node)[0] if turned else None


def _embedding(t: Translator, node: fx.Node) -> ir.Value:
    """Rows of a table; quantized rows are expanded one by one as they are looked up."""
    table, ids = arguments(node)[:2]
    name = t.weight_name(table)
    if name is None:
        return t.graph.op("Gather", t.value(table), t.value(ids))
    if t.weights.scheme(name) is None:
        if t.graph.web:  # not every GPU reads float16
            return t.graph.op("Gather", t.value(table), t.value(ids))
        rows = t.graph.op("Gather", t.weights.floating(name), t.value(ids))
        return rows if t.weights.floating(name).dtype == t.graph.float_type else t.graph.cast(rows, torch.float32)
    matrix = t.weights.matrix((name,))
    padded = look_up(t, matrix, ids) if t.graph.web else _gathered(t, matrix, t.value(ids))
    if matrix.inputs % matrix.block == 0:
        return padded
    return t.graph.op("Slice", padded, t.graph.int64(0), t.graph.int64(matrix.inputs), t.graph.int64(-1))


def _gathered(t: Translator, matrix: Matrix, ids: ir.Value) -> ir.Value:
    """The table reads the same bytes as a tied head: `[rows, groups, bytes]` seen as `[rows, groups * bytes]`."""
    groups = -(-matrix.inputs // matrix.block)
    shape = (matrix.outputs, groups * matrix.block * matrix.bits // 8)
    rows = rows_name(str(matrix.codes.name))
    table = t.weights.data.values.get(rows) or t.weights.data.alias(rows, matrix.codes, shape)
    inputs = [table, ids, matrix.scales] + ([] if matrix.zero_points is None else [matrix.zero_points])
    attributes = {"bits": matrix.bits, "block_size": matrix.block, "gather_axis": 0, "quantize_axis": 1}
    return t.graph.op("GatherBlockQuantized", *inputs, attributes=attributes, domain=MICROSOFT)


def _rms_norm(t: Translator, node: fx.Node) -> ir.Value:
    x, weight, eps = arguments(node)
    attributes = {"epsilon": float(eps)}
    fused = _after_residual(t, "SkipSimplifiedLayerNormalization", x, [t.value(weight)], attributes)
    if fused is not None:
        return fused
    return t.graph.op("RMSNormalization", t.value(x), t.value(weight), attributes={"axis": -1, **attributes})


def _layer_norm(t: Translator, node: fx.Node) -> ir.Value:
    x, shape, weight, bias, eps = [*arguments(node), None, None, None][:5]
    ones = t.graph.op("Expand", t.graph.scalar(1.0, torch.float32), t.graph.int64(*shape))
    affine = [ones if weight is None else t.value(weight)] + ([] if bias is None else [t.value(bias)])
    attributes = {"epsilon": 1e-5 if eps is None else float(eps)}
    fused = _after_residual(t, "SkipLayerNormalization", x, affine, attributes) if len(shape) == 1 else None
    if fused is not None:
        return fused
    return t.graph.op("LayerNormalization", t.value(x), *affine, attributes={"axis": -len(shape), **attributes})


def _after_residual(
    t: Translator, op_type: str, x: object, affine: list[ir.Value], attributes: dict[str, float]
) -> ir.Value | None:
    """A norm of `a + b` computes the sum as well: later readers of the sum take it from there."""
    if not isinstance(x, fx.Node) or x in t.precise or x.target != aten.add.Tensor or x.kwargs.get("alpha", 1) != 1:
        return None
    terms = x.args[:2]
    if not all(isinstance(a, fx.Node) and a.op == "call_function" and tensor(a).dim() == 3 for a in terms):
        return None
    if any(tensor(a).dtype != torch.float32 or tensor(a).shape != tensor(x).shape for a in terms):
        return None
    outputs = t.graph.multi_op(
        op_type, *map(t.value, terms), *affine, outputs=4, attributes=attributes, domain=MICROSOFT
    )
    t.values[x] = outputs[3]
    return outputs[0]


def _softmax(t: Translator, node: fx.Node) -> ir.Value:
    axis: Any = arguments(node)[1]
    return t.graph.op("Softmax", t.value(arguments(node)[0], tensor(node).dtype), attributes={"axis": axis})


NEURAL: dict[Any, Converter] = {
    operators.linear: _linear,
    aten.linear.default: _linear,
    aten.addmm.default: _addmm,
    aten.baddbmm.default: _addmm,
    aten.matmul.default: _matmul,
    aten.mm.default: _matmul,
    aten.bmm.default: _matmul,
    aten.embedding.default: _embedding,
    operators.rms_norm: _rms_norm,
    aten.layer_norm.default: _layer_norm,
    aten.softmax.int: _softmax,
    aten._softmax.default: _softmax,
}
