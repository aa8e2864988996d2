"""Round-to-nearest as the textbook has it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeq.core.scheme import Scheme
from edgeq.core.tensor import QuantizedTensor

Matrix = npt.NDArray[np.float32]


def round_to_nearest(weights: Matrix, scheme: Scheme) -> QuantizedTensor:
    """Group by group, float32 throughout."""
    outputs, inputs = weights.shape
    size = scheme.group_size or inputs
    top = 2**scheme.bits - 1
    codes = np.zeros((outputs, inputs), np.uint8)
    scales = np.zeros((outputs, scheme.groups(inputs)), np.float32)
    zeros = np.zeros(scales.shape, np.uint8)
    for o in range(outputs):
        for g in range(scheme.groups(inputs)):
            values = weights[o, g * size : (g + 1) * size]
            if scheme.symmetric:
                extreme = values[np.argmax(np.abs(values))]
                scale, zero = extreme / np.float32(-(2 ** (scheme.bits - 1))), 2 ** (scheme.bits - 1)
            else:
                low, high = min(values.min(), np.float32(0)), max(values.max(), np.float32(0))
                scale = (high - low) / np.float32(top)
                zero = int(np.rint(-low / scale))
            scales[o, g], zeros[o, g] = scale, zero
            codes[o, g * size : (g + 1) * size] = np.clip(np.rint(values / scale) + zero, 0, top)
    return QuantizedTensor(scheme=scheme, codes=codes, scales=scales, zero_points=None if scheme.symmetric else zeros)
