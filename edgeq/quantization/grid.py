"""What every quantizer shares: weights laid out by group, and the way back from a grid to codes.

A grid of one group is a scale and a zero point `z`: the weight `w` becomes the integer `c = round(w / scale)` clamped
to `[-z, levels - 1 - z]`. Symmetric grids are the two windows `z = levels / 2` and `z = levels / 2 - 1`; the second is
the first seen from the other side, so it is stored with a negative scale.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgeq.core.scheme import ScaleDtype, Scheme
from edgeq.core.tensor import QuantizedTensor
from edgeq.errors import CorruptInputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FloatMatrix = npt.NDArray[np.float32]
QuantizeFunction = Callable[[FloatMatrix, Scheme, str], QuantizedTensor]
"""`(weights float32 [out, in], scheme, name for messages) -> QuantizedTensor`. Only rows with one table may influence
one another: the caller hands over a few rows or tables at a time. Raises CorruptInputError for NaN, infinity and values
that no scale can hold."""


@dataclass(frozen=True, kw_only=True)
class Groups:
    """`values`: float32 `[group_size, outputs * groups]`, a group per column so that sums over groups vectorise.

    A short last group is padded with zeros, which no grid changes: zero is always the code of the zero point.
    """

    values: Tensor
    outputs: int
    inputs: int
    scheme: Scheme

    @property
    def top(self) -> int:
        """The largest code."""
        return self.scheme.levels - 1


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Per group: `scale` > 0, exact in the scale dtype, and the integer `zero`; both float32 `[outputs * groups]`."""

    scale: Tensor
    zero: Tensor


def group(weights: FloatMatrix, scheme: Scheme) -> Groups:
    """Lay `weights [out, in]` out by group."""
    import torch

    outputs, inputs = weights.shape
    size = scheme.group_size or inputs
    padding = -inputs % size
    padded = np.pad(weights, ((0, 0), (0, padding))) if padding else np.require(weights, requirements=("C", "W"))
    values = torch.from_numpy(padded).reshape(-1, size).t().contiguous()
    return Groups(values=values, outputs=outputs, inputs=inputs, scheme=scheme)


def limits(groups: Groups, name: str) -> tuple[Tensor, Tensor]:
    """Per group the least and the greatest weight, zero included.

    Raises CorruptInputError unless all are finite and small enough for a scale.
    """
    low = groups.values.amin(0).clamp_(max=0.0)
    high = groups.values.amax(0).clamp_(min=0.0)
    check_range(low, high, groups.scheme.scale_dtype, name)
    return low, high


def check_range(low: Tensor, high: Tensor, dtype: ScaleDtype, name: str) -> None:
    """Raises CorruptInputError unless all are finite and no range from `low` to `high` is too large for `dtype`."""
    import torch

    if not bool(torch.isfinite(low).all() & torch.isfinite(high).all()):
        raise CorruptInputError(
            f"The weight {name!r} contains NaN or infinity.", remedy="Take another copy of the checkpoint."
        )
    largest = torch.finfo(torch_dtype(dtype)).max
    if not bool(((high - low) <= largest).all()):
        raise CorruptInputError(
            f"The weight {name!r} holds values too large for {dtype}.",
            remedy="Take another copy of the checkpoint.",
        )


def storable(scale: Tensor, dtype: ScaleDtype) -> Tensor:
    """Round scales to what `dtype` holds. Scales that would vanish become the smallest one."""
    import torch

    kind = torch_dtype(dtype)
    # Subnormals keep small float16 scales useful; in float32 some runtimes would flush them to zero. From 2^-17 on,
    # bfloat16 values are exact in float16 too, so that one store serves ExecuTorch and Core ML.
    smallest = {torch.float16: 2.0**-24, torch.bfloat16: 2.0**-17}.get(kind, torch.finfo(kind).tiny)
    return scale.to(kind).float().clamp_(min=smallest)


