"""Converters that move, cut, join and create tensors."""

from __future__ import annotations

import functools
import operator
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import fx

from edgeq.errors import UnsupportedModelError
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


def _reversed_axes(t: Translator, node: fx.Node) -> ir.Value:
    order = list(reversed(range(tensor(node).dim())))
    return t.graph.op("Transpose", t.value(arguments(node)[0]), attributes={"perm": order})


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


def _slice_scatter(t: Translator, node: fx.Node) -> ir.Value:
    """A copy of a tensor with a stretch of one axis replaced: what `x[:, a:b] = y` and writing to views become."""
    whole, part = (t.value(x) for x in arguments(node)[:2])
    axis, start = int(option(node, 2, "dim", 0)), option(node, 3, "start", None) or 0
    end, step = option(node, 4, "end", None), option(node, 5, "step", 1)
    if step != 1:
        raise UnsupportedModelError(
            "The model writes to every n-th entry of an axis.", remedy="Report the architecture."
        )
    if start == 0 and end in (None, LAST):
        return part
    before = t.graph.op("Slice", whole, t.graph.int64(0), t.integer(start), t.graph.int64(axis))
    behind = t.graph.op(
        "Slice", whole, t.integer(LAST if end is None else end), t.graph.int64(LAST), t.graph.int64(axis)
    )
    return t.graph.op("Concat", before, part, behind, attributes={"axis": axis})


def _copy(t: Translator, node: fx.Node) -> ir.Value:
    """The second tensor in the shape and dtype of the first."""
    like, source = arguments(node)[:2]
    value = t.value(source, tensor(node).dtype)
    return t.graph.op("Expand", value, t.graph.op("Shape", t.value(like)))


def _select(t: Translator, node: fx.Node) -> ir.Value:
    axis, index = arguments(node)[1], arguments(node)[2]
    position = t.graph.op("Squeeze", t.integer(index))
    return t.graph.op("Gather", t.value(arguments(node)[0]), position, attributes={"axis": axis})


def _index(t: Translator, node: fx.Node) -> ir.Value:
    """`x[i]`, `x[:, i]`, `x[i, j]`, `x[:, i, :, j]`: axes taken by integer tensors."""
    indices: Any = arguments(node)[1]
    given = [axis for axis, index in enumerate(indices) if index is not None]
    if any(tensor(indices[axis]).dtype in (torch.bool, torch.uint8) for axis in given):
        raise UnsupportedModelError(
            "The model selects with a mask, so that the number of results depends on the values.",
            remedy="Report the architecture; multiplying by the mask or torch.where would export.",
        )
    if len(given) == 1:
        index = t.value(indices[given[0]])
        return t.graph.op("Gather", t.value(arguments(node)[0]), index, attributes={"axis": given[0]})
    return _index_many(t, node, given, [t.value(indices[axis], torch.int64) for axis in given])


def _index_many(t: Translator, node: fx.Node, given: list[int], tensors: list[ir.Value]) -> ir.Value:
    """The axes of the common index shape stand where the indexed ones stood side by side, else in front."""
    rest = [axis for axis in range(tensor(arguments(node)[0]).dim()) if axis not in given]
    value, start, rank = t.value(arguments(node)[0]), given[0], tensor(node).dim()
    if start > 0 or given[-1] != len(given) - 1:
        value = t.graph.op("Transpose", value, attributes={"perm": given + rest})
    common = t.graph.op("Shape", functools.reduce(lambda left, right: t.graph.op("Add", left, right), tensors))
    columns = [t.graph.op("Unsqueeze", t.graph.op("Expand", i, common), t.graph.int64(-1)) for i in tensors]
    taken = t.graph.op("GatherND", value, t.graph.op("Concat", *columns, attributes={"axis": -1}))
    if start == 0 or given != list(range(start, start + len(given))):
        return taken
    width = rank - len(rest)
    order = [*range(width, width + start), *range(width), *range(width + start, rank)]
    return t.graph.op("Transpose", taken, attributes={"perm": order})


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
    raised = [t.graph.op("Unsqueeze", t.value(part, tensor(node).dtype), t.graph.int64(axis)) for part in parts]
    return t.graph.op("Concat", *raised, attributes={"axis": axis})


def _split(t: Translator, node: fx.Node) -> tuple[ir.Value, ...]:
    """`split`, `split_with_sizes`, `chunk`: lengths are those of the results, or those asked for on a dynamic axis."""
    results: Any = node.meta["val"]
    axis, asked = int(option(node, 2, "dim", 0)), arguments(node)[1]
    lengths = [part.shape[axis] for part in results]
    value, count = t.value(arguments(node)[0]), len(results)
    if all(isinstance(length, int) for length in lengths):
        return t.graph.multi_op("Split", value, t.graph.int64(*lengths), outputs=count, attributes={"axis": axis})
    if node.target == aten.chunk.default:
        return t.graph.multi_op("Split", value, outputs=count, attributes={"axis": axis, "num_outputs": count})
    if not isinstance(asked, (list, tuple)):
        raise UnsupportedModelError(
            "The model splits an axis of dynamic length into parts of one size.", remedy="Report the architecture."
        )
    return t.graph.multi_op("Split", value, t.integers(asked), outputs=count, attributes={"axis": axis})


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


