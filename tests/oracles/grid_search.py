"""The least squared error of one group by trying a fine grid of scales with every zero point."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeq.core.scheme import Scheme


def least_error(values: npt.NDArray[np.float32], scheme: Scheme, steps: int = 160) -> float:
    """Sum of squared errors of the best of `steps` scales from a quarter to 1.08 times the min-max scale."""
    top = scheme.levels - 1
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    if scheme.symmetric:
        widest = 2 * max(-low, high) / scheme.levels
        zeros = [scheme.default_zero_point, scheme.default_zero_point - 1]  # the second is a negative scale
    else:
        widest = (high - low) / top
        zeros = list(range(top + 1))
    best = np.inf
    for scale in widest * np.linspace(0.25, 1.08, steps):
        for zero in zeros:
            codes = np.clip(np.rint(values / scale), -zero, top - zero)
            best = min(best, float(np.square(codes * scale - values).sum()))
    return best
