"""Memory by context length, the arithmetic: which lengths to measure, and what a measured peak is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeq.core.memory_profile import Bound

SHORTEST_TOKENS = 32
LENGTHS = 4


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Bytes that add up to a peak; as in ContextPoint."""

    runtime: int
    weights: int
    cache: int
    scratch: int


def lengths_to_measure(context_length: int, *, count: int = LENGTHS, shortest: int = SHORTEST_TOKENS) -> list[int]:
    """At most `count` lengths from `shortest` to `context_length`, each the same factor longer; both ends are in."""
    if context_length <= shortest:
        return [context_length]
    factor = (context_length / shortest) ** (1 / (count - 1))
    return sorted({shortest, context_length, *(round(shortest * factor**index) for index in range(1, count - 1))})


def parts_of(peak: int, *, runtime: int, loaded: int, cache: int) -> Parts:
    """What a peak is made of. runtime: held before the model was opened. loaded: held when it was open, the runtime
    with it. cache: one copy of the key-value cache. Bytes.

    Where a runtime makes its cache while it loads, what was loaded holds it already, and less is left for the weights.
    """
    runtime = min(runtime, peak)
    cache = min(cache, peak - runtime)
    weights = max(0, min(loaded - runtime, peak - runtime - cache))
    return Parts(runtime=runtime, weights=weights, cache=cache, scratch=peak - runtime - weights - cache)


def growth_per_token(peaks: Sequence[tuple[int, int]]) -> float | None:
    """The slope of a line of least squares through `(tokens, bytes)`; None for fewer than two lengths."""
    if len({tokens for tokens, _ in peaks}) < 2:
        return None
    tokens, held = np.array(peaks, dtype=np.float64).T
    centred = tokens - tokens.mean()
    return float(centred @ (held - held.mean()) / (centred @ centred))


def bound_of(fits_tokens: int, *, context_length: int, planned_length: int) -> Bound:
    """What ends a context. context_length: the bundle's, planned_length: the target's, which the bundle's model may
    not reach."""
    if fits_tokens < context_length:
        return "memory"
    return "model" if context_length < planned_length else "target"


def first_highest(phases: dict[str, int], *, slack: int = 1 << 20) -> str:
    """The first phase whose peak comes within `slack` bytes of the highest: later ones that only keep it are not what
    made it. Empty for no phases."""
    highest = max(phases.values(), default=0)
    return next((name for name, peak in phases.items() if peak >= highest - slack), "")
