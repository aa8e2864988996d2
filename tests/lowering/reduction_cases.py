"""Cases of reductions, norms, running sums, clamps and selections by a condition."""

from __future__ import annotations

import math
from typing import Any

import torch

from tests.lowering.converting import Case, Given, booleans, exactly, floats, integers

aten: Any = torch.ops.aten
X = floats("b", "s", 4)
INTS = integers("b", "s", 4)
BOOLS = booleans("b", "s", 4)
FRACTIONS = exactly([0.0, 0.0, 0.0], [0.0, 0.3, 0.0], [0.5, -0.5, 1.0])


def _on(op: Any, given: Given, *numbers: Any, **options: Any) -> Case:  # noqa: ANN401
    kind = str(given.dtype).removeprefix("torch.")
    name = f"{op} {kind}{given.shape} {numbers or ''}{options or ''}"
    return Case(name=name, operators=(op,), module=lambda x: op(x, *numbers, **options), inputs=(given,))


REDUCTIONS = (
    _on(aten.mean.dim, X, [-1], True),
    _on(aten.mean.dim, X, [1]),
    _on(aten.mean.dim, X, [0, 2]),
    _on(aten.mean.dim, X, None),
    _on(aten.mean.dim, INTS, [1], dtype=torch.float32),
    _on(aten.sum.dim_IntList, X, [-2], True),
    _on(aten.sum.dim_IntList, X, None),
    _on(aten.sum.dim_IntList, BOOLS, [1]),
    _on(aten.sum.dim_IntList, integers("b", "s", dtype=torch.int32), [1]),
    _on(aten.sum.default, X),
    _on(aten.sum.default, BOOLS),
    *(_on(op.default, X, [-1]) for op in (aten.amax, aten.amin)),
    *(_on(op.default, X, [], True) for op in (aten.amax, aten.amin)),
    *(_on(op.default, given, [1, 2], True) for op in (aten.amax, aten.amin) for given in (INTS, BOOLS)),
    *(_on(op.dim, given, -1) for op in (aten.any, aten.all) for given in (BOOLS, FRACTIONS)),
    *(_on(op.dim, BOOLS, 1, True) for op in (aten.any, aten.all)),
    *(_on(op.default, given) for op in (aten.any, aten.all) for given in (BOOLS, FRACTIONS, exactly(1.0, 0.5))),
    *(_on(op.default, X, -1) for op in (aten.argmax, aten.argmin)),
    *(_on(op.default, INTS, 1, True) for op in (aten.argmax, aten.argmin)),
    *(_on(op.default, X) for op in (aten.argmax, aten.argmin)),
    *(_on(op.default, X, None, True) for op in (aten.argmax, aten.argmin)),
    *(_on(op.default, exactly([1.0, 3.0, 3.0, 1.0]), 1) for op in (aten.argmax, aten.argmin)),
    *(_on(op.dim, X, -1) for op in (aten.max, aten.min)),
    *(_on(op.dim, INTS, 0, True) for op in (aten.max, aten.min)),
    _on(aten.linalg_vector_norm.default, X),
    *(_on(aten.linalg_vector_norm.default, X, order, [-1], True) for order in (2, 1, 0, 3, 0.5, math.inf, -math.inf)),
    _on(aten.linalg_vector_norm.default, X, 2, [0, 1]),
    _on(aten.norm.ScalarOpt_dim, X, 2, [-1]),
    _on(aten.norm.ScalarOpt_dim, X, None, [1], True),
    _on(aten.cumsum.default, X, -1),
    _on(aten.cumsum.default, INTS, 1),
    _on(aten.cumsum.default, BOOLS, 1),
    _on(aten.cumsum.default, BOOLS, -2, dtype=torch.int32),
)

CLAMPS = (
    _on(aten.clamp.default, X, -0.5, 0.5),
    _on(aten.clamp.default, X, 0.25),
    _on(aten.clamp.default, X, None, 0.25),
    _on(aten.clamp.default, X, 1.0, -1.0),
    _on(aten.clamp.default, INTS, -2, 3),
    _on(aten.clamp.default, INTS, 0.5),
    _on(aten.clamp_min.default, X, 0),
    _on(aten.clamp_min.default, INTS, 1),
    _on(aten.clamp_max.default, X, 0.5),
    _on(aten.clamp_max.default, INTS, 0.5),
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
