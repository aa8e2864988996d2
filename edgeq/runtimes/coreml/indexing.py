"""Slices, gathers and scatters. An index below zero or beyond the axis is refused: Core ML leaves it undefined."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from edgeq.runtimes.coreml.operator import Operator, on

Tensor = torch.Tensor
Mask = Sequence[bool] | None
REDUCTIONS = {"add": "sum", "sub": "sum", "mul": "prod", "div": "prod", "max": "amax", "min": "amin"}


def slices(
    shape: Sequence[int],
    begin: Sequence[int],
    end: Sequence[int],
    stride: Sequence[int] | None,
    masks: tuple[Mask, Mask, Mask],
) -> tuple[int | slice, ...]:
    """What MIL's `begin`, `end`, `stride` and the masks of begin, end and squeezed axes select, per axis."""
    begin_mask, end_mask, squeeze_mask = (mask or [False] * len(shape) for mask in masks)
    found: list[int | slice] = []
    for axis in range(len(shape)):
        first = None if begin_mask[axis] else begin[axis]
        if squeeze_mask[axis]:
            found.append(first or 0)
        else:
            found.append(slice(first, None if end_mask[axis] else end[axis], stride[axis] if stride else 1))
    return tuple(found)


def _slice_by_index(
    x: Tensor,
    *,
    begin: Sequence[int],
    end: Sequence[int],
    stride: Sequence[int] | None = None,
    begin_mask: Mask = None,
    end_mask: Mask = None,
    squeeze_mask: Mask = None,
) -> Tensor:
    index = slices(x.shape, begin, end, stride, (begin_mask, end_mask, squeeze_mask))
    forwards: list[int | slice] = []
    for axis, item in enumerate(index):
        if isinstance(item, slice) and item.step is not None and item.step < 0:  # torch has no negative steps
            x = x.index_select(axis, torch.tensor(range(*item.indices(x.shape[axis])), dtype=torch.long))
            forwards.append(slice(None))
        else:
            forwards.append(item)
    return x[tuple(forwards)]


def _slice_update(
    x: Tensor,
    update: Tensor,
    *,
    begin: Sequence[int],
    end: Sequence[int],
    stride: Sequence[int] | None = None,
    begin_mask: Mask = None,
    end_mask: Mask = None,
    squeeze_mask: Mask = None,
) -> Tensor:
    updated = x.clone()
    place = updated[slices(x.shape, begin, end, stride, (begin_mask, end_mask, squeeze_mask))]
    place.copy_(update.reshape(place.shape))
    return updated


def _slice_by_size(x: Tensor, *, begin: Sequence[int], size: Sequence[int]) -> Tensor:
    """A size of -1 reaches to the end."""
    for axis, (first, count) in enumerate(zip(begin, size, strict=True)):
        start = first + x.shape[axis] if first < 0 else first
        x = x.narrow(axis, start, x.shape[axis] - start if count == -1 else count)
    return x


def _gather(x: Tensor, indices: Tensor, *, axis: int, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    place = axis % x.dim()
    if not batch_dims:
        picked = x.index_select(place, indices.reshape(-1).int())
        return picked.reshape((*x.shape[:place], *indices.shape, *x.shape[place + 1 :]))
    rows = zip(x.flatten(0, batch_dims - 1), indices.flatten(0, batch_dims - 1), strict=True)
    picked = torch.stack([_gather(row, index, axis=place - batch_dims) for row, index in rows])
    return picked.reshape(*x.shape[:batch_dims], *picked.shape[1:])


def _gather_along_axis(x: Tensor, indices: Tensor, *, axis: int, validate_indices: bool = False) -> Tensor:
    return torch.gather(x, axis, indices.long())


def _gather_nd(x: Tensor, indices: Tensor, *, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    if batch_dims:
        rows = zip(x.flatten(0, batch_dims - 1), indices.flatten(0, batch_dims - 1), strict=True)
        picked = torch.stack([_gather_nd(row, index) for row, index in rows])
        return picked.reshape(*x.shape[:batch_dims], *picked.shape[1:])
    depth = indices.shape[-1]
    flat = x.reshape(-1, *x.shape[depth:]).index_select(0, _linear_index(indices, x.shape[:depth]).reshape(-1))
    return flat.reshape((*indices.shape[:-1], *x.shape[depth:]))


def _linear_index(indices: Tensor, shape: Sequence[int]) -> Tensor:
    """The last axis of `indices` are coordinates in `shape`: their place in row-major order."""
    sizes = torch.tensor(shape)
    if bool(((indices < 0) | (indices >= sizes)).any()):
        msg = f"an index lies outside {tuple(shape)}"
        raise IndexError(msg)
    strides = torch.tensor([math.prod(shape[axis + 1 :]) for axis in range(len(shape))])
    return (indices.long() * strides).sum(-1)


def _scatter_along_axis(
    data: Tensor, indices: Tensor, updates: Tensor, *, axis: int, mode: str, validate_indices: bool = False
) -> Tensor:
    index = indices.long()
    if mode == "update":
        return data.scatter(axis, index, updates)
    if mode == "sub":
        updates = -updates
    if mode == "div":
        updates = updates.reciprocal()
    return data.scatter_reduce(axis, index, updates, REDUCTIONS[mode], include_self=True)


def _scatter(
    data: Tensor, indices: Tensor, updates: Tensor, *, axis: int, mode: str, validate_indices: bool = False
) -> Tensor:
    place = axis % data.dim()
    column = indices.reshape(*[1] * place, -1, *[1] * (data.dim() - place - 1))
    return _scatter_along_axis(data, column.expand(updates.shape), updates, axis=place, mode=mode)


def _scatter_nd(data: Tensor, indices: Tensor, updates: Tensor, *, mode: str, validate_indices: bool = False) -> Tensor:
    depth = indices.shape[-1]
    rows = _linear_index(indices, data.shape[:depth]).reshape(-1)
    flat = data.reshape(math.prod(data.shape[:depth]), -1)
    return _scatter(flat, rows, updates.reshape(len(rows), -1), axis=0, mode=mode).reshape(data.shape)


INDEXING: dict[str, Operator] = {
    "gather": on("x indices", _gather),
    "gather_along_axis": on("x indices", _gather_along_axis),
    "gather_nd": on("x indices", _gather_nd),
    "scatter": on("data indices updates", _scatter),
    "scatter_along_axis": on("data indices updates", _scatter_along_axis),
    "scatter_nd": on("data indices updates", _scatter_nd),
    "slice_by_index": on("x", _slice_by_index),
    "slice_by_size": on("x", _slice_by_size),
    "slice_update": on("x update", _slice_update),
}
