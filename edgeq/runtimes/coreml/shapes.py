"""Operations that move elements, count them, or make tensors out of numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from edgeq.runtimes.coreml.operator import Operator, on

Tensor = torch.Tensor


def _reshape(x: Tensor, *, shape: Sequence[int]) -> Tensor:
    """A 0 keeps the axis that is as far from the last, or is 1 where there is none."""
    sizes = list(shape)
    missing = len(sizes) - x.dim()
    for index, size in enumerate(sizes):
        if size == 0:
            sizes[index] = x.shape[index - missing] if index >= missing else 1
    return x.reshape(sizes)


def _transpose(x: Tensor, *, perm: Sequence[int]) -> Tensor:
    return x.permute(*perm)


def _expand_dims(x: Tensor, *, axes: Sequence[int]) -> Tensor:
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _squeeze(x: Tensor, *, axes: Sequence[int] | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


def _flatten_2d(x: Tensor, *, axis: int) -> Tensor:
    rows = 1
    for size in x.shape[:axis]:
        rows *= size
    return x.reshape(rows, -1)


def _concat(values: list[Tensor], *, axis: int, interleave: bool = False) -> Tensor:
    if not interleave:
        return torch.cat([value if value.dim() else value[None] for value in values], axis)
    place = axis % values[0].dim()
    return torch.stack(values, place + 1).flatten(place, place + 1)


def _stack(values: list[Tensor], *, axis: int) -> Tensor:
    return torch.stack(values, axis)


def _split(
    x: Tensor, *, axis: int, num_splits: int | None = None, split_sizes: Sequence[int] | None = None
) -> tuple[Tensor, ...]:
    if split_sizes is not None:
        return torch.split(x, list(split_sizes), axis)
    if num_splits is None:
        msg = "split names neither a number nor sizes"
        raise ValueError(msg)
    return torch.split(x, x.shape[axis] // num_splits, axis)


def _tile(x: Tensor, *, reps: Sequence[int]) -> Tensor:
    return x.repeat(*reps)


def _reverse(x: Tensor, *, axes: Sequence[int] | None = None) -> Tensor:
    return x.flip(list(range(x.dim())) if axes is None else list(axes))


def _pad(x: Tensor, *, pad: Sequence[int], mode: str, constant_val: float = 0.0) -> Tensor:
    """`pad` holds before and after for each of the last axes, in the order of the axes."""
    pairs = list(zip(pad[::2], pad[1::2], strict=True))
    if mode == "constant":
        return functional.pad(x, [amount for pair in reversed(pairs) for amount in pair], value=constant_val)
    for axis, (before, after) in enumerate(pairs, start=x.dim() - len(pairs)):
        x = x.index_select(axis, _outside(x.shape[axis], before, after, mode))
    return x


def _outside(size: int, before: int, after: int, mode: str) -> Tensor:
    index = torch.arange(-before, size + after)
    if mode == "replicate":
        return index.clamp(0, size - 1)
    if mode != "reflect":
        msg = f"pad has no mode {mode!r} here"
        raise ValueError(msg)
    mirrored = index.abs()
    return torch.where(mirrored >= size, 2 * (size - 1) - mirrored, mirrored)


def _shape(x: Tensor) -> Tensor:
    return torch.tensor(x.shape, dtype=torch.int32)


def _fill(*, shape: Sequence[int], value: float) -> Tensor:
    return torch.full(tuple(shape), value)


def _fill_like(ref_tensor: Tensor, *, value: float) -> Tensor:
    return torch.full(ref_tensor.shape, value)


def _range_1d(*, start: float, end: float, step: float) -> Tensor:
    return torch.arange(start, end, step)


def _band_part(x: Tensor, *, lower: int, upper: int) -> Tensor:
    row = torch.arange(x.shape[-2])[:, None]
    column = torch.arange(x.shape[-1])[None]
    inside = torch.ones(x.shape[-2:], dtype=torch.bool)
    if lower >= 0:
        inside &= row - column <= lower
    if upper >= 0:
        inside &= column - row <= upper
    return torch.where(inside, x, torch.zeros_like(x))


def _one_hot(indices: Tensor, *, one_hot_vector_size: int, axis: int, on_value: float, off_value: float) -> Tensor:
    chosen = indices.unsqueeze(-1) == torch.arange(one_hot_vector_size)
    return torch.where(chosen, on_value, off_value).movedim(-1, axis)


SHAPES: dict[str, Operator] = {
    "band_part": on("x", _band_part),
    "concat": on("values", _concat),
    "expand_dims": on("x", _expand_dims),
    "fill": on("", _fill),
    "fill_like": on("ref_tensor", _fill_like),
    "flatten2d": on("x", _flatten_2d),
    "one_hot": on("indices", _one_hot),
    "pad": on("x", _pad),
    "range_1d": on("", _range_1d),
    "reshape": on("x", _reshape),
    "reverse": on("x", _reverse),
    "shape": on("x", _shape),
    "split": on("x", _split),
    "squeeze": on("x", _squeeze),
    "stack": on("values", _stack),
    "tile": on("x", _tile),
    "transpose": on("x", _transpose),
}
