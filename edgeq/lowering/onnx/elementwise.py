"""Converters of element-wise arithmetic, comparisons, casts and reductions."""

from __future__ import annotations

import operator
from typing import Any

import onnx_ir as ir
import torch
from torch import fx

from edgeq.lowering.onnx.translator import Converter, Result, Translator, arguments, is_symbolic_number, option, tensor

aten = torch.ops.aten


def _unary(op_type: str) -> Converter:
    def convert(t: Translator, node: fx.Node) -> ir.Value:
        return t.graph.op(op_type, t.value(arguments(node)[0], tensor(node).dtype))

    return convert


def _binary(op_type: str) -> Converter:
    """`op(left, right)` in the dtype of the result, as torch promotes."""

    def convert(t: Translator, node: fx.Node) -> Result:
        dtype = tensor(node).dtype
        left, right = t.value(arguments(node)[0], dtype), t.value(arguments(node)[1], dtype)
        alpha = node.kwargs.get("alpha", 1)
        if alpha != 1:
            right = t.graph.op("Mul", right, t.value(alpha, dtype))
        return t.graph.op(op_type, left, right)

    return convert


def _reversed_subtraction(t: Translator, node: fx.Node) -> ir.Value:
    dtype = tensor(node).dtype
    return t.graph.op("Sub", t.value(arguments(node)[1], dtype), t.value(arguments(node)[0], dtype))


def _division(t: Translator, node: fx.Node) -> ir.Value:
    dtype = tensor(node).dtype
    mode = node.kwargs.get("rounding_mode")
    quotient = t.graph.op("Div", t.value(arguments(node)[0], dtype), t.value(arguments(node)[1], dtype))
    return t.graph.op("Floor", quotient) if mode == "floor" and dtype.is_floating_point else quotient


def _remainder(t: Translator, node: fx.Node) -> ir.Value:
    dtype = tensor(node).dtype
    return t.graph.op("Mod", t.value(arguments(node)[0], dtype), t.value(arguments(node)[1], dtype))


def _comparison(op_type: str, *, negate: bool = False) -> Converter:
    def convert(t: Translator, node: fx.Node) -> ir.Value:
        dtype = _common_dtype(arguments(node)[:2])
        result = t.graph.op(op_type, t.value(arguments(node)[0], dtype), t.value(arguments(node)[1], dtype))
        return t.graph.op("Not", result) if negate else result

    return convert


def _common_dtype(arguments: Any) -> torch.dtype:  # noqa: ANN401
    values = [a.meta["val"] if isinstance(a, fx.Node) else a for a in arguments]
    values = [0 if isinstance(value, torch.SymInt) else value for value in values]
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    if len(tensors) == 1 and not isinstance(values[0] if tensors[0] is values[1] else values[1], torch.Tensor):
        number = values[0] if tensors[0] is values[1] else values[1]
        return tensors[0].dtype if not isinstance(number, float) else _floating(tensors[0].dtype)
    return torch.promote_types(tensors[0].dtype, tensors[1].dtype)


