"""Cases of operators that move, cut, join and create tensors."""

from __future__ import annotations

import operator
from typing import Any

import torch

from tests.lowering.converting import Case, Given, booleans, floats, integers

aten: Any = torch.ops.aten
X = floats("b", "s", 8)
CUBE = floats("b", "s", "t")
INDEX = integers("s", low=0, high=4)


def _case(name: str, op: Any, module: Any, *inputs: Given) -> Case:  # noqa: ANN401
    operators = op if isinstance(op, tuple) else (op,)
    return Case(name=name, operators=operators, module=module, inputs=inputs or (X,))


VIEWS = (
    _case("view heads", aten.view.default, lambda x: x.view(x.shape[0], x.shape[1], 4, 2)),
    _case("view flat", aten.view.default, lambda x: (x.view(-1), x.view(-1, 8), x.view(x.shape[0], -1))),
    _case("view with computed sizes", aten.view.default, lambda x: x.view(x.shape[0] * 2, x.shape[1], 2, 2)),
    _case("view moves axes", aten.view.default, lambda x: x.view(x.shape[1], x.shape[0], 8)),
    _case("view unchanged", aten.view.default, lambda x: x.view(x.shape) + 1),
    _case(
        "reshape",
        aten.reshape.default,
        lambda x: (x.transpose(1, 2).reshape(x.shape[0], -1), x.transpose(0, 1).reshape(-1, 2, 4)),
    ),
    _case(
        "reshape all dynamic",
        aten.reshape.default,
        lambda x: x.transpose(0, 2).reshape(x.shape[2], x.shape[1] * x.shape[0]),
        CUBE,
    ),
    _case("reshape a scalar", aten.reshape.default, lambda x: x.sum().reshape(1, 1) + x),
    _case("_unsafe_view", aten._unsafe_view.default, lambda x: aten._unsafe_view.default(x, [-1, 4])),
    _case(
        "flatten", aten.flatten.using_ints, lambda x: (x.flatten(), x.flatten(0, 1), x.flatten(1), x.flatten(-2, -1))
    ),
    _case("flatten all dynamic", aten.flatten.using_ints, lambda x: (x.flatten(0, 1), x.flatten(1), x.flatten()), CUBE),
    _case("unflatten", aten.unflatten.int, lambda x: (x.unflatten(-1, (4, 2)), x.unflatten(2, (-1, 4)))),
    _case(
        "unflatten in the middle",
        aten.unflatten.int,
        lambda x: x.transpose(1, 2).unflatten(1, (2, 4)),
        floats("b", "s", 8),
    ),
    _case("transpose", aten.transpose.int, lambda x: (x.transpose(1, 2), x.transpose(-1, 0))),
    _case("permute", aten.permute.default, lambda x: (x.permute(2, 0, 1), x.permute(0, -1, 1))),
    _case("t", aten.t.default, lambda x: x.t(), floats("b", "s")),
    _case("t of a vector", aten.t.default, lambda x: x.t() + 1, floats("s")),
    _case("T", aten.numpy_T.default, lambda x: x.T, floats("b", "s")),
    _case("unsqueeze", aten.unsqueeze.default, lambda x: (x.unsqueeze(0), x.unsqueeze(-1), x[:, None, :, None])),
    _case("squeeze", aten.squeeze.dim, lambda x: (x.squeeze(1), x.squeeze(-1), x.squeeze(0)), floats("b", 1, "s", 1)),
    _case("squeeze dims", aten.squeeze.dims, lambda x: (x.squeeze((1, 3)), x.squeeze((0, -1))), floats("b", 1, "s", 1)),
)

