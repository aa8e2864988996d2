"""GPTQ on codebooks: each input goes to the nearest entries, and those still to come make up for the error.

GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers, https://arxiv.org/abs/2210.17323, in
the order of falling mean square. Palettes are fitted beforehand by k-means in which each weight counts what an error
in it costs (SqueezeLLM: Dense-and-Sparse Quantization, https://arxiv.org/abs/2306.07629, with layer-wise costs), the
scales of NormalFloat searched in the same measure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeq.core.scheme import Scheme
from edgeq.core.tensor import QuantizedTensor
from edgeq.errors import UsageError
from edgeq.quantization.codebook_grid import CodebookGrid, table_parts
from edgeq.quantization.gptq import BLOCK
from edgeq.quantization.grid import FloatMatrix, stack
from edgeq.quantization.moments import Moments, check_moments, corrected, inverse_factor
from edgeq.quantization.nf4 import search_nf4
from edgeq.quantization.palette import fit_palettes

if TYPE_CHECKING:
    from torch import Tensor


def gptq_codebook(weights: Tensor, moments: Moments, scheme: Scheme, name: str) -> QuantizedTensor:
    """Quantize float32 `[out, in]` to palettes or NormalFloat.

    Raises CorruptInputError for NaN, infinity and huge values, UsageError for schemes without a codebook.
    """
    import torch

    if scheme.codebook is None:
        raise UsageError(
            f"{scheme.label()} weights have no codebook.", remedy="Give the scheme one, or take the method gptq."
        )
    check_moments(weights, moments, name)
    target = corrected(weights, moments)
    diagonal = moments.hessian.diagonal()
    order = torch.argsort(diagonal, descending=True, stable=True)
    factor = inverse_factor(moments.hessian[order][:, order], name)
    importance = torch.empty_like(diagonal)
    importance[order] = factor.diagonal() ** -2
    used = diagonal > 0
    if bool(used.any()):
        importance[~used] = importance[used].min()  # no unit of its own should decide what they count
    parts = []
    for rows in table_parts(len(target), scheme):
        part = np.ascontiguousarray(target[rows].numpy())
        grid, _ = CodebookGrid.of(_start(part, importance, scheme, name))
        parts.append(grid.tensor(_feed_back(part, grid, factor, order)))
    return stack(parts)


def _start(weights: FloatMatrix, importance: Tensor, scheme: Scheme, name: str) -> QuantizedTensor:
    """The tables and scales; its codes are those of rounding."""
    if scheme.codebook == "nf4":
        return search_nf4(weights, importance, scheme, name)
    return fit_palettes(weights, scheme, name, importance.numpy())


def _feed_back(weights: FloatMatrix, grid: CodebookGrid, factor: Tensor, order: Tensor) -> Tensor:
    """The codes, int64 `[in, out]`. `factor`: of the inverse Hessian, its inputs in the given order."""
    import torch

    columns = torch.from_numpy(weights).t()[order].contiguous()
    codes = torch.empty(columns.shape, dtype=torch.int64)
    middles = grid.middles()
    pivots, inputs = factor.diagonal().tolist(), order.tolist()
    for start in range(0, len(order), BLOCK):
        block = columns[start : start + BLOCK]
        stop = start + len(block)
        errors = torch.empty_like(block)
        for at, column in enumerate(block):
            position = start + at
            index = inputs[position]
            codes[index] = grid.nearest(index, column, middles)
            torch.sub(column, grid.values(index, codes[index]), out=errors[at]).div_(pivots[position])
            block[at + 1 :].addr_(factor[position, position + 1 : stop], errors[at], alpha=-1.0)
        columns[stop:].addmm_(factor[start:stop, stop:].t(), errors, alpha=-1.0)
    return codes