def nearest(groups: Groups, grid: Grid, out: Tensor | None = None) -> Tensor:
    """The integers of all weights, as float32 shaped like `groups.values`."""
    import torch

    codes = torch.div(groups.values, grid.scale, out=out)
    codes.round_()
    return torch.clamp(codes, -grid.zero, groups.top - grid.zero, out=codes)


def folded(values: Tensor) -> Tensor:
    """The sums over the first axis. torch's own add up in an order that depends on how many columns there are.

    Overwrites `values`.
    """
    rows = len(values)
    while rows > 1:
        half = rows // 2
        values[:half] += values[rows - half : rows]
        rows -= half
    return values[0].clone()


def assemble(groups: Groups, grid: Grid, integers: Tensor) -> QuantizedTensor:
    """Codes, scales and zero points of the tensor. Overwrites `integers`."""
    import torch

    scheme = groups.scheme
    count = scheme.groups(groups.inputs)
    if scheme.symmetric:
        sign = torch.where(grid.zero == scheme.default_zero_point, 1.0, -1.0)
        codes, scale = integers.mul_(sign).add_(scheme.default_zero_point), grid.scale * sign
        zero_points = None
    else:
        codes, scale = integers.add_(grid.zero), grid.scale
        zero_points = grid.zero.to(torch.uint8).reshape(groups.outputs, count).numpy()
    flat = codes.to(torch.uint8).t().reshape(groups.outputs, -1).numpy()
    return QuantizedTensor(
        scheme=scheme,
        codes=np.ascontiguousarray(flat[:, : groups.inputs]),
        scales=scale.reshape(groups.outputs, count).numpy(),
        zero_points=zero_points,
    )


def torch_dtype(dtype: ScaleDtype) -> torch.dtype:
    import torch

    return {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[dtype]


def disassemble(tensor: QuantizedTensor) -> tuple[Grid, Tensor]:
    """The inverse of `assemble`, by input: the grid, and the integers as float32 `[in, out]`.

    The fields of the grid stay flat, as `[outputs * groups]`.
    """
    import torch

    scheme = tensor.scheme
    scale = torch.from_numpy(tensor.scales).reshape(-1)
    integers = torch.from_numpy(tensor.integers()).float()
    if tensor.zero_points is not None:
        return Grid(scale=scale.clone(), zero=torch.from_numpy(tensor.zero_points).float().reshape(-1)), integers.t()
    half = float(scheme.default_zero_point)
    zero = torch.where(scale > 0, half, half - 1)
    signs = torch.from_numpy(np.sign(tensor.scales)).repeat_interleave(scheme.group_size or integers.shape[1], dim=1)
    return Grid(scale=scale.abs(), zero=zero), (integers * signs[:, : integers.shape[1]]).t()


def by_input(groups: Groups, per_weight: Tensor) -> Tensor:
    """`[group_size, outputs * groups]` laid out anew as contiguous `[groups * group_size, outputs]`."""
    count = groups.scheme.groups(groups.inputs)
    split = per_weight.reshape(-1, groups.outputs, count)
    return split.permute(2, 0, 1).reshape(-1, groups.outputs)


def by_group(groups: Groups, per_weight: Tensor) -> Tensor:
    """The inverse of `by_input`."""
    count = groups.scheme.groups(groups.inputs)
    split = per_weight.reshape(count, -1, groups.outputs)
    return split.permute(1, 2, 0).reshape(len(groups.values), -1)


def stack(parts: list[QuantizedTensor]) -> QuantizedTensor:
    """One tensor of the rows of all; a table that all rows share is the same in every part."""
    scheme = parts[0].scheme
    zero_points = [part.zero_points for part in parts if part.zero_points is not None]
    tables = [part.codebook for part in parts if part.codebook is not None]
    if scheme.palette_rows is None:
        tables = tables[:1]
    return QuantizedTensor(
        scheme=scheme,
        codes=np.concatenate([part.codes for part in parts]),
        scales=np.concatenate([part.scales for part in parts]),
        zero_points=np.concatenate(zero_points) if zero_points else None,
        codebook=np.concatenate(tables) if tables else None,
    )