CUTS = (
    _case(
        "slice",
        aten.slice.Tensor,
        lambda x: (x[:, 1:3], x[..., 2:], x[:, :, :-3], x[:, -2:], x[..., ::2], x[..., -5:-1]),
    ),
    _case("slice past the end", aten.slice.Tensor, lambda x: (x[..., :100], x[..., -100:3])),
    _case(
        "slice by sizes",
        aten.slice.Tensor,
        lambda x, y: (x[:, : y.shape[0]], x[:, x.shape[1] - 2 :], x[:, -y.shape[0] :]),
        X,
        floats("b"),
    ),
    _case("select", aten.select.int, lambda x: (x[:, 0], x[:, -1], x[..., 3], x[:, x.shape[1] - 1])),
    _case("index rows", aten.index.Tensor, lambda x, i: x[i], floats(4, 8), integers("b", "s", low=-4, high=4)),
    _case("index an inner axis", aten.index.Tensor, lambda x, i: (x[:, i], x[:, :, i[:2]]), floats("b", 4, 8), INDEX),
    _case(
        "index two axes",
        aten.index.Tensor,
        lambda x, i, j: x[i, j],
        floats(4, 5, 8),
        integers("b", 1, low=0, high=4),
        integers("s", low=-5, high=5),
    ),
    _case(
        "index two inner axes",
        aten.index.Tensor,
        lambda x, i, j: x[:, i, j],
        floats("b", 4, 5, 3),
        integers(2, 1, low=0, high=4),
        integers("s", low=-5, high=5),
    ),
    _case("index two axes apart", aten.index.Tensor, lambda x, i: x[i, :, i], floats(4, "b", 4), INDEX),
    _case(
        "index batch and last token",
        aten.index.Tensor,
        lambda x, n: x[torch.arange(x.shape[0]), n],
        X,
        integers("b", low=0, high=4),
    ),
    _case(
        "index with int32",
        aten.index.Tensor,
        lambda x, i: x[i],
        floats(4, 8),
        integers("s", low=0, high=4, dtype=torch.int32),
    ),
    _case(
        "gather",
        aten.gather.default,
        lambda x, i: (x.gather(-1, i), x.gather(1, i)),
        floats("b", 4, 3),
        integers("b", 4, 3, low=0, high=3),
    ),
    _case(
        "gather fewer",
        aten.gather.default,
        lambda x, i: x.gather(1, i[:, :1].expand(-1, 1, 4)),
        floats("b", "s", 4),
        integers("b", "s", 1, low=0, high=5),
    ),
    _case(
        "index_select",
        aten.index_select.default,
        lambda x, i: (x.index_select(0, i), x.index_select(-1, i)),
        floats(4, 4),
        INDEX,
    ),
    _case("split", aten.split.Tensor, lambda x: (*x.split(3, -1), *x.split(4, dim=2))),
    _case("split by sizes", (aten.split_with_sizes.default,), lambda x: (*x.split([1, 5, 2], -1), *x.split([8], 2))),
    _case("split.sizes", aten.split.sizes, lambda x: aten.split.sizes(x, [3, 5], 2)),
    _case("split a dynamic axis", aten.split_with_sizes.default, lambda x: x.split([2, x.shape[1] - 2], 1)),
    _case("chunk", aten.chunk.default, lambda x: (*x.chunk(2, -1), *x.chunk(3, 2))),
    _case("chunk a dynamic axis", aten.chunk.default, lambda x: x.chunk(2, 1)),
    _case("unbind", (aten.unbind.int, operator.getitem), lambda x: (*x.unbind(-1)[:3], x.transpose(0, 2).unbind()[1])),
)


