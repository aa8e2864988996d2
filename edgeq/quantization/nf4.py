"""4-bit NormalFloat: the quantiles of a normal distribution, scaled by each group's largest magnitude.

QLoRA: Efficient Finetuning of Quantized LLMs, https://arxiv.org/abs/2305.14314, section 3 and appendix E. Codes and
scales are those of bitsandbytes, bit for bit, where its blocks lie within rows. Its second quantization of the scales
is a function of its own: no runtime here keeps scales of 8 bits, so that nothing would become smaller.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from edgeq.core.scheme import ScaleDtype, Scheme
from edgeq.core.tensor import QuantizedTensor
from edgeq.quantization.grid import FloatMatrix, folded, group, limits, storable, torch_dtype

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
SHRINKS = (1.0, *(0.6 + 0.025 * step for step in range(19) if step != 16))
"""Of the largest magnitude, from which a search takes scales."""
SCALES_TOGETHER = 256
"""Scales that share a second scale."""
STEPS = 65535
"""Steps from -1 to 1 to which bitsandbytes' kernel rounds a number before it looks up the nearest level."""


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
    # Not a division: the last bits decide between neighbours, and bitsandbytes multiplies.
    codes = torch.bucketize(groups.values * (1.0 / scale), middles, out_int32=True).to(torch.uint8)
    flat = codes.t().reshape(groups.outputs, -1).numpy()
    return QuantizedTensor(
        scheme=scheme,
        codes=np.ascontiguousarray(flat[:, : groups.inputs]),
        scales=scale.reshape(groups.outputs, -1).numpy(),
        zero_points=None,
        codebook=levels[None].numpy(),
    )


def search_nf4(weights: FloatMatrix, importance: Tensor, scheme: Scheme, name: str) -> QuantizedTensor:
    """The same with the best of a few scales for each group, the squared error of input `i` counting `importance[i]`.

    No group has a larger weighted error than `quantize_nf4` gives it. Raises as that does.
    """
    import torch

    groups = group(weights, scheme)
    tensor = quantize_nf4(weights, scheme, name)
    levels = levels_in(scheme.scale_dtype)
    middles = (levels[1:] + levels[:-1]) / 2
    size, count = groups.values.shape[0], scheme.groups(groups.inputs)
    per_input = torch.nn.functional.pad(importance, (0, -groups.inputs % size)).reshape(-1, size).t()
    relative = (per_input / per_input.amax(0).clamp_(min=torch.finfo(torch.float32).tiny)).repeat(1, groups.outputs)
    plain = torch.from_numpy(tensor.scales).reshape(-1)
    best, chosen = torch.full_like(plain, torch.inf), plain
    for factor in SHRINKS:
        scale = storable(plain * factor, scheme.scale_dtype)
        units = torch.bucketize(groups.values / scale, middles)
        error = folded((levels[units] * scale - groups.values).square_().mul_(relative))
        better = error < best
        best, chosen = torch.where(better, error, best), torch.where(better, scale, chosen)
    codes = torch.bucketize(groups.values / chosen, middles).t().reshape(groups.outputs, -1)[:, : groups.inputs]
    return replace(
        tensor,
        codes=np.ascontiguousarray(codes.to(torch.uint8).numpy()),
        scales=chosen.reshape(groups.outputs, count).numpy(),
    )


def dynamic_levels() -> Tensor:
    """The 256 levels of "8-bit dynamic" numbers, float32, ascending: seven decades whose steps become finer upwards.

    8-bit Approximations for Parallelism in Deep Learning, https://arxiv.org/abs/1511.04561, section 3.
    """
    import torch

    positive: list[float] = []
    for decade in range(7):
        edges = torch.linspace(0.1, 1, 2**decade + 1, dtype=torch.float32)
        positive += (10 ** (decade - 6) * ((edges[:-1] + edges[1:]) / 2)).tolist()
    return torch.tensor(sorted([*positive, *(-value for value in positive), 0.0, 1.0]), dtype=torch.float32)


def quantize_scales_again(tensor: QuantizedTensor) -> QuantizedTensor:
    """The whole of a matrix with the scales that are left of it after QLoRA's double quantization.

    Less their mean, scales are rounded to 8 bits with a float32 scale for every 256. Codes stay what they were.
    """
    import torch

    levels = dynamic_levels()
    flat = torch.from_numpy(tensor.scales).reshape(-1)
    mean = flat.mean()
    padded = torch.nn.functional.pad(flat - mean, (0, -len(flat) % SCALES_TOGETHER)).reshape(-1, SCALES_TOGETHER)
    largest = padded.abs().amax(1, keepdim=True)
    units = padded * (1.0 / largest.clamp(min=torch.finfo(torch.float32).tiny))
    units = ((units + 1.0) * (STEPS / 2) + 0.5).floor_().clamp_(0, STEPS) * (2 / STEPS) - 1.0
    codes = torch.bucketize(units, (levels[1:] + levels[:-1]) / 2)
    scales = (levels[codes] * largest).reshape(-1)[: len(flat)] + mean
    return replace(tensor, scales=scales.reshape(tensor.scales.shape).numpy())
