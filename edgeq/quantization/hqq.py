"""Half-quadratic quantization: grids that fit most weights well and let a few outliers be far off, without data.

HQQ, https://mobiusml.github.io/hqq_blog/: the sum of `|error|**p`, p < 1, is minimised by two easy steps in turn:
errors are shrunk, and what is left of the weights is fitted by the grid. There only zero points are fitted, as floats.
Here they are rounded to integers in every step, as stores and kernels have them, which alone would seldom move them;
so scales are fitted as well, by least squares. Errors count in units of the min-max scale of their group, where the
paper's `beta` bites. A group keeps the best grid that it came by; none is worse in `|error|**p` than min-max.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeq.core.scheme import Scheme
from edgeq.core.tensor import QuantizedTensor
from edgeq.quantization.grid import FloatMatrix, Grid, Groups, assemble, folded, group, limits, nearest, storable
from edgeq.quantization.rtn import min_max_grid

if TYPE_CHECKING:
    from torch import Tensor

NORM = 0.7
BETA, GROWTH = 10.0, 1.01
STEPS = 20


def half_quadratic(weights: FloatMatrix, scheme: Scheme, name: str) -> QuantizedTensor:
    """Quantize float32 `[out, in]`. Raises CorruptInputError for NaN, infinity and huge values."""
    import torch

    groups = group(weights, scheme)
    plain = min_max_grid(groups, *limits(groups, name))
    best, best_error = plain, _error(groups, plain, plain.scale)
    step, zero = torch.ones_like(plain.scale), plain.zero
    units = groups.values / plain.scale
    beta = BETA
    for _ in range(STEPS):
        step, zero = _improve(units, step, zero, groups, beta)
        beta *= GROWTH
        grid = Grid(scale=storable(step * plain.scale, scheme.scale_dtype), zero=zero)
        error = _error(groups, grid, plain.scale)
        better = error < best_error
        best = Grid(scale=torch.where(better, grid.scale, best.scale), zero=torch.where(better, zero, best.zero))
        best_error = torch.minimum(error, best_error)
    return assemble(groups, best, nearest(groups, best))


def _improve(units: Tensor, step: Tensor, zero: Tensor, groups: Groups, beta: float) -> tuple[Tensor, Tensor]:
    """One round: `(step, zero)` per group, fitted to `units` less their shrunk errors."""
    import torch

    integers = torch.clamp((units / step).round_(), -zero, groups.top - zero)
    error = units - integers * step
    size = error.abs()
    shrunk = (size - size.clamp(min=1e-12).pow_(NORM - 1) / beta).clamp_(min=0.0)
    rest = units - torch.copysign(shrunk, error)
    square = folded(integers.square())
    fitted = folded(integers * rest) / square.clamp(min=1.0)
    step = torch.where(fitted > 0, fitted, step)
    if groups.scheme.symmetric:
        return step, zero
    # Padding has neither an error nor an integer: it adds nothing to the sum, and is not counted.
    counts = torch.full_like(zero, len(units)).reshape(groups.outputs, -1)
    counts[:, -1] -= -groups.inputs % len(units)
    moved = (folded(integers - rest / step) / counts.reshape(-1)).round_()
    return step, (zero + moved).clamp_(0.0, groups.top)


def _error(groups: Groups, grid: Grid, unit: Tensor) -> Tensor:
    """Per group the sum of `|error|**p`, errors in units of `unit`."""
    error = (nearest(groups, grid) * grid.scale).sub_(groups.values).div_(unit)
    return folded(error.abs_().pow_(NORM))
