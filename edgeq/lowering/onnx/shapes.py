"""Converters that move, cut, join and create tensors."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import fx

from edgeq.lowering.onnx.translator import Converter, Translator, arguments, option, tensor

aten = torch.ops.aten
LAST = np.iinfo(np.int64).max


def _reshape(t: Translator, node: fx.Node) -> ir.Value:
    source = t.value(arguments(node)[0])
    after = tensor(node).shape
    flat = t.flat.get(source)
    if flat is not None and len(after) == 3 and flat.shape is not None and after[2] == flat.shape[2]:
        return flat
    sizes = option(node, 1, "size", ())
    return t.reshape(source, tensor(arguments(node)[0]).shape, after, sizes if isinstance(sizes, (list, tuple)) else ())


def _flatten(t: Translator, node: fx.Node) -> ir.Value:
    return t.reshape(t.value(arguments(node)[0]), tensor(arguments(node)[0]).shape, tensor(node).shape, ())


def _transpose(t: Translator, node: fx.Node) -> ir.Value:
    rank = tensor(node).dim()
    first, second = (int(axis) % rank for axis in arguments(node)[1:3])
    order = list(range(rank))
    order[first], order[second] = second, first
    return t.graph.op("Transpose", t.value(arguments(node)[0]), attributes={"perm": order})


def _permute(t: Translator, node: fx.Node) -> ir.Value:
    rank = tensor(node).dim()
    order = [int(axis) % rank for axis in arguments(node)[1]]
    return t.graph.op("Transpose", t.value(arguments(node)[0]), attributes={"perm": order})


def _t(t: Translator, node: fx.Node) -> ir.Value:
    return t.graph.op("Transpose", t.value(arguments(node)[0]), attributes={"perm": [1, 0]})


def _unsqueeze(t: Translator, node: fx.Node) -> ir.Value:
    return t.graph.op("Unsqueeze", t.value(arguments(node)[0]), t.graph.int64(int(arguments(node)[1])))


def _squeeze(t: Translator, node: fx.Node) -> ir.Value:
    axes = arguments(node)[1]
    listed = [axes] if isinstance(axes, int) else list(axes)
    shape = tensor(arguments(node)[0]).shape
    ones = [int(axis) for axis in listed if isinstance(shape[axis], int) and shape[axis] == 1]
    return (
        t.graph.op("Squeeze", t.value(arguments(node)[0]), t.graph.int64(*ones))
        if ones
        else t.value(arguments(node)[0])
    )


def _slice(t: Translator, node: fx.Node) -> ir.Value:
    axis = option(node, 1, "dim", 0)
    start = option(node, 2, "start", None) or 0
    end = option(node, 3, "end", None)
    step = option(node, 4, "step", 1)
    end = LAST if end is None else end
    if start == 0 and end == LAST and step == 1:
        return t.value(arguments(node)[0])
    return t.graph.op(
        "Slice", t.value(arguments(node)[0]), t.integer(start), t.integer(end), t.graph.int64(axis), t.graph.int64(step)
    )


def _select(t: Translator, node: fx.Node) -> ir.Value:
    axis, index = arguments(node)[1], arguments(node)[2]
    position = t.graph.op("Squeeze", t.integer(index))
    return t.graph.op("Gather", t.value(arguments(node)[0]), position, attributes={"axis": axis})


def _index(t: Translator, node: fx.Node) -> ir.Value:
    """`x[i]`, `x[:, i]` with one index tensor, or `x[i, j, ...]` with several from the first axis on."""
    indices: Any = arguments(node)[1]
    given = [axis for axis, index in enumerate(indices) if index is not None]
    value = t.value(arguments(node)[0])
    if len(given) == 1:
        index = t.value(indices[given[0]])
        return t.graph.op("Gather", value, index, attributes={"axis": given[0]})
    tensors = [t.value(indices[axis], torch.int64) for axis in given]
    shape = tensors[0]
    for other in tensors[1:]:
        shape = t.graph.op("Add", shape, other)
    target = t.graph.op("Shape", shape)
    columns = [t.graph.op("Unsqueeze", t.graph.op("Expand", i, target), t.graph.int64(-1)) for i in tensors]
    return t.graph.op("GatherND", value, t.graph.op("Concat", *columns, attributes={"axis": -1}))


def _gather(t: Translator, node: fx.Node) -> ir.Value:
    axis: Any = arguments(node)[1]
    return t.graph.op(
        "GatherElements", t.value(arguments(node)[0]), t.value(arguments(node)[2]), attributes={"axis": axis}
    )


def _index_select(t: Translator, node: fx.Node) -> ir.Value:
    axis: Any = arguments(node)[1]
    return t.graph.op("Gather", t.value(arguments(node)[0]), t.value(arguments(node)[2]), attributes={"axis": axis})


def _concatenate(t: Translator, node: fx.Node) -> ir.Value:
    parts: Any = arguments(node)[0]
    dtype = tensor(node).dtype
    axis = option(node, 1, "dim", 0)
    kept = [part for part in parts if not (tensor(part).dim() == 1 and tensor(part).shape[0] == 0)]
    return t.graph.op("Concat", *(t.value(part, dtype) for part in kept), attributes={"axis": axis})


def _stack(t: Translator, node: fx.Node) -> ir.Value:
    parts: Any = arguments(node)[0]
    axis = int(option(node, 1, "dim", 0)) % tensor(node).dim()
    raised = [t.graph.op("Unsqueeze", t.value(part), t.graph.int64(axis)) for part in parts]
    return t.graph.op("Concat", *raised, attributes={"axis": axis})


def _split(t: Translator, node: fx.Node) -> tuple[ir.Value, ...]:
    """`split`, `split_with_sizes`, `chunk`: the lengths are those of the results."""
    results: Any = node.meta["val"]
    axis = int(option(node, 2, "dim", 0))
    lengths = [int(part.shape[axis]) for part in results]
    return t.graph.multi_op(
        "Split", t.value(arguments(node)[0]), t.graph.int64(*lengths), outputs=len(lengths), attributes={"axis": axis}
    )


def _unbind(t: Translator, node: fx.Node) -> tuple[ir.Value, ...]:
    results: Any = node.meta["val"]
    axis = int(option(node, 1, "dim", 0))
    positions = range(len(results))
    return tuple(
        t.graph.op("Gather", t.value(arguments(node)[0]), t.value(i, torch.int64), attributes={"axis": axis})
        for i in positions
    )


def _getitem(t: Translator, node: fx.Node) -> ir.Value:
    source: Any = arguments(node)[0]
    values = t.values[source]
    assert isinstance(values, tuple)  # noqa: S101 - getitem reads what a multi-output converter returned
    index: int = arguments(node)[1]
    return values[index]


def _expand(t: Translator, node: fx.Node) -> ir.Value:
    sizes: Any = arguments(node)[1]
    before = tensor(arguments(node)[0]).shape
    offset = len(sizes) - len(before)
    explicit = []
    for axis, size in enumerate(sizes):
        unchanged = axis >= offset and not (isinstance(before[axis - offset], int) and before[axis - offset] == 1)
        explicit.append(1 if size == -1 or unchanged else size)
    if all(size == 1 for size in explicit) and offset == 0:
        return t.value(arguments(node)[0])
    return t.graph.op("Expand", t.value(arguments(node)[0]), t.integers(explicit))


def _repeat(t: Translator, node: fx.Node) -> ir.Value:
    counts: Any = arguments(node)[1]
    value = t.value(arguments(node)[0])
    missing = len(counts) - tensor(arguments(node)[0]).dim()
    if missing:
        value = t.graph.op("Unsqueeze", value, t.graph.int64(*range(missing)))
    return t.graph.op("Tile", value, t.integers(counts))


def _arange(t: Translator, node: fx.Node) -> ir.Value:
    dtype = tensor(node).dtype
    given = list(arguments(node))
    start, end, step = {1: [0, *given, 1], 2: [*given, 1], 3: given}[len(given)]
    return t.graph.op("Range", t.value(start, dtype), t.value(end, dtype), t.value(step, dtype))


def _filled(t: Translator, sizes: Any, number: float | bool, dtype: torch.dtype) -> ir.Value:  # noqa: ANN401
    return t.graph.op("Expand", t.graph.scalar(number, dtype), t.integers(sizes))


def _full(t: Translator, node: fx.Node) -> ir.Value:
    number: Any = arguments(node)[1]
    return _filled(t, arguments(node)[0], number, tensor(node).dtype)


def _new_full(number: float, sizes_at: int) -> Converter:
    def convert(t: Translator, node: fx.Node) -> ir.Value:
        return _filled(t, arguments(node)[sizes_at], number, tensor(node).dtype)

    return convert


def _new_full_value(t: Translator, node: fx.Node) -> ir.Value:
    number: Any = arguments(node)[2]
    return _filled(t, arguments(node)[1], number, tensor(node).dtype)


def _full_like(t: Translator, node: fx.Node) -> ir.Value:
    defaults: dict[Any, int] = {aten.zeros_like.default: 0, aten.ones_like.default: 1}
    number: Any = defaults.get(node.target, arguments(node)[1] if len(arguments(node)) > 1 else 0)
    shape = t.graph.op("Shape", t.value(arguments(node)[0]))
    return t.graph.op("Expand", t.graph.scalar(number, tensor(node).dtype), shape)


def _triangle(upper: int) -> Converter:
    def convert(t: Translator, node: fx.Node) -> ir.Value:
        diagonal = t.value(int(option(node, 1, "diagonal", 0)), torch.int64)
        return t.graph.op("Trilu", t.value(arguments(node)[0]), diagonal, attributes={"upper": upper})

    return convert


def _scalar_tensor(t: Translator, node: fx.Node) -> ir.Value:
    return t.value(arguments(node)[0], tensor(node).dtype)


def _size(t: Translator, node: fx.Node) -> ir.Value:
    axis: Any = arguments(node)[1]
    return t.graph.dimension(t.value(arguments(node)[0]), axis)


SHAPES: dict[Any, Converter] = {
    aten.view.default: _reshape,
    aten.reshape.default: _reshape,
    aten._unsafe_view.default: _reshape,
    aten.flatten.using_ints: _flatten,
    aten.unflatten.int: _flatten,
    aten.transpose.int: _transpose,
    aten.permute.default: _permute,
    aten.t.default: _t,
    aten.numpy_T.default: _t,
    aten.unsqueeze.default: _unsqueeze,
    aten.squeeze.dim: _squeeze,
    aten.squeeze.dims: _squeeze,
    aten.slice.Tensor: _slice,
    aten.select.int: _select,
    aten.index.Tensor: _index,
    aten.gather.default: _gather,
    aten.index_select.default: _index_select,
    aten.cat.default: _concatenate,
    aten.stack.default: _stack,
    aten.split.Tensor: _split,
    aten.split.sizes: _split,
    aten.split_with_sizes.default: _split,
    aten.chunk.default: _split,
    aten.unbind.int: _unbind,
    operator.getitem: _getitem,
    aten.expand.default: _expand,
    aten.repeat.default: _repeat,
    aten.arange.default: _arange,
    aten.arange.start: _arange,
    aten.arange.start_step: _arange,
    aten.full.default: _full,
    aten.zeros.default: _new_full(0, 0),
    aten.ones.default: _new_full(1, 0),
    aten.new_zeros.default: _new_full(0, 1),
    aten.new_ones.default: _new_full(1, 1),
    aten.new_full.default: _new_full_value,
    aten.zeros_like.default: _full_like,
    aten.ones_like.default: _full_like,
    aten.full_like.default: _full_like,
    aten.tril.default: _triangle(0),
    aten.triu.default: _triangle(1),
    aten.scalar_tensor.default: _scalar_tensor,
    aten.sym_size.int: _size,
}
