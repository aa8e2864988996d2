"""The best clusters of numbers on a line, by dynamic programming over every border."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def least_error(values: npt.NDArray[np.float32], clusters: int, counts: npt.NDArray[np.float32] | None = None) -> float:
    """The least sum of squared distances to the means of at most `clusters` clusters, each times its count if given."""
    order = np.argsort(values.ravel())
    ordered = values.ravel()[order].astype(np.float64)
    each = np.ones(len(ordered)) if counts is None else counts.ravel()[order].astype(np.float64)
    count = len(ordered)
    parts = (each, each * ordered, each * ordered**2)
    masses, sums, squares = (np.concatenate([[0.0], np.cumsum(part)]) for part in parts)
    cost = np.full((count + 1, count + 1), np.inf)  # of the numbers start to stop as one cluster
    for start in range(count + 1):
        stops = np.arange(start + 1, count + 1)
        mass = masses[stops] - masses[start]
        cost[start, stops] = squares[stops] - squares[start] - (sums[stops] - sums[start]) ** 2 / mass
        cost[start, start] = 0.0
    best = cost[0]
    for _ in range(clusters - 1):
        best = (best[:, None] + cost).min(axis=0)
    return float(best[count])
