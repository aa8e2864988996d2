"""MemoryProfile: the smallest memory in which a bundle runs, and its memory by context length. All bytes are dirty
memory as in the report's memory section: anonymous, shared and swapped, without a heavy interface's baseline."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Bound = Literal["memory", "model", "target"]
"""What ends a context: the memory limit, the model's own length, or what the target plans for."""


@dataclass(frozen=True, kw_only=True)
class MemoryTrial:
    """One run under one limit. peak_dirty_bytes: how far it came, None where it ended before it opened the model.
    `reason`: how it ended, "" where it came to its end."""

    limit_bytes: int
    survived: bool
    peak_dirty_bytes: int | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class MinimumMemory:
    """minimum_bytes: the smallest limit in which the bundle ran, several times of as many; failed_bytes: the largest
    one below it in which it did not. peak_dirty_bytes: the peak of a run that nothing limits, by phase in `phases`;
    peak_phase is the first of the phases that reached the highest. backend: what enforced the limits."""

    minimum_bytes: int
    failed_bytes: int
    peak_dirty_bytes: int
    peak_phase: str
    backend: str
    phases: dict[str, int]
    trials: tuple[MemoryTrial, ...]


@dataclass(frozen=True, kw_only=True)
class ContextPoint:
    """A sequence of `tokens`: one sentence, or a prompt in one piece and a few tokens decoded after it. Where it ran,
    the four parts add up to peak_dirty_bytes; where it did not, they are None and `reason` says how it ended.

    runtime_bytes: what is charged for the runtime. weights_bytes: what loading added. cache_bytes: one copy of the
    key-value cache of so many tokens, from its shapes; 0 for encoders. scratch_bytes: all else, among it a second copy
    of the cache where the runtime makes one to append to.
    """

    tokens: int
    survived: bool
    peak_dirty_bytes: int | None = None
    runtime_bytes: int | None = None
    weights_bytes: int | None = None
    cache_bytes: int | None = None
    scratch_bytes: int | None = None
    peak_phase: str = ""
    phases: dict[str, int] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class ContextMemory:
    """Memory by context length under `limit_bytes`, each point by a run of its own, shortest first.

    context_length: what the bundle takes at most. fits_tokens: the longest sequence that ran, 0 for none; `bound` says
    what ends it. cache_bytes_per_token is the cache's share of growth_bytes_per_token, the slope of a line through the
    points (None for fewer than two).
    """

    target: str
    limit_bytes: int
    context_length: int
    fits_tokens: int
    bound: Bound
    cache_bytes_per_token: int
    growth_bytes_per_token: float | None
    backend: str
    points: tuple[ContextPoint, ...]


@dataclass(frozen=True, kw_only=True)
class MemoryProfile:
    """What was asked for of the two; `reason` says why one of them is None all the same."""

    minimum: MinimumMemory | None = None
    context: ContextMemory | None = None
    reason: str = ""
