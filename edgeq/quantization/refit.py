"""Refit: given codes, the best scales; given scales, better codes; and better grids, in turn, under the full Hessian.

The error `tr((W - Q) H (W - Q)^T)` is quadratic in the scales of a row, so that their optimum solves one small linear
system (as in AQLM, https://arxiv.org/abs/2401.06118, section 3.3, and Two-Stage Grid Optimization,
https://arxiv.org/abs/2602.02126). Codes then move one at a time to the integer nearest to the optimum of their own
parabola, which never raises the error (coordinate descent, as in QuantEase, https://arxiv.org/abs/2309.01885). Between
the two, short groups try neighbouring zero points and scales, each with codes that descended to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeq.core.scheme import Scheme
from edgeq.core.tensor import QuantizedTensor
from edgeq.quantization.gptq import BLOCK, ROWS, check_grid
from edgeq.quantization.grid import Grid, assemble, by_group, disassemble, group, stack, storable
from edgeq.quantization.moments import Moments, check_moments, corrected

if TYPE_CHECKING:
    from torch import Tensor

SYSTEMS = 1 << 23
"""Numbers in the linear systems that are solved at a time."""
RIDGE = 1e-6
FACTORS = (1.0, 0.92, 1.08)
"""Of the scale of a group, to start another descent from."""


def refit(
    weights: Tensor,
    moments: Moments,
    tensor: QuantizedTensor,
    rounds: int = 3,
    *,
    share: float = 1.0,
    name: str = "weight",
) -> QuantizedTensor:
    """`tensor` with better scales, zero points and codes for float32 `weights [out, in]`; never a larger error.

    `share` as in `gptq`. Raises CorruptInputError for NaN and infinity, UsageError for schemes with a codebook.
    """
    import torch

    check_grid(tensor.scheme, "refit")
    check_moments(weights, moments, name)
    target = corrected(weights, moments, share)
    size = tensor.scheme.group_size or weights.shape[1]
    hessian = torch.nn.functional.pad(moments.hessian, (0, -weights.shape[1] % size) * 2)
    order = torch.argsort(hessian.diagonal(), descending=True, stable=True)
    order = order[hessian.diagonal()[order] > 0]
    parts = []
    for start in range(0, len(target), ROWS):
        rows = slice(start, start + ROWS)
        state = _State.of(target[rows], _rows(tensor, rows), hessian)
        for _ in range(rounds):
            _refit_scales(state)
            if size <= BLOCK:
                for g in range(len(state.scale)):
                    _regrid(state, g)
            _descend(state, order)
        parts.append(state.tensor(target[rows], tensor))
    return stack(parts)


@dataclass(kw_only=True)
class _State:
    """A few rows, by input: `integers` and `gradient = H (W - Q)^T` are `[groups * size, rows]`, padded with zeros.

    scale, zero: `[groups, rows]`. Every change of the integers or scales must be made to `gradient` as well.
    """

    hessian: Tensor
    integers: Tensor
    gradient: Tensor
    scale: Tensor
    zero: Tensor
    size: int
    scheme: Scheme

    @classmethod
    def of(cls, target: Tensor, tensor: QuantizedTensor, hessian: Tensor) -> _State:
        import torch

        outputs, inputs = tensor.shape
        grid, integers = disassemble(tensor)
        padding = len(hessian) - inputs
        error = (target - torch.from_numpy(tensor.dequantize())).t()
        return cls(
            hessian=hessian,
            integers=torch.nn.functional.pad(integers, (0, 0, 0, padding)).contiguous(),
            gradient=hessian @ torch.nn.functional.pad(error, (0, 0, 0, padding)),
            scale=grid.scale.reshape(outputs, -1).t().contiguous(),
            zero=grid.zero.reshape(outputs, -1).t().contiguous(),
            size=tensor.scheme.group_size or inputs,
            scheme=tensor.scheme,
        )

    @property
    def top(self) -> int:
        return self.scheme.levels - 1

    def grouped(self, per_input: Tensor) -> Tensor:
        """`[groups * size, ...]` as `[groups, size, ...]`."""
        return per_input.reshape(-1, self.size, *per_input.shape[1:])

    def tensor(self, target: Tensor, like: QuantizedTensor) -> QuantizedTensor:
        groups = group(np.ascontiguousarray(target.numpy()), like.scheme)
        grid = Grid(scale=self.scale.t().reshape(-1), zero=self.zero.t().reshape(-1))
        return assemble(groups, grid, by_group(groups, self.integers))


def _rows(tensor: QuantizedTensor, rows: slice) -> QuantizedTensor:
    """Some rows of a tensor without a codebook."""
    zero_points = None if tensor.zero_points is None else tensor.zero_points[rows]
    return QuantizedTensor(
        scheme=tensor.scheme, codes=tensor.codes[rows], scales=tensor.scales[rows], zero_points=zero_points
    )


def _refit_scales(state: _State) -> None:
    """Move all scales of a row to their common optimum, where that is still better once they are rounded."""
    import torch

    step = torch.empty_like(state.scale)
    count = len(state.scale)
    for rows in torch.split(torch.arange(step.shape[1]), max(1, SYSTEMS // count**2)):
        step[:, rows] = _scale_steps(state, rows)
    wanted = state.scale + step
    scale = storable(wanted, state.scheme.scale_dtype)
    scale = torch.where((wanted > 0) & scale.isfinite(), scale, state.scale)
    change = (state.grouped(state.integers) * (scale - state.scale)[:, None]).flatten(0, 1)
    pull = state.hessian @ change
    better = (change * (2 * state.gradient - pull)).sum(0) > 0
    state.gradient -= torch.where(better, pull, 0.0)
    state.scale = torch.where(better, scale, state.scale)


def _scale_steps(state: _State, rows: Tensor) -> Tensor:
    """`[groups, rows]` to add to the scales: the solution of `(C^T H C) step = C^T gradient`, `C` being the integers
    of a row, a column for each group."""
    import torch

    integers = state.integers[:, rows]
    grouped = state.grouped(integers)
    count = len(grouped)
    system = torch.empty((len(rows), count, count), dtype=torch.float64)
    for g in range(count):
        pulled = state.hessian[:, g * state.size : (g + 1) * state.size] @ grouped[g]
        system[:, g] = state.grouped(pulled.mul_(integers)).sum(1).t()
    right = state.grouped(state.gradient[:, rows] * integers).sum(1).t().double()
    diagonal = system.diagonal(dim1=1, dim2=2)
    empty = diagonal <= 0
    diagonal.mul_(1 + RIDGE).add_(empty)
    factor, failed = torch.linalg.cholesky_ex(system)
    steps = torch.cholesky_solve(right[..., None], factor)[..., 0]
    steps[empty | (failed != 0)[:, None]] = 0.0
    return steps.t().float()


def _regrid(state: _State, g: int) -> None:
    """Give group `g` of every row the best grid near its own, with codes that descended from the present ones.

    All candidates of all rows descend at once; the scale is fitted once more at the end.
    """
    import torch

    inside = slice(g * state.size, (g + 1) * state.size)
    hessian = state.hessian[inside, inside].contiguous()
    before = state.integers[inside] * state.scale[g]
    zeros = _zeros_near(state.zero[g], state.scheme)
    copies = len(zeros) * len(FACTORS)
    scale = torch.cat([storable(state.scale[g] * factor, state.scheme.scale_dtype) for factor in FACTORS])
    scale = scale.repeat(len(zeros))
    zero = torch.cat([part.repeat(len(FACTORS)) for part in zeros])
    integers = torch.clamp(state.integers[inside].repeat(1, copies), -zero, state.top - zero)
    gradient = state.gradient[inside].repeat(1, copies)
    gradient -= hessian @ (integers * scale - before.repeat(1, copies))
    diagonal = hessian.diagonal().tolist()
    for at in sorted((i for i, value in enumerate(diagonal) if value > 0), key=lambda i: -diagonal[i]):
        wanted = torch.addcdiv(integers[at], gradient[at], scale, value=1 / diagonal[at]).round_()
        moved = torch.clamp(wanted, -zero, state.top - zero)
        gradient.addr_(hessian[at], (moved - integers[at]).mul_(scale), alpha=-1.0)
        integers[at] = moved
    step = (integers * gradient).sum(0) / (integers * (hessian @ integers)).sum(0)  # 0 / 0 is no step
    fitted = storable(scale + step, state.scheme.scale_dtype)
    scale = torch.where((scale + step > 0) & fitted.isfinite(), fitted, scale)
    changes = integers * scale - before.repeat(1, copies)
    gains = (changes * (2 * state.gradient[inside].repeat(1, copies) - hessian @ changes)).sum(0)
    gain, best = gains.reshape(copies, -1).nan_to_num_(nan=-1.0).max(0)
    chosen = torch.arange(len(best)) + best * len(best)
    better = gain > 0
    state.integers[inside] = torch.where(better, integers[:, chosen], state.integers[inside])
    state.scale[g] = torch.where(better, scale[chosen], state.scale[g])
    state.zero[g] = torch.where(better, zero[chosen], state.zero[g])
    state.gradient.addmm_(state.hessian[:, inside], torch.where(better, changes[:, chosen], 0.0), alpha=-1.0)


def _zeros_near(zero: Tensor, scheme: Scheme) -> list[Tensor]:
    """The zero points that a grid may move to, its own first: its neighbours, or the other orientation."""
    if not scheme.symmetric:
        return [zero, *((zero + shift).clamp_(0.0, scheme.levels - 1.0) for shift in (-1, 1))]
    return [zero, scheme.levels - 1 - zero] if scheme.signed_scales else [zero]


def _descend(state: _State, order: Tensor) -> None:
    """One sweep over the inputs in the given order: each integer moves to its best place, given all others."""
    import torch

    for indices in torch.split(order, BLOCK):
        hessian = state.hessian[:, indices]
        inner = hessian[indices].contiguous()
        gradient = state.gradient[indices]
        changes = torch.empty_like(gradient)
        diagonal = inner.diagonal().tolist()
        for at, position in enumerate(indices.tolist()):
            g = position // state.size
            scale, zero, integers = state.scale[g], state.zero[g], state.integers[position]
            wanted = torch.addcdiv(integers, gradient[at], scale, value=1 / diagonal[at]).round_()
            moved = torch.clamp(wanted, -zero, state.top - zero)
            torch.sub(moved, integers, out=changes[at]).mul_(scale)
            integers.copy_(moved)
            gradient[at + 1 :].addr_(inner[at, at + 1 :], changes[at], alpha=-1.0)
        state.gradient.addmm_(hessian, changes, alpha=-1.0)
