"""4-bit NormalFloat: the quantiles of a normal distribution, scaled by each group's largest magnitude.

QLoRA: Efficient Finetuning of Quantized LLMs, https://arxiv.org/abs/2305.14314, section 3 and appendix E. Scales are
not quantized a second time.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from edgeq.core.scheme import ScaleDtype, Scheme
from edgeq.core.tensor import QuantizedTensor
from edgeq.quantization.grid import FloatMatrix, group, limits, storable, torch_dtype

if TYPE_CHECKING:
    from torch import Tensor

LAST_QUANTILE = 1 - (1 / 32 + 1 / 30) / 2
"""Half a level from the end: the mean of 1 - 1/(2 * 16) and 1 - 1/(2 * 15), for the even and the odd side."""


def normal_levels() -> tuple[float, ...]:
    """The 16 levels of the paper, ascending from -1 to 1: eight quantiles up to 0 on one side, nine on the other."""
    inverse = NormalDist().inv_cdf
    negative = [inverse(1 - _between(step / 7)) for step in range(7)]
    positive = [inverse(_between(step / 8)) for step in range(8)]
    largest = inverse(LAST_QUANTILE)
    return tuple(level / largest for level in (*negative, 0.0, *reversed(positive)))


def levels_in(dtype: ScaleDtype) -> Tensor:
    """The 16 levels as `dtype` holds them, float32."""
    import torch

    return torch.tensor(normal_levels(), dtype=torch.float32).to(torch_dtype(dtype)).float()


def quantize_nf4(weights: FloatMatrix, scheme: Scheme, name: str) -> QuantizedTensor:
    """Quantize float32 `[out, in]`: the scale of a group is its largest magnitude, codes are the nearest levels.

    Raises CorruptInputError for NaN, infinity and values too large for the scale dtype.
    """
    import torch

    groups = group(weights, scheme)
    low, high = limits(groups, name)
    levels = levels_in(scheme.scale_dtype)
    scale = storable(torch.maximum(high, -low), scheme.scale_dtype)
    middles = (levels[1:] + levels[:-1]) / 2
    codes = torch.bucketize(groups.values / scale, middles, out_int32=True).to(torch.uint8)
    flat = codes.t().reshape(groups.outputs, -1).numpy()
    return QuantizedTensor(
        scheme=scheme,
        codes=np.ascontiguousarray(flat[:, : groups.inputs]),
        scales=scale.reshape(groups.outputs, -1).numpy(),
        zero_points=None,
        codebook=levels[None].numpy(),
    )


def _between(part: float) -> float:
    """The quantile that lies `part` of the way from LAST_QUANTILE to the median."""
    return LAST_QUANTILE + part * (0.5 - LAST_QUANTILE)
