"""AWQ's search as the paper has it: a loop over exponents, another over columns, in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]


def scales(magnitudes: Doubles, exponent: float) -> Doubles:
    """Magnitudes below 1e-4 of the largest count as that."""
    found = np.array([max(value, 1e-4 * max(magnitudes)) ** exponent for value in magnitudes])
    return np.asarray(found / np.sqrt(found.max() * found.min()))


def error(weights: Doubles, hessian: Doubles, by_column: Doubles, quantize: Callable[[Doubles], Doubles]) -> float:
    """Of the outputs: quantized scaled weights meet inputs that were divided."""
    scaled = weights.copy()
    for column in range(weights.shape[1]):
        scaled[:, column] *= by_column[column]
    missed = quantize(scaled) - scaled
    for column in range(weights.shape[1]):
        missed[:, column] /= by_column[column]
    return sum(float(row @ hessian @ row) for row in missed)
