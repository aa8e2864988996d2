"""GPTQ as the paper has it: one input at a time, the inverse Hessian reduced by elimination, in float64."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
DAMPING = 0.01


def feed_back(weights: Doubles, hessian: Doubles, scales: Doubles, zeros: Doubles, top: int) -> Doubles:
    """Codes `[out, in]` for grids given per weight, `[out, in]`; inputs go by falling diagonal."""
    weights, codes = weights.copy(), np.zeros(weights.shape)
    hessian = hessian.copy()
    dead = np.diag(hessian) == 0
    order = np.argsort(-np.diag(hessian), kind="stable")
    hessian += np.diag(np.where(dead, 1.0, DAMPING * np.diag(hessian).mean()))
    inverse = np.linalg.inv(hessian)
    for at, i in enumerate(order):
        codes[:, i] = np.clip(np.rint(weights[:, i] / scales[:, i]) + zeros[:, i], 0, top)
        error = weights[:, i] - scales[:, i] * (codes[:, i] - zeros[:, i])
        rest = order[at + 1 :]
        weights[:, rest] -= np.outer(error / inverse[i, i], inverse[i, rest])
        inverse -= np.outer(inverse[:, i], inverse[i]) / inverse[i, i]
    return codes


def loss(weights: Doubles, quantized: Doubles, hessian: Doubles) -> float:
    """The mean square of the change of the outputs, relative to that of the outputs."""
    changes = sum(float(row @ hessian @ row) for row in weights - quantized)
    return changes / sum(float(row @ hessian @ row) for row in weights)
