"""Plain round-to-nearest: the grid spans each group from its least to its greatest weight."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeq.core.scheme import Scheme
from edgeq.core.tensor import QuantizedTensor
from edgeq.quantization.grid import FloatMatrix, Grid, Groups, assemble, group, limits, nearest, storable

if TYPE_CHECKING:
    from torch import Tensor


def round_to_nearest(weights: FloatMatrix, scheme: Scheme, name: str) -> QuantizedTensor:
    """Quantize float32 `[out, in]` on the min-max grid. Raises CorruptInputError for NaN, infinity and huge values."""
    groups = group(weights, scheme)
    grid = min_max_grid(groups, *limits(groups, name))
    return assemble(groups, grid, nearest(groups, grid))


def min_max_grid(groups: Groups, low: Tensor, high: Tensor) -> Grid:
    """The narrowest grid that clips nothing.

    With zero points it runs from `low` to `high`. Symmetric, the weight of largest magnitude sits on -levels / 2,
    but with positive scales alone on the side that it is on.
    """
    import torch

    scheme = groups.scheme
    if scheme.symmetric:
        half = scheme.levels // 2
        if not scheme.signed_scales:
            scale = storable(torch.maximum(high / (half - 1), -low / half), scheme.scale_dtype)
            return Grid(scale=scale, zero=torch.full_like(scale, half))
        scale = storable(torch.maximum(high, -low) / half, scheme.scale_dtype)
        return Grid(scale=scale, zero=torch.where(-low >= high, float(half), half - 1.0))
    scale = storable((high - low) / groups.top, scheme.scale_dtype)
    return Grid(scale=scale, zero=(-low / scale).round_().clamp_(0.0, groups.top))
