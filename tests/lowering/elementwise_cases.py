"""Cases of element-wise operators, casts, comparisons and arithmetic on sizes."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch.nn import functional

from tests.lowering.converting import Case, Given, booleans, exactly, floats, integers

aten: Any = torch.ops.aten
untyped: Any = torch
POSITIVE = floats("b", "s", low=0.1, high=3.0)
HALVES = exactly(-2.5, -1.5, -0.5, -0.2, 0.0, 0.5, 1.5, 2.5, 2.6)
DIVISORS = exactly(-7.0, -2.5, 2.5, 3.0, 4.0)
DIVIDENDS = exactly(-7.5, -7.0, -1.0, 0.0, 0.3, 7.0, 7.5)
MIXED = integers("b", "s", low=-9, high=10)
NONZERO = exactly(-4, -3, -1, 2, 3, dtype=torch.int64)


def _call(name: str, op: Any, *inputs: Given, **options: Any) -> Case:  # noqa: ANN401
    """An operator on exactly these inputs."""
    return Case(name=f"{op} {name}".strip(), operators=(op,), module=lambda *x: op(*x, **options), inputs=inputs)


def _with(name: str, op: Any, given: Given, *numbers: Any, **options: Any) -> Case:  # noqa: ANN401
    """An operator on one tensor and then numbers."""
    label = f"{op} {name} {numbers}".replace("  ", " ")
    return Case(name=label, operators=(op,), module=lambda x: op(x, *numbers, **options), inputs=(given,))


def _each(name: str, ops: tuple[Any, ...], *inputs: Given, numbers: tuple[Any, ...] = (), **options: Any) -> Case:  # noqa: ANN401
    """Several operators on the same inputs and then numbers, in one graph."""
    return Case(
        name=name, operators=ops, module=lambda *x: tuple(op(*x, *numbers, **options) for op in ops), inputs=inputs
    )


def _default(*packets: Any) -> tuple[Any, ...]:  # noqa: ANN401
    return tuple(packet.default for packet in packets)


SMOOTH = _default(aten.exp, aten.sin, aten.cos, aten.erf, aten.tanh, aten.sigmoid, aten.softplus, aten.silu, aten.gelu)
STEPPED = _default(aten.neg, aten.abs, aten.relu, aten.sign, aten.floor, aten.ceil, aten.reciprocal, aten.square)
INTEGRAL = _default(aten.neg, aten.abs, aten.sign, aten.floor, aten.ceil, aten.round, aten.square)
UNARY = (
    _each("smooth functions", SMOOTH, floats("b", "s", 3)),
    _each("stepped functions", STEPPED, floats("b", "s", 3)),
    _each("functions of positive numbers", _default(aten.log, aten.sqrt, aten.rsqrt), POSITIVE),
    _each("smooth functions of ints", _default(aten.exp, aten.sigmoid, aten.tanh), MIXED),
    _each("stepped functions of ints", INTEGRAL, MIXED),
    Case(
        name="activations with limits",
        operators=(aten.leaky_relu.default, aten.hardtanh.default, aten.log1p.default, aten.expm1.default),
        module=lambda x: (
            aten.leaky_relu.default(x),
            functional.leaky_relu(x, 0.3),
            aten.hardtanh.default(x),
            aten.hardtanh.default(x, -0.5, 1.5),
            aten.log1p.default(x.abs()),
            aten.expm1.default(x),
        ),
        inputs=(floats("b", "s"),),
    ),
    _call("", aten.isnan.default, exactly(0.0, math.nan, math.inf)),
    _call("half to even", aten.round.default, HALVES),
    _call("tanh", aten.gelu.default, floats("b", "s", 3), approximate="tanh"),
    _with("beta", aten.softplus.default, floats("b", "s", low=-20, high=20), 2.5),
    _with("threshold", aten.softplus.default, exactly(-3.0, 0.5, 1.9, 30.0, 200.0), 1.0, 20.0),
    _call("float", aten.logical_not.default, exactly(0.0, 0.5, -1.0)),
    _call("int", aten.logical_not.default, integers("b", "s", low=-1, high=2)),
    _call("bool", aten.bitwise_not.default, booleans("b", "s")),
    _call("int", aten.bitwise_not.default, MIXED),
)

_SAME = (floats("b", "s", 3), floats("b", "s", 3))
_BROADCAST = (floats("b", 1, "s"), floats("s", 1))
_PROMOTED = (integers("b", "s"), floats("s"))
_WIDENED = (integers("b", "s", dtype=torch.int32), integers("b", "s"))
_BOOL_INT = (booleans("b", "s"), integers("b", "s"))
_BOOLS = (booleans("b", "s"), booleans("b", "s"))
_TENSORS = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.rsub.Tensor)
_SCALARS = (aten.add.Scalar, aten.sub.Scalar, aten.mul.Scalar, aten.rsub.Scalar)
_SCALED = (aten.add.Tensor, aten.sub.Tensor, aten.rsub.Tensor)
_SCALED_NUMBERS = (aten.add.Scalar, aten.sub.Scalar, aten.rsub.Scalar)
_EXTREMES = (aten.maximum.default, aten.minimum.default, aten.max.other, aten.min.other)


def _in_place_on_a_view(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    doubled = x * 2
    doubled.view(-1).add_(1)
    return doubled, doubled.to(torch.float32).mul_(3)


ARITHMETIC = (
    _each("arithmetic, one shape", _TENSORS, *_SAME),
    _each("arithmetic broadcasts", _TENSORS, *_BROADCAST),
    _each("arithmetic promotes", _TENSORS, *_PROMOTED),
    _each("arithmetic widens", _TENSORS, *_WIDENED),
    _each("arithmetic of bool and int", (aten.add.Tensor, aten.mul.Tensor), *_BOOL_INT),
    _each("arithmetic of bools", (aten.add.Tensor, aten.mul.Tensor), *_BOOLS),
    _each("alpha", _SCALED, *_SAME, alpha=2.5),
    _each("alpha of ints", _SCALED, *_WIDENED, alpha=-3),
    _each("arithmetic with a number", _SCALARS, floats("b", "s"), numbers=(1.5,)),
    _each("arithmetic of ints with an int", _SCALARS, MIXED, numbers=(3,)),
    _each("arithmetic of ints with a fraction", _SCALARS, MIXED, numbers=(0.5,)),
    _each("alpha with a number", _SCALED_NUMBERS, floats("b", "s"), numbers=(1.5, 3)),
    Case(
        name="in place",
        operators=(aten.add_.Tensor, aten.mul_.Tensor),
        module=lambda x, y: ((x + 1).add_(y), (x - 1).mul_(y) * 2),
        inputs=_SAME,
    ),
    Case(
        name="in place on a view",
        operators=(aten.add_.Tensor, aten.mul_.Tensor),
        module=_in_place_on_a_view,
        inputs=(floats("b", "s"),),
    ),
    _each("extremes", _EXTREMES, *_SAME),
    _each("extremes promote", _EXTREMES, *_PROMOTED),
    _each("extremes of bools", _EXTREMES, *_BOOLS),
    _with("", aten.pow.Tensor_Scalar, floats("b", "s"), 2),
    _with("", aten.pow.Tensor_Scalar, POSITIVE, -0.5),
    _with("int", aten.pow.Tensor_Scalar, MIXED, 3),
    _with("int becomes float", aten.pow.Tensor_Scalar, integers("b", "s", low=1), 0.5),
    _call("", aten.pow.Tensor_Tensor, POSITIVE, floats("b", "s")),
    Case(
        name="pow.Scalar",
        operators=(aten.pow.Scalar,),
        module=lambda x, n: (aten.pow.Scalar(10000.0, x), 2**x, 2**n),
        inputs=(floats("b", "s"), integers("b", "s", low=0, high=6)),
    ),
)

_GRID = (exactly(*[[v] for v in DIVIDENDS.literal or ()]), DIVISORS)
_INT_GRID = (exactly(*[[v] for v in range(-7, 8)], dtype=torch.int64), NONZERO)
DIVISION = (
    *(
        _call(f"{kind} {mode}", aten.div.Tensor_mode, *grid, rounding_mode=mode)
        for kind, grid in (("floats", _GRID), ("ints", _INT_GRID))
        for mode in ("floor", "trunc", None)
    ),
    _each("division of floats", (aten.div.Tensor, aten.floor_divide.default, aten.remainder.Tensor), *_GRID),
    _each("division of ints", (aten.div.Tensor, aten.floor_divide.default, aten.remainder.Tensor), *_INT_GRID),
    _each("division by a number", (aten.div.Scalar, aten.remainder.Scalar), DIVIDENDS, numbers=(2.5,)),
    _each("division by a negative number", (aten.div.Scalar, aten.remainder.Scalar), DIVIDENDS, numbers=(-2.5,)),
    _each("division of ints by an int", (aten.div.Scalar, aten.remainder.Scalar), MIXED, numbers=(-4,)),
    _each("division of ints by a fraction", (aten.div.Scalar, aten.remainder.Scalar), MIXED, numbers=(2.5,)),
    _call("tiny and negative", aten.remainder.Tensor, exactly(-1e-6, 1e-6, -3.0), exactly(1.0, -1.0, 1.5)),
    Case(
        name="// with a number",
        operators=(aten.floor_divide.default,),
        module=lambda x, y: (x // 2, x // -3, y // 0.7),
        inputs=(MIXED, floats("b", "s")),
    ),
)

_COMPARED = (aten.eq, aten.ne, aten.lt, aten.le, aten.gt, aten.ge)
_COMPARED_TENSORS = tuple(packet.Tensor for packet in _COMPARED)
_COMPARED_NUMBERS = tuple(packet.Scalar for packet in _COMPARED)
_SMALL = integers("b", "s", low=-1, high=2)
_INT_FLOAT = (exactly(-1, 0, 1, dtype=torch.int64), exactly([-1.0], [0.0], [0.5], [1.0]))
COMPARISONS = (
    _each("comparisons of ints", _COMPARED_TENSORS, _SMALL, integers("b", "s", low=-1, high=2, dtype=torch.int32)),
    _each("comparisons of int and float", _COMPARED_TENSORS, *_INT_FLOAT),
    _each("comparisons of bools", _COMPARED_TENSORS, *_BOOLS),
    _each("comparisons with an int", _COMPARED_NUMBERS, _SMALL, numbers=(0,)),
    _each("comparisons with a fraction", _COMPARED_NUMBERS, _SMALL, numbers=(0.5,)),
    _each("comparisons of floats with an int", _COMPARED_NUMBERS, exactly(-1.0, 0.0, 0.5, 1.0), numbers=(0,)),
    _each("comparisons of bools with an int", _COMPARED_NUMBERS, booleans("b", "s"), numbers=(1,)),
    _each("comparisons with infinity", _COMPARED_NUMBERS, exactly(-math.inf, 0.0, math.inf), numbers=(-math.inf,)),
)

_LOGICAL = _default(aten.logical_and, aten.logical_or)
_BITWISE = tuple(
    packet.Tensor for packet in (aten.bitwise_and, aten.bitwise_or, aten.bitwise_xor, aten.__and__, aten.__or__)
)
LOGIC = (
    _each("logic of bools", _LOGICAL, *_BOOLS),
    _each("logic of numbers", _LOGICAL, *_INT_FLOAT),
    _each("logic of ints", _LOGICAL, _SMALL, _SMALL),
    _each("bits of bools", _BITWISE, *_BOOLS),
    _each("bits of ints", _BITWISE, MIXED, MIXED),
    _each("bits of bool and int", _BITWISE, *_BOOL_INT),
)

_KINDS = (torch.int64, torch.int32, torch.bool, torch.float16, torch.float64, torch.float32)
CASTS = (
    Case(
        name="casts",
        operators=(aten.to.dtype,),
        module=lambda x, m: (*(x.to(kind) for kind in _KINDS), *(m.to(kind) for kind in _KINDS)),
        inputs=(floats("b", "s", low=-3.7, high=3.7), booleans("b", "s")),
    ),
    _with("", aten.to.device, MIXED, torch.device("cpu"), torch.float32),
    _with("", aten.to.dtype_layout, MIXED, dtype=torch.float32, layout=torch.strided),
    _with("", aten._to_copy.default, MIXED, dtype=torch.float32),
    _each("casts like another", (aten.to.other, aten.type_as.default), MIXED, floats("b")),
)

KEPT = (
    _each(
        "what does nothing",
        _default(aten.contiguous, aten.clone, aten.detach, aten.alias, aten.lift_fresh_copy),
        floats("b", "s"),
    ),
    _with("", aten.dropout.default, floats("b", "s"), 0.5, False),
    Case(
        name="a constant tensor",
        operators=(aten.lift_fresh_copy.default, aten.detach_.default),
        module=lambda x: x + torch.tensor([1.0, 2.0, 3.0]),
        inputs=(floats("b", 3),),
    ),
)


def _assertions(x: torch.Tensor) -> torch.Tensor:
    aten._assert_tensor_metadata.default(x, dtype=torch.float32)
    size = x.shape[1]
    untyped._check(size * 2 > 3)
    return x + 1


def _asserted_scalar(x: torch.Tensor) -> torch.Tensor:
    n, m = x.shape
    for holds in (n * m != 4, n + 20 > m, n < 20 + m, n + 20 >= m, n <= 20 + m, (n * n) % 2 == n % 2):
        aten._assert_scalar.default(holds, "a comparison")
    return x + 1


ASSERTIONS = (
    Case(
        name="assertions",
        operators=(aten._assert_tensor_metadata.default,),
        module=_assertions,
        inputs=(floats("b", "s"),),
    ),
    Case(
        name="asserted scalar",
        operators=(
            aten._assert_scalar.default,
            operator.ne,
            operator.lt,
            operator.le,
            operator.gt,
            operator.ge,
            operator.eq,
        ),
        module=_asserted_scalar,
        inputs=(floats("b", "s"),),
    ),
)


def _sizes(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    n, m = x.shape
    return (
        x.new_zeros(n + m, m - 1, n * m),
        x.new_zeros(m // 2, m % 4 + 1),
        x.new_zeros((1 - m) // 2 + m, (-m) % 4 + 1),
        x.new_zeros(untyped.sym_max(n, 4), untyped.sym_min(m, 5)),
        x * m + n,
        (x / m) < n,
    )


SIZES = (
    Case(
        name="arithmetic on sizes",
        operators=(operator.add, operator.sub, operator.mul, operator.neg, operator.floordiv, operator.mod),
        module=_sizes,
        inputs=(floats("b", "s"),),
    ),
    Case(
        name="sym_max and sym_min", operators=(torch.sym_max, torch.sym_min), module=_sizes, inputs=(floats("b", "s"),)
    ),
)

CASES = (*UNARY, *ARITHMETIC, *DIVISION, *COMPARISONS, *LOGIC, *CASTS, *KEPT, *ASSERTIONS, *SIZES)
