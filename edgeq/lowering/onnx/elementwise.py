"""Converters of element-wise arithmetic, comparisons and casts, and of arithmetic on sizes."""

from __future__ import annotations

import operator
from typing import Any

import onnx_ir as ir
import torch
from torch import fx

from edgeq.lowering.onnx.translator import Converter, Result, Translator, arguments, option, tensor

aten = torch.ops.aten
ON_BOOLEANS = {"Add": "Or", "Mul": "And", "Max": "Or", "Min": "And"}


def _unary(op_type: str) -> Converter:
    def convert(t: Translator, node: fx.Node) -> ir.Value:
        return t.graph.op(op_type, t.value(arguments(node)[0], tensor(node).dtype))

    return convert


def _rounding(op_type: str) -> Converter:
    """Integers are round already, and ONNX has no operator for them."""

    def convert(t: Translator, node: fx.Node) -> ir.Value:
        value = t.value(arguments(node)[0])
        return t.graph.op(op_type, value) if tensor(node).dtype.is_floating_point else value

    return convert


def _binary(op_type: str) -> Converter:
    """`op(left, right)` in the dtype of the result, as torch promotes."""

    def convert(t: Translator, node: fx.Node) -> Result:
        dtype = tensor(node).dtype
        chosen = ON_BOOLEANS[op_type] if dtype == torch.bool else op_type
        return t.graph.op(chosen, t.value(arguments(node)[0], dtype), _scaled(t, node, 1))

    return convert


def _scaled(t: Translator, node: fx.Node, position: int) -> ir.Value:
    """The argument of an addition or subtraction that `alpha` multiplies."""
    dtype = tensor(node).dtype
    value, alpha = t.value(arguments(node)[position], dtype), option(node, 2, "alpha", 1)
    return value if alpha == 1 else t.graph.op("Mul", value, t.value(alpha, dtype))


def _reversed_subtraction(t: Translator, node: fx.Node) -> ir.Value:
    return t.graph.op("Sub", t.value(arguments(node)[1], tensor(node).dtype), _scaled(t, node, 0))


def _division(t: Translator, node: fx.Node) -> ir.Value:
    dtype = tensor(node).dtype
    left, right = (t.value(argument, dtype) for argument in arguments(node)[:2])
    mode = "floor" if node.target == aten.floor_divide.default else node.kwargs.get("rounding_mode")
    if not dtype.is_floating_point:
        return t.graph.op("Div", left, right) if mode == "trunc" else _floor_division(t, left, right)
    quotient = t.graph.op("Div", left, right)
    if mode == "trunc":
        return t.graph.op("Mul", t.graph.op("Sign", quotient), t.graph.op("Floor", t.graph.op("Abs", quotient)))
    return t.graph.op("Floor", quotient) if mode == "floor" else quotient


def _floor_division(t: Translator, left: ir.Value, right: ir.Value) -> ir.Value:
    """Of integers: ONNX divides towards zero, but its Mod has the sign of the divisor."""
    return t.graph.op("Div", t.graph.op("Sub", left, t.graph.op("Mod", left, right)), right)


def _remainder(t: Translator, node: fx.Node) -> ir.Value:
    """With the sign of the divisor; ONNX has that for integers alone, and the dividend's for floats."""
    dtype = tensor(node).dtype
    left, right = (t.value(argument, dtype) for argument in arguments(node)[:2])
    if not dtype.is_floating_point:
        return t.graph.op("Mod", left, right)
    rest = t.graph.op("Mod", left, right, attributes={"fmod": 1})
    signs = t.graph.op("Mul", t.graph.op("Sign", rest), t.graph.op("Sign", right))
    opposite = t.graph.op("Less", signs, t.value(0, dtype))
    return t.graph.op("Where", opposite, t.graph.op("Add", rest, right), rest)


def _comparison(op_type: str, *, negate: bool = False) -> Converter:
    def convert(t: Translator, node: fx.Node) -> ir.Value:
        dtype = _common_dtype(arguments(node)[:2])
        if dtype == torch.bool and op_type != "Equal":
            dtype = torch.int32  # ONNX does not order booleans
        result = t.graph.op(op_type, t.value(arguments(node)[0], dtype), t.value(arguments(node)[1], dtype))
        return t.graph.op("Not", result) if negate else result

    return convert


def _common_dtype(arguments: Any) -> torch.dtype:  # noqa: ANN401
    values = [a.meta["val"] if isinstance(a, fx.Node) else a for a in arguments]
    left, right = (0 if isinstance(value, torch.SymInt) else value for value in values)
    return torch.result_type(left, right)


def _logical(op_type: str) -> Converter:
    """On whether numbers are zero or not."""

    def convert(t: Translator, node: fx.Node) -> ir.Value:
        return t.graph.op(op_type, *(t.value(argument, torch.bool) for argument in arguments(node)[:2]))

    return convert


def _bitwise(op_type: str, on_booleans: str) -> Converter:
    def convert(t: Translator, node: fx.Node) -> ir.Value:
        dtype = tensor(node).dtype
        chosen = on_booleans if dtype == torch.bool else op_type
        return t.graph.op(chosen, *(t.value(argument, dtype) for argument in arguments(node)))

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
    """Assertions leave nothing behind, nor do the comparisons of sizes that they are about."""
    return t.graph.int64(0)


