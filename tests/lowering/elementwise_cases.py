"""Cases of element-wise operators, casts, comparisons and arithmetic on sizes."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch

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


SMOOTH = (aten.exp, aten.sin, aten.cos, aten.erf, aten.tanh, aten.sigmoid, aten.softplus, aten.silu, aten.gelu)
STEPPED = (aten.neg, aten.abs, aten.relu, aten.sign, aten.floor, aten.ceil, aten.reciprocal, aten.logical_not)
FLOAT_UNARY = tuple(_call("", op.default, floats("b", "s", 3)) for op in (*SMOOTH, *STEPPED))
UNARY = (
    *FLOAT_UNARY,
    *(_call("", op.default, POSITIVE) for op in (aten.log, aten.sqrt, aten.rsqrt)),
    _call("half to even", aten.round.default, HALVES),
    *(_call("int", op.default, MIXED) for op in (aten.neg, aten.abs, aten.sign, aten.exp, aten.sigmoid)),
    *(_call("int", op.default, MIXED) for op in (aten.floor, aten.ceil, aten.round)),
    _call("tanh", aten.gelu.default, floats("b", "s", 3), approximate="tanh"),
    _with("beta", aten.softplus.default, floats("b", "s", low=-20, high=20), 2.5),
    _with("threshold", aten.softplus.default, exactly(-3.0, 0.5, 1.9, 30.0, 200.0), 1.0, 20.0),
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


def _in_place_on_a_view(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    doubled = x * 2
    doubled.view(-1).add_(1)
    return doubled, doubled.to(torch.float32).mul_(3)


ARITHMETIC = (
    *(
        _call(label, op.Tensor, *pair)
        for op in (aten.add, aten.sub, aten.mul, aten.rsub)
        for label, pair in (("same", _SAME), ("broadcast", _BROADCAST), ("promoted", _PROMOTED), ("widened", _WIDENED))
    ),
    _call("bool and int", aten.add.Tensor, *_BOOL_INT),
    _call("bool and int", aten.mul.Tensor, *_BOOL_INT),
    _call("bools", aten.add.Tensor, *_BOOLS),
    _call("bools", aten.mul.Tensor, *_BOOLS),
    *(_call("alpha", op.Tensor, *_SAME, alpha=2.5) for op in (aten.add, aten.sub, aten.rsub)),
    _call("alpha int", aten.add.Tensor, *_WIDENED, alpha=-3),
    *(_with("", op.Scalar, floats("b", "s"), 1.5) for op in (aten.add, aten.sub, aten.mul, aten.rsub)),
    *(_with("int", op.Scalar, MIXED, 3) for op in (aten.add, aten.sub, aten.mul, aten.rsub)),
    *(_with("int becomes float", op.Scalar, MIXED, 0.5) for op in (aten.add, aten.sub, aten.mul, aten.rsub)),
    *(_with("alpha", op.Scalar, floats("b", "s"), 1.5, 3) for op in (aten.add, aten.sub, aten.rsub)),
    Case(
        name="add_ and mul_ in place",
        operators=(aten.add_.Tensor, aten.mul_.Tensor),
        module=lambda x, y: ((x + 1).add_(y), (x - 1).mul_(y) * 2),
        inputs=_SAME,
    ),
    *(
        _call(label, op.default, *pair)
        for op in (aten.maximum, aten.minimum)
        for label, pair in (("", _SAME), ("promoted", _PROMOTED), ("bools", _BOOLS))
    ),
    _with("", aten.pow.Tensor_Scalar, floats("b", "s"), 2),
    _with("", aten.pow.Tensor_Scalar, POSITIVE, -0.5),
    _with("int", aten.pow.Tensor_Scalar, MIXED, 3),
    _with("int becomes float", aten.pow.Tensor_Scalar, integers("b", "s", low=1), 0.5),
    _call("", aten.pow.Tensor_Tensor, POSITIVE, floats("b", "s")),
    Case(
        name="pow.Scalar",
        operators=(aten.pow.Scalar,),
        module=lambda x: (aten.pow.Scalar(10000.0, x), 2**x),
        inputs=(floats("b", "s"),),
    ),
    Case(
        name="pow.Scalar int",
        operators=(aten.pow.Scalar,),
        module=lambda x: aten.pow.Scalar(2, x),
        inputs=(integers("b", "s", low=0, high=6),),
    ),
)

_GRID = (exactly(*[[v] for v in DIVIDENDS.literal or ()]), DIVISORS)
_INT_GRID = (exactly(*[[v] for v in range(-7, 8)], dtype=torch.int64), NONZERO)
DIVISION = (
    _call("", aten.div.Tensor, *_GRID),
    _call("ints give floats", aten.div.Tensor, *_INT_GRID),
    _with("", aten.div.Scalar, floats("b", "s"), 3),
    _with("int", aten.div.Scalar, MIXED, 4),
    *(_call(f"floats {mode}", aten.div.Tensor_mode, *_GRID, rounding_mode=mode) for mode in ("floor", "trunc", None)),
    *(_call(f"ints {mode}", aten.div.Tensor_mode, *_INT_GRID, rounding_mode=mode) for mode in ("floor", "trunc", None)),
    _call("floats", aten.floor_divide.default, *_GRID),
    _call("ints", aten.floor_divide.default, *_INT_GRID),
    Case(
        name="// with a number",
        operators=(aten.floor_divide.default,),
        module=lambda x, y: (x // 2, x // -3, y // 0.7),
        inputs=(MIXED, floats("b", "s")),
    ),
    _call("floats", aten.remainder.Tensor, *_GRID),
    _call("tiny and negative", aten.remainder.Tensor, exactly(-1e-6, 1e-6, -3.0), exactly(1.0, -1.0, 1.5)),
    _call("ints", aten.remainder.Tensor, *_INT_GRID),
    _with("", aten.remainder.Scalar, floats("b", "s", low=-9, high=9), 2.5),
    _with("", aten.remainder.Scalar, floats("b", "s", low=-9, high=9), -2.5),
    _with("int", aten.remainder.Scalar, MIXED, -4),
    _with("int becomes float", aten.remainder.Scalar, MIXED, 2.5),
)

_COMPARED = (aten.eq, aten.ne, aten.lt, aten.le, aten.gt, aten.ge)
_SMALL = integers("b", "s", low=-1, high=2)
_INT_FLOAT = (exactly(-1, 0, 1, dtype=torch.int64), exactly([-1.0], [0.0], [0.5], [1.0]))
COMPARISONS = (
    *(
        _call(label, op.Tensor, *pair)
        for op in _COMPARED
        for label, pair in (
            ("ints", (_SMALL, integers("b", "s", low=-1, high=2, dtype=torch.int32))),
            ("int and float", _INT_FLOAT),
            ("bools", _BOOLS),
        )
    ),
    *(_with("int", op.Scalar, _SMALL, 0) for op in _COMPARED),
    *(_with("int and fraction", op.Scalar, _SMALL, 0.5) for op in _COMPARED),
    *(_with("float and int", op.Scalar, exactly(-1.0, 0.0, 0.5, 1.0), 0) for op in _COMPARED),
    *(_with("bool", op.Scalar, booleans("b", "s"), 1) for op in _COMPARED),
    _with("infinity", aten.eq.Scalar, exactly(-math.inf, 0.0, math.inf), -math.inf),
)

LOGIC = (
    *(_call("bools", op, *_BOOLS) for op in (aten.logical_and.default, aten.logical_or.default)),
    *(_call("numbers", op, *_INT_FLOAT) for op in (aten.logical_and.default, aten.logical_or.default)),
    *(_call("ints", op, _SMALL, _SMALL) for op in (aten.logical_and.default, aten.logical_or.default)),
    *(
        _call(label, op.Tensor, *pair)
        for op in (aten.bitwise_and, aten.bitwise_or, aten.__and__, aten.__or__)
        for label, pair in (("bools", _BOOLS), ("ints", (MIXED, MIXED)), ("bool and int", _BOOL_INT))
    ),
)

CASTS = (
    *(
        _with(str(dtype), aten.to.dtype, floats("b", "s", low=-3.7, high=3.7), dtype)
        for dtype in (torch.int64, torch.int32, torch.bool, torch.float16, torch.float64, torch.float32)
    ),
    _with("from bool", aten.to.dtype, booleans("b", "s"), torch.float32),
    _with("", aten.to.device, MIXED, torch.device("cpu"), torch.float32),
    _with("", aten.to.dtype_layout, MIXED, dtype=torch.float32, layout=torch.strided),
    _call("", aten.to.other, MIXED, floats("b")),
    _with("", aten._to_copy.default, MIXED, dtype=torch.float32),
    _call("", aten.type_as.default, MIXED, floats("b")),
)

KEPT = (
    *(
        _call("", op.default, floats("b", "s"))
        for op in (aten.contiguous, aten.clone, aten.detach, aten.alias, aten.lift_fresh_copy)
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

IN_PLACE = Case(
    name="in place on a view",
    operators=(aten.add_.Tensor, aten.mul_.Tensor),
    module=_in_place_on_a_view,
    inputs=(floats("b", "s"),),
)

CASES = (IN_PLACE, *UNARY, *ARITHMETIC, *DIVISION, *COMPARISONS, *LOGIC, *CASTS, *KEPT, *ASSERTIONS, *SIZES)