def _expand_as(t: Translator, node: fx.Node) -> ir.Value:
    value, like = map(t.value, arguments(node))
    return t.graph.op("Expand", value, t.graph.op("Shape", like))


def _repeat_interleave(t: Translator, node: fx.Node) -> ir.Value:
    """Every entry along an axis several times over; without an axis, along the flattened tensor."""
    source, repeats = arguments(node)[:2]
    value, shape, axis = t.value(source), list(tensor(source).shape), option(node, 2, "dim", None)
    if axis is None:
        value, shape, axis = t.graph.op("Reshape", value, t.graph.int64(-1)), [tensor(source).numel()], 0
    axis %= len(shape)
    raised = t.graph.op("Unsqueeze", value, t.graph.int64(axis + 1))
    tiled = t.graph.op("Expand", raised, t.graph.int64(*[1] * (axis + 1), repeats, *[1] * (len(shape) - axis - 1)))
    return t.reshape(tiled, [*shape[: axis + 1], repeats, *shape[axis + 1 :]], tensor(node).shape, ())


def _repeat(t: Translator, node: fx.Node) -> ir.Value:
    counts: Any = arguments(node)[1]
    value = t.value(arguments(node)[0])
    if node.target == aten.tile.default:  # which counts from the last axis, and may leave out the first ones
        counts = [1] * (tensor(arguments(node)[0]).dim() - len(counts)) + list(counts)
    missing = len(counts) - tensor(arguments(node)[0]).dim()
    if missing:
        value = t.graph.op("Unsqueeze", value, t.graph.int64(*range(missing)))
    return t.graph.op("Tile", value, t.integers(counts))


def _arange(t: Translator, node: fx.Node) -> ir.Value:
    dtype = tensor(node).dtype
    given = list(arguments(node))
    start, end, step = {1: [0, *given, 1], 2: [*given, 1], 3: given}[len(given)]
    return t.graph.op("Range", t.value(start, dtype), t.value(end, dtype), t.value(step, dtype))


def _full(number_at: int, sizes_at: int) -> Converter:
    def convert(t: Translator, node: fx.Node) -> ir.Value:
        number = t.value(arguments(node)[number_at], tensor(node).dtype)
        return t.graph.op("Expand", number, t.integers(arguments(node)[sizes_at]))

    return convert


def _constant(number: float, sizes_at: int) -> Converter:
    def convert(t: Translator, node: fx.Node) -> ir.Value:
        filling = t.graph.scalar(number, tensor(node).dtype)
        return t.graph.op("Expand", filling, t.integers(arguments(node)[sizes_at]))

    return convert


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
    source, axis = arguments(node)[:2]
    return t.graph.dimension(t.value(source), int(axis) % tensor(source).dim())


SHAPES: dict[Any, Converter] = {
    aten.view.default: _reshape,
    aten.reshape.default: _reshape,
    aten._unsafe_view.default: _reshape,
    aten.flatten.using_ints: _flatten,
    aten.unflatten.int: _flatten,
    aten.transpose.int: _transpose,
    aten.permute.default: _permute,
    aten.t.default: _reversed_axes,
    aten.numpy_T.default: _reversed_axes,
    aten.unsqueeze.default: _unsqueeze,
    aten.squeeze.dim: _squeeze,
    aten.squeeze.dims: _squeeze,
    aten.slice.Tensor: _slice,
    aten.slice_scatter.default: _slice_scatter,
    aten.copy.default: _copy,
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
    aten.expand_as.default: _expand_as,
    aten.repeat.default: _repeat,
    aten.tile.default: _repeat,
    aten.repeat_interleave.self_int: _repeat_interleave,
    aten.arange.default: _arange,
    aten.arange.start: _arange,
    aten.arange.start_step: _arange,
    aten.full.default: _full(1, 0),
    aten.empty.memory_format: _constant(0, 0),
    aten.zeros.default: _constant(0, 0),
    aten.ones.default: _constant(1, 0),
    aten.new_zeros.default: _constant(0, 1),
    aten.new_ones.default: _constant(1, 1),
    aten.new_full.default: _full(2, 1),
    aten.zeros_like.default: _full_like,
    aten.ones_like.default: _full_like,
    aten.full_like.default: _full_like,
    aten.tril.default: _triangle(0),
    aten.triu.default: _triangle(1),
    aten.scalar_tensor.default: _scalar_tensor,
    aten.sym_size.int: _size,
}