def _softplus(t: Translator, node: fx.Node) -> ir.Value:
    """log(1 + exp(beta x)) / beta; the threshold only guards torch's own kernel against overflow."""
    x, beta = t.value(arguments(node)[0]), option(node, 1, "beta", 1)
    if beta == 1:
        return t.graph.op("Softplus", x)
    scale = t.value(beta, tensor(node).dtype)
    return t.graph.op("Div", t.graph.op("Softplus", t.graph.op("Mul", x, scale)), scale)


def _square(t: Translator, node: fx.Node) -> ir.Value:
    x = t.value(arguments(node)[0], tensor(node).dtype)
    return t.graph.op("Mul", x, x)


def _log1p(t: Translator, node: fx.Node) -> ir.Value:
    dtype = tensor(node).dtype
    return t.graph.op("Log", t.graph.op("Add", t.value(arguments(node)[0], dtype), t.value(1, dtype)))


def _expm1(t: Translator, node: fx.Node) -> ir.Value:
    dtype = tensor(node).dtype
    return t.graph.op("Sub", t.graph.op("Exp", t.value(arguments(node)[0], dtype)), t.value(1, dtype))


def _leaky_relu(t: Translator, node: fx.Node) -> ir.Value:
    slope = float(option(node, 1, "negative_slope", 0.01))
    return t.graph.op("LeakyRelu", t.value(arguments(node)[0]), attributes={"alpha": slope})


def _hard_tanh(t: Translator, node: fx.Node) -> ir.Value:
    dtype = tensor(node).dtype
    lowest, highest = (t.value(option(node, *limit), dtype) for limit in ((1, "min_val", -1), (2, "max_val", 1)))
    return t.graph.op("Min", t.graph.op("Max", t.value(arguments(node)[0], dtype), lowest), highest)


def _is_nan(t: Translator, node: fx.Node) -> ir.Value:
    return t.graph.op("IsNaN", t.value(arguments(node)[0]))


def _rsqrt(t: Translator, node: fx.Node) -> ir.Value:
    return t.graph.op("Reciprocal", t.graph.op("Sqrt", t.value(arguments(node)[0], tensor(node).dtype)))


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
    """Arithmetic on sizes."""

    def convert(t: Translator, node: fx.Node) -> ir.Value:
        return t.graph.op(op_type, *map(t.integer, arguments(node)))

    return convert


def _symbolic_floor_division(t: Translator, node: fx.Node) -> ir.Value:
    left, right = map(t.integer, arguments(node))
    return _floor_division(t, left, right)


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
    aten.max.other: _binary("Max"),
    aten.min.other: _binary("Min"),
    aten.neg.default: _unary("Neg"),
    aten.abs.default: _unary("Abs"),
    aten.exp.default: _unary("Exp"),
    aten.log.default: _unary("Log"),
    aten.sqrt.default: _unary("Sqrt"),
    aten.square.default: _square,
    aten.rsqrt.default: _rsqrt,
    aten.reciprocal.default: _unary("Reciprocal"),
    aten.log1p.default: _log1p,
    aten.expm1.default: _expm1,
    aten.sin.default: _unary("Sin"),
    aten.cos.default: _unary("Cos"),
    aten.erf.default: _unary("Erf"),
    aten.tanh.default: _unary("Tanh"),
    aten.sigmoid.default: _unary("Sigmoid"),
    aten.relu.default: _unary("Relu"),
    aten.relu_.default: _unary("Relu"),
    aten.leaky_relu.default: _leaky_relu,
    aten.hardtanh.default: _hard_tanh,
    aten.softplus.default: _softplus,
    aten.sign.default: _unary("Sign"),
    aten.isnan.default: _is_nan,
    aten.floor.default: _rounding("Floor"),
    aten.ceil.default: _rounding("Ceil"),
    aten.round.default: _rounding("Round"),
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
    aten.logical_and.default: _logical("And"),
    aten.logical_or.default: _logical("Or"),
    aten.bitwise_and.Tensor: _bitwise("BitwiseAnd", "And"),
    aten.bitwise_or.Tensor: _bitwise("BitwiseOr", "Or"),
    aten.bitwise_xor.Tensor: _bitwise("BitwiseXor", "Xor"),
    aten.__and__.Tensor: _bitwise("BitwiseAnd", "And"),
    aten.__or__.Tensor: _bitwise("BitwiseOr", "Or"),
    aten.bitwise_not.default: _bitwise("BitwiseNot", "Not"),
    aten.logical_not.default: _logical_not,
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
    aten.dropout_.default: _identity,
    aten.lift_fresh_copy.default: _identity,
    aten._assert_tensor_metadata.default: _nothing,
    aten._assert_scalar.default: _nothing,
    aten.clamp.default: _clamp,
    aten.clamp.Tensor: _clamp,
    aten.clamp_min.default: _clamp,
    aten.clamp_max.default: _clamp_max,
    aten.where.self: _where,
    aten.where.ScalarOther: _where,
    aten.where.ScalarSelf: _where,
    aten.where.Scalar: _where,
    aten.masked_fill.Scalar: _masked_fill,
    aten.masked_fill.Tensor: _masked_fill,
    operator.add: _symbolic("Add"),
    operator.sub: _symbolic("Sub"),
    operator.mul: _symbolic("Mul"),
    operator.neg: _symbolic("Neg"),
    operator.floordiv: _symbolic_floor_division,
    operator.mod: _symbolic("Mod"),
    torch.sym_max: _symbolic("Max"),
    torch.sym_min: _symbolic("Min"),
    operator.eq: _nothing,
    operator.ne: _nothing,
    operator.lt: _nothing,
    operator.le: _nothing,
    operator.gt: _nothing,
    operator.ge: _nothing,
}
