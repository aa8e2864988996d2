"""Half-quadratic quantization of one group, in float64, from a given grid."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def power(error: npt.NDArray[np.float64]) -> float:
    return float((np.abs(error) ** 0.7).sum())


def least_error(values: npt.NDArray[np.float32], scale: float, zero: int, top: int, *, symmetric: bool) -> float:
    """The least sum of `|error|**0.7`, in units of `scale`, that twenty rounds come by, the first grid included."""
    units, step, found = values.astype(np.float64) / scale, 1.0, []
    for beta in [10.0 * 1.01**k for k in range(21)]:
        codes = np.clip(np.rint(units / step), -zero, top - zero)
        error = units - codes * step
        found.append(power(error))
        shrunk = np.array([np.sign(e) * max(abs(e) - abs(e) ** -0.3 / beta, 0.0) if e else 0.0 for e in error])
        rest = units - shrunk
        if fitted := max((codes * rest).sum() / max((codes**2).sum(), 1.0), 0.0):
            step = fitted
        if not symmetric:
            zero = int(np.clip(zero + np.rint(np.mean(codes - rest / step)), 0, top))
    return min(found)
