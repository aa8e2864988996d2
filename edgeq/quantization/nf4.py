"""4-bit NormalFloat: the quantiles of a normal distribution, scaled by each group's largest magnitude.

QLoRA: Efficient Finetuning of Quantized LLMs, https://arxiv.org/abs/2305.14314, section 3 and appendix E. Scales are
not quantized a second time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeq.core.scheme import ScaleDtype, Scheme
from edgeq.core.tensor import QuantizedTensor
from edgeq.quantization.grid import FloatMatrix, group, limits, storable, torch_dtype

if TYPE_CHECKING:
    from torch import Tensor

LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""Appendix E: normal quantiles, seven below 0 and eight above, divided by the largest. Computed anew they differ in the
last bits with the arithmetic; kernels and checkpoints elsewhere hold exactly these."""


def levels_in(dtype: ScaleDtype) -> Tensor:
    """The 16 levels as `dtype` holds them, float32."""
    import torch

    return torch.tensor(LEVELS, dtype=torch.float32).to(torch_dtype(dtype)).float()


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
