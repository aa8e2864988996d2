"""Converters of reductions: sums, extrema, norms and running sums."""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir
import torch
from torch import fx

from edgeq.lowering.onnx.translator import Converter, Translator, arguments, option, tensor

aten = torch.ops.aten


def _reduction(op_type: str) -> Converter:
    def convert(t: Translator, node: fx.Node) -> ir.Value:
        axes = option(node, 1, "dim", None)
        keep = bool(option(node, 2, "keepdim", False))
        dtype = tensor(node).dtype
        value = t.value(arguments(node)[0], dtype)
        value = t.graph.cast(value, torch.int32) if dtype == torch.bool else value
        if axes is None or axes == []:
            result = t.graph.op(op_type, value, attributes={"keepdims": int(keep)})
        else:
            listed = [axes] if isinstance(axes, int) else axes
            result = t.graph.op(op_type, value, t.graph.int64(*listed), attributes={"keepdims": int(keep)})
        return t.graph.cast(result, torch.bool) if dtype == torch.bool else result

    return convert


def _arg_reduction(op_type: str) -> Converter:
    """The position along an axis; without one, in the flattened tensor."""

    def convert(t: Translator, node: fx.Node) -> ir.Value:
        axis, keep = option(node, 1, "dim", None), bool(option(node, 2, "keepdim", False))
        value = t.value(arguments(node)[0])
        if axis is not None:
            return t.graph.op(op_type, value, attributes={"axis": axis, "keepdims": int(keep)})
        flat = t.graph.op("Reshape", value, t.graph.int64(-1))
        position = t.graph.op(op_type, flat, attributes={"axis": 0, "keepdims": 0})
        return t.graph.op("Reshape", position, t.graph.int64(*[1] * tensor(node).dim())) if keep else position

    return convert


def _extremum_with_indices(reduce: str, arg: str) -> Converter:
    def convert(t: Translator, node: fx.Node) -> tuple[ir.Value, ...]:
        value, axis = t.value(arguments(node)[0]), arguments(node)[1]
        keep = int(option(node, 2, "keepdim", False))
        values = t.graph.op(reduce, value, t.graph.int64(axis), attributes={"keepdims": keep})
        return values, t.graph.op(arg, value, attributes={"axis": axis, "keepdims": keep})

    return convert


def _norm(t: Translator, node: fx.Node) -> ir.Value:
    """`linalg.vector_norm` and `norm`; other orders than these keep their meaning as powers."""
    order, axes = option(node, 1, "ord", 2), option(node, 2, "dim", None)
    order, dtype = 2 if order is None else order, tensor(node).dtype
    listed = [axes] if isinstance(axes, int) else list(axes or [])
    inputs = [t.graph.int64(*listed)] if listed else []
    keep = {"keepdims": int(option(node, 3, "keepdim", False))}
    x = t.value(arguments(node)[0], dtype)
    if order in (1, 2):
        return t.graph.op(f"ReduceL{int(order)}", x, *inputs, attributes=keep)
    x = t.graph.op("Abs", x)
    if order == 0:
        return t.graph.op("ReduceSum", t.graph.op("Sign", x), *inputs, attributes=keep)
    if math.isinf(order):
        return t.graph.op("ReduceMax" if order > 0 else "ReduceMin", x, *inputs, attributes=keep)
    total = t.graph.op("ReduceSum", t.graph.op("Pow", x, t.value(order, dtype)), *inputs, attributes=keep)
    return t.graph.op("Pow", total, t.value(1 / order, dtype))


def _cumulative_sum(t: Translator, node: fx.Node) -> ir.Value:
    dtype = tensor(node).dtype
    return t.graph.op("CumSum", t.value(arguments(node)[0], dtype), t.value(arguments(node)[1], torch.int64))


def _largest(t: Translator, node: fx.Node) -> tuple[ir.Value, ...]:
    """`topk`: values and positions of the k largest, or smallest, in order."""
    attributes = {"axis": option(node, 2, "dim", -1)}
    attributes |= {"largest": int(option(node, 3, "largest", True)), "sorted": int(option(node, 4, "sorted", True))}
    count = t.integer(arguments(node)[1])
    return t.graph.multi_op("TopK", t.value(arguments(node)[0]), count, outputs=2, attributes=attributes)


REDUCTIONS: dict[Any, Converter] = {
    aten.mean.dim: _reduction("ReduceMean"),
    aten.sum.dim_IntList: _reduction("ReduceSum"),
    aten.sum.default: _reduction("ReduceSum"),
    aten.amax.default: _reduction("ReduceMax"),
    aten.amin.default: _reduction("ReduceMin"),
    aten.any.dim: _reduction("ReduceMax"),
    aten.any.default: _reduction("ReduceMax"),
    aten.all.dim: _reduction("ReduceMin"),
    aten.all.default: _reduction("ReduceMin"),
    aten.argmax.default: _arg_reduction("ArgMax"),
    aten.argmin.default: _arg_reduction("ArgMin"),
    aten.max.dim: _extremum_with_indices("ReduceMax", "ArgMax"),
    aten.min.dim: _extremum_with_indices("ReduceMin", "ArgMin"),
    aten.linalg_vector_norm.default: _norm,
    aten.norm.ScalarOpt_dim: _norm,
    aten.cumsum.default: _cumulative_sum,
    aten.topk.default: _largest,
}
