"""4-bit NormalFloat as the QLoRA paper has it."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import numpy.typing as npt


def levels() -> list[float]:
    """Quantiles of the normal distribution: seven below zero, zero, eight above, divided by the largest."""
    last = (1 - 1 / 32 + 1 - 1 / 30) / 2
    quantile = NormalDist().inv_cdf
    negative = [-quantile(p) for p in np.linspace(last, 0.5, 8)[:-1]]
    positive = [quantile(p) for p in np.linspace(last, 0.5, 9)[:-1]]
    return [value / max(positive) for value in sorted([*negative, 0.0, *positive])]


def quantize(
    weights: npt.NDArray[np.float32], table: npt.NDArray[np.float32], group_size: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Codes `[out, in]` and scales `[out, groups]`, weight by weight."""
    outputs, inputs = weights.shape
    codes = np.zeros((outputs, inputs), np.uint8)
    scales = np.zeros((outputs, -(-inputs // group_size)), np.float32)
    for (o, i), weight in np.ndenumerate(weights):
        start = i - i % group_size
        scale = np.abs(weights[o, start : start + group_size]).max()
        scales[o, i // group_size] = scale
        codes[o, i] = np.abs(table - weight / scale).argmin()
    return codes, scales
