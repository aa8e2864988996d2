"""Codebooks under a Hessian as the papers have it: one weight at a time, a table `[levels]` for each row."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]
DAMPING = 0.01


def feed_back(weights: Doubles, hessian: Doubles, tables: Doubles, scales: Doubles) -> Codes:
    """GPTQ's codes `[out, in]`; scales are given per weight, `[out, in]`, and inputs go by falling diagonal."""
    weights, codes = weights.copy(), np.zeros(weights.shape, np.int64)
    dead = np.diag(hessian) == 0
    order = np.argsort(-np.diag(hessian), kind="stable")
    inverse = np.linalg.inv(hessian + np.diag(np.where(dead, 1.0, DAMPING * np.diag(hessian).mean())))
    for at, i in enumerate(order):
        for row in range(len(weights)):
            values = tables[row] * scales[row, i]
            codes[row, i] = np.argmin(np.abs(values - weights[row, i]))
            error = (weights[row, i] - values[codes[row, i]]) / inverse[i, i]
            rest = order[at + 1 :]
            weights[row, rest] -= error * inverse[i, rest]
        inverse -= np.outer(inverse[:, i], inverse[i]) / inverse[i, i]
    return codes


def best_table(weights: Doubles, hessian: Doubles, codes: Codes, levels: int) -> Doubles:
    """The entries `[levels]` of one table for all rows, from the normal equations written out."""
    system, right = np.zeros((levels, levels)), np.zeros(levels)
    for row, code in zip(weights, codes, strict=True):
        chosen = np.eye(levels)[code]  # [in, levels]
        system += chosen.T @ hessian @ chosen
        right += chosen.T @ hessian @ row
    return np.linalg.lstsq(system, right, rcond=None)[0].astype(np.float64)


def best_scales(row: Doubles, hessian: Doubles, levels: Doubles, size: int) -> Doubles:
    """The scales `[groups]` of one row whose weights are scales times `levels [in]`."""
    inputs = len(row)
    placed = np.zeros((inputs, -(-inputs // size)))
    placed[np.arange(inputs), np.arange(inputs) // size] = levels
    return np.linalg.lstsq(placed.T @ hessian @ placed, placed.T @ hessian @ row, rcond=None)[0].astype(np.float64)
