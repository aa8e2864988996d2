"""A memory profile for people, as text of 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgeq.core.memory_profile import ContextMemory, ContextPoint, MemoryProfile, MinimumMemory
from edgeq.reports.figures import size

COLUMNS = ("tokens", "peak", "runtime", "weights", "cache", "scratch", "highest in")


def memory_profile_text(profile: MemoryProfile) -> str:
    """What was measured, and why something was not."""
    lines: list[str] = []
    if profile.minimum is not None:
        lines += _minimum_lines(profile.minimum)
    if profile.context is not None:
        lines += [*([""] if lines else []), *_context_lines(profile.context)]
    if profile.reason:
        lines.append(f"memory profile not complete: {profile.reason}")
    return "\n".join(lines)


def fits(context: ContextMemory) -> str:
    """The answer in a sentence."""
    limit = f"{context.target}, under {size(context.limit_bytes)}"
    if context.fits_tokens == 0:
        return f"fits no tokens on {limit}"
    bound = {
        "memory": "the memory limit ends it",
        "model": "the model's own context ends there",
        "target": "the target plans for no more",
    }[context.bound]
    return f"fits up to {context.fits_tokens:,} tokens on {limit}: {bound}"


def _minimum_lines(minimum: MinimumMemory) -> Iterator[str]:
    smallest, failed = size(minimum.minimum_bytes), size(minimum.failed_bytes)
    yield f"runs in {smallest}, not in {failed} ({minimum.backend}, {len(minimum.trials)} runs)"
    phases = ", ".join(f"{name} {size(held)}" for name, held in minimum.phases.items())
    yield f"  peak without a limit {size(minimum.peak_dirty_bytes)}, reached in {minimum.peak_phase}"
    yield f"  by phase: {phases}"


def _context_lines(context: ContextMemory) -> Iterator[str]:
    yield fits(context)
    yield from (f"  {line}" for line in _columns([COLUMNS, *map(_row, context.points)]))
    if context.growth_bytes_per_token is not None:
        cache = f"{size(context.cache_bytes_per_token)} of them the key-value cache"
        yield f"  one more token takes {size(context.growth_bytes_per_token)} on average, {cache}"


def _row(point: ContextPoint) -> tuple[str, ...]:
    if not point.survived:
        return (f"{point.tokens:,}", "-", "-", "-", "-", "-", point.reason)
    parts = (
        point.peak_dirty_bytes,
        point.runtime_bytes,
        point.weights_bytes,
        point.cache_bytes,
        point.scratch_bytes,
    )
    return (f"{point.tokens:,}", *(size(part or 0) for part in parts), point.peak_phase)


def _columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Cells below each other, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for *numbers, last in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(numbers, widths, strict=False)]
        yield "  ".join([*cells, last]).rstrip()