def _floating(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype.is_floating_point else torch.float32


def _logical(op_type: str, bitwise: str) -> Converter:
    """Bitwise on integers, logical on booleans."""

    def convert(t: Translator, node: fx.Node) -> ir.Value:
        dtype = _common_dtype(arguments(node)[:2])
        chosen = op_type if dtype == torch.bool else bitwise
        return t.graph.op(chosen, t.value(arguments(node)[0], dtype), t.value(arguments(node)[1], dtype))

    return convert


def _logical_not(t: Translator, node: fx.Node) -> ir.Value:
    return t.graph.op("Not", t.value(arguments(node)[0], torch.bool))


def _cast(t: Translator, node: fx.Node) -> ir.Value:
    """`to`, `type_as` and their kin: only the dtype matters."""
    source, result = tensor(arguments(node)[0]).dtype, tensor(node).dtype
    value = t.value(arguments(node)[0])
    return value if source == result else t.graph.cast(value, result)


def _identity(t: Translator, node: fx.Node) -> ir.Value:
    return t.value(arguments(node)[0])


def _nothing(t: Translator, node: fx.Node) -> ir.Value:
    """Assertions about metadata leave nothing behind."""
    return t.graph.int64(0)


def _rsqrt(t: Translator, node: fx.Node) -> ir.Value:
    return t.graph.op("Reciprocal", t.graph.op("Sqrt", t.value(arguments(node)[0], tensor(node).dtype)))


def _reduction(op_type: str) -> Converter:
    def convert(t: Translator, node: fx.Node) -> ir.Value:
        axes = option(node, 1, "dim", None)
        keep = bool(option(node, 2, "keepdim", False))
        dtype = tensor(node).dtype
        value = t.value(arguments(node)[0], torch.int32 if dtype == torch.bool else dtype)
        if axes is None or axes == []:
            result = t.graph.op(op_type, value, attributes={"keepdims": int(keep)})
        else:
            listed = [axes] if isinstance(axes, int) else axes
            result = t.graph.op(op_type, value, t.graph.int64(*listed), attributes={"keepdims": int(keep)})
        return t.graph.cast(result, torch.bool) if dtype == torch.bool else result

    return convert


def _arg_reduction(op_type: str) -> Converter:
    def convert(t: Translator, node: fx.Node) -> ir.Value:
        axis, keep = option(node, 1, "dim", 0), int(option(node, 2, "keepdim", False))
        return t.graph.op(op_type, t.value(arguments(node)[0]), attributes={"axis": axis, "keepdims": keep})

    return convert


def _extremum_with_indices(reduce: str, arg: str) -> Converter:
    def convert(t: Translator, node: fx.Node) -> tuple[ir.Value, ...]:
        value, axis = t.value(arguments(node)[0]), arguments(node)[1]
        keep = int(option(node, 2, "keepdim", False))
        values = t.graph.op(reduce, value, t.graph.int64(axis), attributes={"keepdims": keep})
        return values, t.graph.op(arg, value, attributes={"axis": axis, "keepdims": keep})

    return convert


def _norm(t: Translator, node: fx.Node) -> ir.Value:
    """`linalg.vector_norm` and `norm` of order 1 or 2."""
    order, axes = option(node, 1, "ord", 2), option(node, 2, "dim", None)
    keep = bool(option(node, 3, "keepdim", False))
    op_type = "ReduceL1" if order == 1 else "ReduceL2"
    listed = [axes] if isinstance(axes, int) else list(axes or [])
    inputs = [t.graph.int64(*listed)] if listed else []
    return t.graph.op(op_type, t.value(arguments(node)[0]), *inputs, attributes={"keepdims": int(keep)})


def _clamp(t: Translator, node: fx.Node) -> ir.Value:
    dtype = tensor(node).dtype
    lowest, highest = option(node, 1, "min", None), option(node, 2, "max", None)
    value = t.value(arguments(node)[0], dtype)
    if lowest is not None:
        value = t.graph.op("Max", value, t.value(lowest, dtype))
    return value if highest is None else t.graph.op("Min", value, t.value(highest, dtype))


def _clamp_max(t: Translator, node: fx.Node) -> ir.Value:
    dtype = tensor(node).dtype
    return t.graph.op("Min", t.value(arguments(node)[0], dtype), t.value(arguments(node)[1], dtype))


def _cumulative_sum(t: Translator, node: fx.Node) -> ir.Value:
    dtype = tensor(node).dtype
    return t.graph.op("CumSum", t.value(arguments(node)[0], dtype), t.value(arguments(node)[1], torch.int64))


def _where(t: Translator, node: fx.Node) -> ir.Value:
    dtype = tensor(node).dtype
    condition = t.value(arguments(node)[0], torch.bool)
    return t.graph.op("Where", condition, t.value(arguments(node)[1], dtype), t.value(arguments(node)[2], dtype))


def _masked_fill(t: Translator, node: fx.Node) -> ir.Value:
    dtype = tensor(node).dtype
    mask = t.value(arguments(node)[1], torch.bool)
    return t.graph.op("Where", mask, t.value(arguments(node)[2], dtype), t.value(arguments(node)[0], dtype))


def _gelu(t: Translator, node: fx.Node) -> ir.Value:
    approximate = node.kwargs.get("approximate", "none")
    return t.graph.op("Gelu", t.value(arguments(node)[0]), attributes={"approximate": str(approximate)})


def _silu(t: Translator, node: fx.Node) -> ir.Value:
    x = t.value(arguments(node)[0])
    return t.graph.op("Mul", x, t.graph.op("Sigmoid", x))


def _symbolic(op_type: str) -> Converter:
    """Arithmetic on sizes; where both sides are tensors, the operator means the tensors."""

    def convert(t: Translator, node: fx.Node) -> Result:
        if not is_symbolic_number(node) and isinstance(node.meta.get("val"), torch.Tensor):
            return _binary(op_type)(t, node)
        return t.graph.op(op_type, t.integer(arguments(node)[0]), t.integer(arguments(node)[1]))

    return convert


ELEMENTWISE: dict[Any, Converter] = {
    aten.add.Tensor: _binary("Add"),
    aten.add.Scalar: _binary("Add"),
    aten.add_.Tensor: _binary("Add"),
    aten.sub.Tensor: _binary("Sub"),
    aten.sub.Scalar: _binary("Sub"),
    aten.rsub.Scalar: _reversed_subtraction,
    aten.rsub.Tensor: _reversed_subtraction,
    aten.mul.Tensor: _binary("Mul"),
    aten.mul.Scalar: _binary("Mul"),
    aten.mul_.Tensor: _binary("Mul"),
    aten.div.Tensor: _division,
    aten.div.Scalar: _division,
    aten.div.Tensor_mode: _division,
    aten.floor_divide.default: _division,
    aten.remainder.Scalar: _remainder,
    aten.remainder.Tensor: _remainder,
    aten.pow.Tensor_Scalar: _binary("Pow"),
    aten.pow.Tensor_Tensor: _binary("Pow"),
    aten.pow.Scalar: _binary("Pow"),
    aten.maximum.default: _binary("Max"),
    aten.minimum.default: _binary("Min"),
    aten.neg.default: _unary("Neg"),
    aten.abs.default: _unary("Abs"),
    aten.exp.default: _unary("Exp"),
    aten.log.default: _unary("Log"),
    aten.sqrt.default: _unary("Sqrt"),
    aten.rsqrt.default: _rsqrt,
    aten.reciprocal.default: _unary("Reciprocal"),
    aten.sin.default: _unary("Sin"),
    aten.cos.default: _unary("Cos"),
    aten.erf.default: _unary("Erf"),
    aten.tanh.default: _unary("Tanh"),
    aten.sigmoid.default: _unary("Sigmoid"),
    aten.relu.default: _unary("Relu"),
    aten.softplus.default: _unary("Softplus"),
    aten.sign.default: _unary("Sign"),
    aten.floor.default: _unary("Floor"),
    aten.ceil.default: _unary("Ceil"),
    aten.round.default: _unary("Round"),
    aten.silu.default: _silu,
    aten.gelu.default: _gelu,
    aten.eq.Tensor: _comparison("Equal"),
    aten.eq.Scalar: _comparison("Equal"),
    aten.ne.Tensor: _comparison("Equal", negate=True),
    aten.ne.Scalar: _comparison("Equal", negate=True),
    aten.lt.Tensor: _comparison("Less"),
    aten.lt.Scalar: _comparison("Less"),
    aten.le.Tensor: _comparison("LessOrEqual"),
    aten.le.Scalar: _comparison("LessOrEqual"),
    aten.gt.Tensor: _comparison("Greater"),
    aten.gt.Scalar: _comparison("Greater"),
    aten.ge.Tensor: _comparison("GreaterOrEqual"),
    aten.ge.Scalar: _comparison("GreaterOrEqual"),
    aten.logical_and.default: _logical("And", "BitwiseAnd"),
    aten.logical_or.default: _logical("Or", "BitwiseOr"),
    aten.bitwise_and.Tensor: _logical("And", "BitwiseAnd"),
    aten.bitwise_or.Tensor: _logical("Or", "BitwiseOr"),
    aten.__and__.Tensor: _logical("And", "BitwiseAnd"),
    aten.__or__.Tensor: _logical("Or", "BitwiseOr"),
    aten.logical_not.default: _logical_not,
    aten.bitwise_not.default: _logical_not,
    aten.to.dtype: _cast,
    aten.to.device: _cast,
    aten.to.dtype_layout: _cast,
    aten.to.other: _cast,
    aten._to_copy.default: _cast,
    aten.type_as.default: _cast,
    aten.contiguous.default: _identity,
    aten.clone.default: _identity,
    aten.detach.default: _identity,
    aten.detach_.default: _identity,
    aten.alias.default: _identity,
    aten.dropout.default: _identity,
    aten.lift_fresh_copy.default: _identity,
    aten._assert_tensor_metadata.default: _nothing,
    aten._assert_scalar.default: _nothing,
    aten.sym_constrain_range_for_size.default: _nothing,
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
    aten.clamp.default: _clamp,
    aten.clamp.Tensor: _clamp,
    aten.clamp_min.default: _clamp,
    aten.clamp_max.default: _clamp_max,
    aten.cumsum.default: _cumulative_sum,
    aten.where.self: _where,
    aten.where.ScalarOther: _where,
    aten.where.ScalarSelf: _where,
    aten.where.Scalar: _where,
    aten.masked_fill.Scalar: _masked_fill,
    aten.masked_fill.Tensor: _masked_fill,
    operator.add: _symbolic("Add"),
    operator.sub: _symbolic("Sub"),
    operator.mul: _symbolic("Mul"),
    operator.floordiv: _symbolic("Div"),
    operator.mod: _symbolic("Mod"),
    torch.sym_max: _symbolic("Max"),
    torch.sym_min: _symbolic("Min"),
}
