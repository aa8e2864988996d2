"""The best clusters of numbers on a line, by dynamic programming over every border."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def least_error(values: npt.NDArray[np.float32], clusters: int) -> float:
    """The least sum of squared distances to the means of at most `clusters` clusters."""
    ordered = np.sort(values.ravel().astype(np.float64))
    count = len(ordered)
    sums, squares = (np.concatenate([[0.0], np.cumsum(part)]) for part in (ordered, ordered**2))
    cost = np.full((count + 1, count + 1), np.inf)  # of the numbers start to stop as one cluster
    for start in range(count + 1):
        stops = np.arange(start + 1, count + 1)
        cost[start, stops] = squares[stops] - squares[start] - (sums[stops] - sums[start]) ** 2 / (stops - start)
        cost[start, start] = 0.0
    best = cost[0]
    for _ in range(clusters - 1):
        best = (best[:, None] + cost).min(axis=0)
    return float(best[count])
