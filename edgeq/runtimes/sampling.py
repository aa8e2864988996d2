"""Choosing the next token from logits: greedy, or nucleus sampling (https://arxiv.org/abs/1904.09751)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeq.errors import UsageError

Logits = npt.NDArray[np.float32]


def check_sampling(temperature: float, top_p: float) -> None:
    """Raises UsageError for a temperature below 0 or a top_p outside (0, 1]."""
    if not temperature >= 0.0 or np.isinf(temperature):
        raise UsageError(f"A temperature of {temperature} has no meaning.", remedy="Use 0 (greedy) or more.")
    if not 0.0 < top_p <= 1.0:
        raise UsageError(f"A top_p of {top_p} has no meaning.", remedy="Use a number above 0 and at most 1.")


def choose_token(logits: Logits, *, temperature: float, top_p: float, rng: np.random.Generator) -> int:
    """The next token id for logits `[vocabulary]`; temperature 0 takes the largest, the first one among equals."""
    if temperature == 0.0:
        return int(logits.argmax())
    scaled = (logits.astype(np.float64) - float(logits.max())) / temperature
    probabilities = np.exp(scaled)
    probabilities /= probabilities.sum()
    order = np.argsort(-probabilities, kind="stable")
    cumulative = np.cumsum(probabilities[order])
    kept = order[: int(np.searchsorted(cumulative, min(top_p, cumulative[-1]))) + 1]
    return int(rng.choice(kept, p=probabilities[kept] / probabilities[kept].sum()))
