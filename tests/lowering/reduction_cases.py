"""Cases of reductions, norms, running sums, clamps and selections by a condition."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from tests.lowering.converting import Case, Given, booleans, exactly, floats, integers

aten: Any = torch.ops.aten
X = floats("b", "s", 4)
INTS = integers("b", "s", 4)
BOOLS = booleans("b", "s", 4)
FRACTIONS = exactly([0.0, 0.0, 0.0], [0.0, 0.3, 0.0], [0.5, -0.5, 1.0])


AXES: tuple[tuple[Any, ...], ...] = (([-1],), ([], True), ([1, 0], True))
POSITIONS: tuple[tuple[Any, ...], ...] = ((-1,), (1, True), (), (None, True))
ORDERS = (2, 1, 0, 3, 0.5, math.inf, -math.inf)
Call = tuple[Any, Callable[[torch.Tensor], Any]]


def _call(op: Any, *numbers: Any, **options: Any) -> Call:  # noqa: ANN401
    """An operator on the input and then numbers."""
    return op, lambda x: op(x, *numbers, **options)


def _on(name: str, given: Given, *calls: Call) -> Case:
    """Several calls with the same input, in one graph."""

    def module(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        results = [function(x) for _, function in calls]
        return tuple(part for result in results for part in (result if isinstance(result, tuple) else (result,)))

    return Case(name=name, operators=tuple(op for op, _ in calls), module=module, inputs=(given,))


REDUCTIONS = (
    _on(
        "means",
        X,
        _call(aten.mean.dim, [-1], True),
        _call(aten.mean.dim, [1]),
        _call(aten.mean.dim, [0, 2]),
        _call(aten.mean.dim, None),
    ),
    _on("means of ints", INTS, _call(aten.mean.dim, [1], dtype=torch.float32)),
    _on(
        "sums",
        X,
        _call(aten.sum.dim_IntList, [-2], True),
        _call(aten.sum.dim_IntList, None),
        _call(aten.sum.default),
    ),
    _on("sums of bools", BOOLS, _call(aten.sum.dim_IntList, [1]), _call(aten.sum.default)),
    _on("sums of int32", integers("b", "s", dtype=torch.int32), _call(aten.sum.dim_IntList, [1])),
    *(
        _on(
            f"least and greatest of {label}",
            given,
            *(_call(op.default, *axes) for op in (aten.amax, aten.amin) for axes in AXES),
        )
        for label, given in (("floats", X), ("ints", INTS), ("bools", BOOLS))
    ),
    *(
        _on(
            f"any and all of {label}",
            given,
            *(_call(op.dim, *axis) for op in (aten.any, aten.all) for axis in ((-1,), (0, True))),
            *(_call(op.default) for op in (aten.any, aten.all)),
        )
        for label, given in (("bools", BOOLS), ("some fractions", FRACTIONS), ("fractions", exactly([0.5, 0.3])))
    ),
    *(
        _on(
            f"positions of extremes of {label}",
            given,
            *(_call(op.default, *axis) for op in (aten.argmax, aten.argmin) for axis in POSITIONS),
            *(_call(op.dim, *axis) for op in (aten.max, aten.min) for axis in ((-1,), (0, True))),
        )
        for label, given in (("floats", X), ("ints", INTS), ("ties", exactly([1.0, 3.0, 3.0, 1.0])))
    ),
    _on(
        "norms",
        X,
        *(_call(aten.linalg_vector_norm.default, order, [-1], True) for order in ORDERS),
        _call(aten.linalg_vector_norm.default),
        _call(aten.linalg_vector_norm.default, 2, [0, 1]),
        _call(aten.norm.ScalarOpt_dim, 2, [-1]),
        _call(aten.norm.ScalarOpt_dim, None, [1], True),
    ),
    _on(
        "the largest and smallest",
        X,
        _call(aten.topk.default, 2),
        _call(aten.topk.default, 1, 0),
        _call(aten.topk.default, 3, -1, False),
    ),
    _on("the largest of ints", exactly([3, 1, 2], [-1, 5, 0]), _call(aten.topk.default, 2, 1)),
    _on("running sums", X, _call(aten.cumsum.default, -1), _call(aten.cumsum.default, 0)),
    _on("running sums of ints", INTS, _call(aten.cumsum.default, 1)),
    _on(
        "running sums of bools", BOOLS, _call(aten.cumsum.default, 1), _call(aten.cumsum.default, -2, dtype=torch.int32)
    ),
)

CLAMPS = (
    _on(
        "clamps",
        X,
        _call(aten.clamp.default, -0.5, 0.5),
        _call(aten.clamp.default, 0.25),
        _call(aten.clamp.default, None, 0.25),
        _call(aten.clamp.default, 1.0, -1.0),
        _call(aten.clamp_min.default, 0),
        _call(aten.clamp_max.default, 0.5),
    ),
    _on(
        "clamps of ints",
        INTS,
        _call(aten.clamp.default, -2, 3),
        _call(aten.clamp.default, 0.5),
        _call(aten.clamp_min.default, 1),
        _call(aten.clamp_max.default, 0.5),
    ),
    Case(
        name="clamp.Tensor",
        operators=(aten.clamp.Tensor,),
        module=aten.clamp.Tensor,
        inputs=(X, floats(4, high=0), floats("s", 4, low=0)),
    ),
    Case(
        name="clamp.Tensor max only",
        operators=(aten.clamp.Tensor,),
        module=lambda x, hi: aten.clamp.Tensor(x, None, hi),
        inputs=(INTS, floats("s", 4)),
    ),
)

SELECTIONS = (
    Case(name="where", operators=(aten.where.self,), module=torch.where, inputs=(BOOLS, X, floats("s", 1))),
    Case(name="where promotes", operators=(aten.where.self,), module=torch.where, inputs=(BOOLS, INTS, X)),
    Case(
        name="where with a number",
        operators=(aten.where.ScalarOther, aten.where.ScalarSelf),
        module=lambda c, x: (torch.where(c, x, -math.inf), torch.where(c, 2, x), aten.where.ScalarSelf(c, 1, x)),
        inputs=(BOOLS, X),
    ),
    Case(
        name="where with ints and a fraction",
        operators=(aten.where.ScalarOther,),
        module=lambda c, x: (torch.where(c, x, 0), torch.where(c, x, 0.5)),
        inputs=(BOOLS, INTS),
    ),
    Case(
        name="where of numbers",
        operators=(aten.where.Scalar,),
        module=lambda c: (torch.where(c, 1, 0), torch.where(c, 0.0, torch.finfo(torch.float32).min)),
        inputs=(BOOLS,),
    ),
    Case(
        name="masked_fill",
        operators=(aten.masked_fill.Scalar,),
        module=lambda x, m: (x.masked_fill(m, -math.inf), x.masked_fill(m[:, :1], 1)),
        inputs=(X, BOOLS),
    ),
    Case(
        name="masked_fill ints",
        operators=(aten.masked_fill.Scalar,),
        module=lambda x, m: x.masked_fill(m, -100),
        inputs=(INTS, BOOLS),
    ),
    Case(
        name="masked_fill with a tensor",
        operators=(aten.masked_fill.Tensor,),
        module=lambda x, m: x.masked_fill(m, x.sum()),
        inputs=(X, BOOLS),
    ),
)

CASES = (*REDUCTIONS, *CLAMPS, *SELECTIONS)
