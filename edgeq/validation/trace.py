"""Memory over time, thinned while it is recorded: a run of an hour takes no more room than one of a second."""

from __future__ import annotations

from dataclasses import dataclass, field

MOST_PER_PHASE = 64
FINEST_SECONDS = 0.002


@dataclass
class _Phase:
    """The highest reading in each interval of `width` seconds since the phase began; intervals without one are left
    out."""

    width: float = FINEST_SECONDS
    peaks: dict[int, tuple[float, int]] = field(default_factory=dict)

    def add(self, since: float, dirty: int) -> None:
        self._keep(since, dirty)
        while len(self.peaks) > MOST_PER_PHASE:
            self.width *= 2
            kept, self.peaks = list(self.peaks.values()), {}
            for one in kept:
                self._keep(*one)

    def _keep(self, since: float, dirty: int) -> None:
        slot = int(since / self.width)
        if slot not in self.peaks or dirty > self.peaks[slot][1]:
            self.peaks[slot] = (since, dirty)


class Trace:
    """Readings of dirty memory by phase: at most MOST_PER_PHASE of each, the highest among them."""

    def __init__(self) -> None:
        self._phases: dict[str, tuple[float, _Phase]] = {}

    def add(self, seconds: float, dirty: int, phase: str) -> None:
        """One reading; `seconds` on a clock that does not go back."""
        start, kept = self._phases.setdefault(phase, (seconds, _Phase()))
        kept.add(seconds - start, dirty)

    def samples(self) -> list[tuple[float, int, str]]:
        """`(seconds, bytes, phase)` in order."""
        return [
            (start + since, dirty, phase)
            for phase, (start, kept) in self._phases.items()
            for _, (since, dirty) in sorted(kept.peaks.items())
        ]