def _written_to(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
    whole, views, fresh = x * 1, x * 2, x.new_empty(x.shape[0], x.shape[1], 8)
    whole[:, 1:3] = 5
    whole[..., -2:] = y[:, :, None]
    whole[:, : y.shape[0], 0] += 1
    views[:, :2].mul_(3)
    fresh[..., :3], fresh[..., 3:] = x[..., 5:], x[..., :5]
    return whole, views, fresh


WRITES = (
    _case(
        "writing to parts",
        (aten.copy_.default,),
        _written_to,
        X,
        floats("b", "s"),
    ),
    _case(
        "slice_scatter",
        (aten.slice_scatter.default, aten.copy.default, aten.empty.memory_format),
        lambda x, y: (
            aten.slice_scatter.default(x, y, 2, 1, 3),
            aten.slice_scatter.default(x, y, -1, -2),
            aten.slice_scatter.default(x, x * 2, 1),
            aten.copy.default(x, y[..., :1]),
            torch.empty(x.shape[0], 2) * 0,
        ),
        X,
        floats("b", "s", 2),
    ),
)

JOINS = (
    _case(
        "cat",
        aten.cat.default,
        lambda x, y: (torch.cat([x, y], 1), torch.cat([x, x], -1), torch.cat([x])),
        floats("b", "s", 4),
        floats("b", "t", 4),
    ),
    _case("cat promotes", aten.cat.default, lambda x, y: torch.cat([x, y], -1), integers("b", "s"), floats("b", 2)),
    _case("cat skips the empty", aten.cat.default, lambda x: torch.cat([torch.zeros(0), x])),
    _case(
        "stack",
        aten.stack.default,
        lambda x, y: (torch.stack([x, y]), torch.stack([x, y], -1), torch.stack([x, y], 1)),
        floats("b", "s"),
        floats("b", "s"),
    ),
    _case(
        "stack promotes", aten.stack.default, lambda x, y: torch.stack([x, y], -1), integers("b", "s"), floats("b", "s")
    ),
    _case(
        "expand",
        aten.expand.default,
        lambda x, y: (x.expand(-1, 3, -1), x.expand(2, -1, y.shape[0], -1), x.expand(x.shape) + 1),
        floats("b", 1, 4),
        floats("s"),
    ),
    _case("expand a scalar", aten.expand.default, lambda x: x.sum().expand(3, 2)),
    _case("expand grows", aten.expand.default, lambda x: x[None].expand(4, *x.shape)),
    _case("expand_as", aten.expand_as.default, lambda x, y: x.expand_as(y), floats("s", 1), floats("b", "s", 4)),
    _case(
        "repeat_interleave",
        aten.repeat_interleave.self_int,
        lambda x: (x.repeat_interleave(2, -1), x.repeat_interleave(3, 0), x.repeat_interleave(2, dim=1)),
    ),
    _case("repeat_interleave flat", aten.repeat_interleave.self_int, lambda x: x.repeat_interleave(2)),
    _case(
        "repeat_interleave all dynamic",
        aten.repeat_interleave.self_int,
        lambda x: (x.repeat_interleave(2, 1), x.repeat_interleave(2, 2), x.repeat_interleave(2, 0)),
        CUBE,
    ),
    _case(
        "repeat", aten.repeat.default, lambda x: (x.repeat(1, 2, 3), x.repeat(2, 1, 1, 1), x.repeat(x.shape[1], 1, 1))
    ),
)

NEW = (
    _case(
        "arange",
        (aten.arange.default, aten.arange.start),
        lambda x: (
            torch.arange(x.shape[1]),
            torch.arange(2, x.shape[1]),
            torch.arange(x.shape[0], x.shape[0] + x.shape[1]),
            torch.arange(4, dtype=torch.float32),
            torch.arange(x.shape[1], dtype=torch.int32),
        ),
    ),
    _case(
        "arange with a step",
        aten.arange.start_step,
        lambda x: (
            torch.arange(0, 8, 2),
            torch.arange(8, 0, -3),
            torch.arange(0, x.shape[1], 2, dtype=torch.float32),
            torch.arange(0.0, 1.0, 0.25),
            aten.arange.start_step(1, 5),
        ),
    ),
    _case(
        "full",
        aten.full.default,
        lambda x: (
            torch.full((2, x.shape[1]), -1.5),
            torch.full((), 3),
            torch.full((3,), True),
            torch.full((2,), x.shape[1]),
        ),
    ),
    _case(
        "zeros and ones",
        (aten.zeros.default, aten.ones.default),
        lambda x: (
            torch.zeros(x.shape[0], 3),
            torch.zeros((), dtype=torch.int64),
            torch.ones(x.shape[1], dtype=torch.bool),
        ),
    ),
    _case(
        "new",
        (aten.new_zeros.default, aten.new_ones.default, aten.new_full.default),
        lambda x: (
            x.new_zeros(3, x.shape[1]),
            x.new_ones((x.shape[0],), dtype=torch.int64),
            x.new_full((2, 2), -7),
            x.new_full((x.shape[1],), 2.5),
        ),
    ),
    _case(
        "like",
        (aten.zeros_like.default, aten.ones_like.default, aten.full_like.default),
        lambda x: (
            torch.zeros_like(x),
            torch.ones_like(x, dtype=torch.bool),
            torch.full_like(x, -2.5),
            torch.full_like(x, 3, dtype=torch.int64),
        ),
    ),
    _case(
        "tril and triu",
        (aten.tril.default, aten.triu.default),
        lambda x: (
            x.tril(),
            x.tril(-1),
            x.triu(1),
            x.triu(diagonal=-2),
            torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril(),
        ),
    ),
    _case(
        "triangles of ints",
        (aten.tril.default, aten.triu.default),
        lambda x: (x.tril(), x.triu(1)),
        integers("b", "s", "s"),
    ),
    _case(
        "scalar_tensor",
        aten.scalar_tensor.default,
        lambda x: (
            aten.scalar_tensor.default(2.5),
            aten.scalar_tensor.default(3, dtype=torch.int64),
            aten.scalar_tensor.default(x.shape[1], dtype=torch.float32),
            aten.scalar_tensor.default(True, dtype=torch.bool),
        ),
    ),
    _case("sizes", aten.sym_size.int, lambda x: x + aten.sym_size.int(x, 1)),
    _case(
        "a causal mask",
        aten.bitwise_not.default,
        lambda x, m: x.masked_fill(
            ~(torch.arange(x.shape[1])[:, None] >= torch.arange(x.shape[1])[None])[None] | ~m[:, None], 0.0
        ),
        floats("b", "s", "s"),
        booleans("b", "s"),
    ),
)

CASES = (*VIEWS, *CUTS, *WRITES, *JOINS, *NEW)
