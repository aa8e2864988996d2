"""Weights that are stored compressed: blocks with scales and offsets, lookup tables, and plain casts."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from edgeq.runtimes.coreml.operator import Operator, on

Tensor = torch.Tensor


def _spread(values: Tensor, shape: Sequence[int]) -> Tensor:
    """Repeat each of `values` over the block of `shape` that it stands for, axis by axis."""
    for axis, size in enumerate(shape):
        values = values.repeat_interleave(size // values.shape[axis], axis)
    return values


def _blockwise(data: Tensor, scale: Tensor, offset: Tensor | None) -> Tensor:
    codes = data.float()
    if offset is not None:
        codes = codes - _spread(offset.float(), data.shape)
    return codes * _spread(scale.float(), data.shape)


def _lookup(indices: Tensor, lut: Tensor, *, vector_axis: int | None = None) -> Tensor:
    """`lut` `[tables along each axis, 2**bits, vector]`; a vector's elements lie along `vector_axis`."""
    *grid, levels, length = lut.shape
    tables = _spread(torch.arange(lut[..., 0, 0].numel()).reshape(grid), indices.shape)
    found = lut.reshape(-1, length)[(tables * levels + indices.long()).reshape(-1)].reshape(*indices.shape, length)
    if length == 1:
        return found.squeeze(-1)
    if vector_axis is None:
        msg = "a table of vectors names no axis"
        raise ValueError(msg)
    axis = vector_axis % indices.dim()
    return found.movedim(-1, axis + 1).flatten(axis, axis + 1)


def _affine(quantized_data: Tensor, zero_point: Tensor, scale: Tensor, *, axis: int) -> Tensor:
    sizes = [-1 if place == axis % quantized_data.dim() else 1 for place in range(quantized_data.dim())]
    offset, factor = (value.float().reshape(sizes) if value.dim() else value.float() for value in (zero_point, scale))
    return (quantized_data.float() - offset) * factor


def _cast(source_val: Tensor, *, output_dtype: str) -> Tensor:
    return source_val.float()


COMPRESSION: dict[str, Operator] = {
    "constexpr_affine_dequantize": on("quantized_data zero_point scale", _affine),
    "constexpr_blockwise_shift_scale": on("data scale offset", _blockwise),
    "constexpr_cast": on("source_val", _cast),
    "constexpr_lut_to_dense": on("indices lut", _lookup),
}
