"""GPTQ: rounds one input after the other and lets those that are still to come make up for the error.

GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers, https://arxiv.org/abs/2210.17323.
Inputs go in the order of falling mean square ("act-order"), while groups stay groups of neighbours whose grids are
chosen beforehand ("static groups"): no runtime needs an index. The loss that rounding an input leaves after all others
made up for it is its squared error over a squared pivot, so grids are searched with errors weighted so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeq.core.scheme import Scheme
from edgeq.core.tensor import QuantizedTensor
from edgeq.errors import UsageError
from edgeq.quantization.grid import Grid, Groups, assemble, by_group, by_input, group, stack
from edgeq.quantization.moments import Moments, check_moments, corrected, inverse_factor
from edgeq.quantization.scale_search import weighted_grid

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 128
"""Inputs whose errors reach the inputs behind them together, as one matrix product."""
ROWS = 2048
"""Rows that are quantized at a time; they do not influence one another."""


def gptq(weights: Tensor, moments: Moments, scheme: Scheme, name: str, *, share: float = 1.0) -> QuantizedTensor:
    """Quantize float32 `[out, in]`. With a cross moment, `share` of the errors of the layers before is made up for.

    Raises CorruptInputError for NaN, infinity and huge values, UsageError for schemes with a codebook.
    """
    import torch

    check_grid(scheme, "gptq")
    check_moments(weights, moments, name)
    target = corrected(weights, moments, share)
    diagonal = moments.hessian.diagonal()
    order = torch.argsort(diagonal, descending=True, stable=True)
    factor = inverse_factor(moments.hessian[order][:, order], name)
    importance = torch.empty_like(diagonal)
    importance[order] = factor.diagonal() ** -2
    parts = []
    for rows in torch.split(target, ROWS):
        groups = group(np.ascontiguousarray(rows.numpy()), scheme)
        grid = weighted_grid(groups, importance, name)
        parts.append(assemble(groups, grid, _feed_back(groups, grid, factor, order)))
    return stack(parts)


def check_grid(scheme: Scheme, method: str) -> None:
    """Raises UsageError where codes are not multiples of a scale."""
    if scheme.is_float or scheme.codebook is not None:
        raise UsageError(
            f"The method {method!r} does not make {scheme.label()} weights.",
            remedy="Give it a scheme without codebook.",
        )


def _feed_back(groups: Groups, grid: Grid, factor: Tensor, order: Tensor) -> Tensor:
    """The integers, shaped like `groups.values`. `factor`: of the inverse Hessian, its inputs in the given order."""
    import torch

    count = groups.scheme.groups(groups.inputs)
    scales, zeros = (part.reshape(groups.outputs, count).t().contiguous() for part in (grid.scale, grid.zero))
    least, greatest = -zeros, groups.top - zeros
    values = by_input(groups, groups.values)
    integers = torch.zeros_like(values)
    columns = values[order]
    pivots, inputs = factor.diagonal().tolist(), order.tolist()
    for start in range(0, len(order), BLOCK):
        block = columns[start : start + BLOCK]
        stop = start + len(block)
        errors = torch.empty_like(block)
        for at, column in enumerate(block):
            position = start + at
            g = inputs[position] // len(groups.values)
            codes = torch.clamp((column / scales[g]).round_(), least[g], greatest[g])
            integers[inputs[position]] = codes
            torch.addcmul(column, codes, scales[g], value=-1.0, out=errors[at]).div_(pivots[position])
            block[at + 1 :].addr_(factor[position, position + 1 : stop], errors[at], alpha=-1.0)
        columns[stop:].addmm_(factor[start:stop, stop:].t(), errors, alpha=-1.0)
    return by_group(groups, integers)
