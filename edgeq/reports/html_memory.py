"""Pictures of bytes: memory by phase and over time, and where the bytes of a model are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from edgeq.core.details import MemorySample, WeightGroup
from edgeq.core.report import MemorySection
from edgeq.reports.figures import size
from edgeq.reports.html_drawing import TOP, Height, drawing, line, text, upright
from edgeq.reports.html_markup import Child, Markup, element
from edgeq.reports.html_words import phase_words

HEIGHT = 210
STRIP = 36
AXIS = 15
"""Percent of the width that is left to the sizes beside columns."""
NEAR = 3.0
"""A limit so many times above the peak is told, not drawn: it would flatten everything else."""


def memory_by_phase(memory: MemorySection) -> Markup:
    """The highest memory of each phase as columns; the limit as a line where it is near."""
    phases = memory.phases or {"peak": memory.peak_dirty_bytes}
    scale = _scale(memory, max(phases.values()))
    step = (100 - AXIS) / len(phases)
    width = min(step * 0.55, 16)
    parts: list[Child] = [*scale.grid()]
    for index, (name, held) in enumerate(phases.items()):
        middle, y = AXIS + (index + 0.5) * step, scale.y(held)
        box = {"x": f"{middle - width / 2:.2f}%", "y": f"{y:.1f}", "width": f"{width:.2f}%", "rx": "4"}
        of_class = "bar bad" if held > memory.limit_bytes else "bar"
        parts.append(element("rect", {**box, "height": f"{max(scale.base - y, 1.0):.1f}", "class": of_class}))
        parts.append(text(middle, y - 6, size(held), "value"))
        parts.append(text(middle, scale.base + 18, phase_words(name), "tick"))
    parts += _limit(memory, scale)
    said = ", ".join(f"{phase_words(name)} {size(held)}" for name, held in phases.items())
    return drawing(HEIGHT, f"Peak memory by phase: {said}; limit {size(memory.limit_bytes)}.", *parts)


def memory_over_time(memory: MemorySection) -> Markup:
    """Memory as it rose and fell. All phases are equally wide, or a long one would hide what happens while loading."""
    phases: dict[str, list[MemorySample]] = {}
    for sample in memory.samples:
        phases.setdefault(sample.phase, []).append(sample)
    scale = _scale(memory, max(sample.dirty_bytes for sample in memory.samples))
    starts = [samples[0].seconds for samples in phases.values()]
    ends = [*starts[1:], memory.samples[-1].seconds]
    step = (1000 - 10 * AXIS) / len(phases)
    points: list[tuple[float, float]] = []
    parts: list[Child] = [*scale.grid()]
    for index, (name, samples) in enumerate(phases.items()):
        left, seconds = 10 * AXIS + index * step, ends[index] - starts[index]
        shares = [(sample.seconds - starts[index]) / (seconds or 1.0) for sample in samples]
        points += [
            (left + step * min(share, 1.0), scale.y(one.dirty_bytes))
            for share, one in zip(shares, samples, strict=True)
        ]
        parts += [upright(left / 10, TOP, scale.base, "divider")] if index else []
        parts.append(text((left + step / 2) / 10, HEIGHT - 23, phase_words(name), "tick"))
        parts.append(text((left + step / 2) / 10, HEIGHT - 7, f"{seconds:.2f} s", "tick"))
    points.append((1000.0, points[-1][1]))
    steps = [_point(*points[0])]
    for (_, before), (x, y) in pairwise(points):
        steps += [_point(x, before), _point(x, y)]
    parts += [_curve(steps, points[0][0], scale.base), *_highest(memory.samples, points, scale), *_limit(memory, scale)]
    said = ", ".join(
        f"{phase_words(name)} up to {size(max(sample.dirty_bytes for sample in samples))}"
        for name, samples in phases.items()
    )
    return drawing(HEIGHT, f"Memory over time: {said}; limit {size(memory.limit_bytes)}.", *parts)


def _curve(steps: Sequence[str], left: float, base: float) -> Markup:
    """Stretched to the width of the page, its line not."""
    inner = {"viewBox": f"0 0 1000 {HEIGHT}", "preserveAspectRatio": "none", "width": "100%", "height": f"{HEIGHT}"}
    area = " ".join([_point(left, base), *steps, _point(1000, base)])
    return element(
        "svg",
        {**inner, "aria-hidden": "true"},
        element("polyline", {"points": Markup(area), "class": "area"}),
        element("polyline", {"points": Markup(" ".join(steps)), "class": "curve"}),
    )


def _highest(samples: Sequence[MemorySample], points: Sequence[tuple[float, float]], scale: Height) -> Iterator[Markup]:
    """The peak, by a dot with its size."""
    index = max(range(len(samples)), key=lambda index: samples[index].dirty_bytes)
    x, y = points[index][0] / 10, scale.y(samples[index].dirty_bytes)
    yield element("circle", {"cx": f"{x:.2f}%", "cy": f"{y:.1f}", "r": "4", "class": "dot"})
    yield text(x, y - 8, size(samples[index].dirty_bytes), "value", "end" if x > 85 else "middle")


def byte_strip(groups: Sequence[WeightGroup]) -> Markup:
    """All groups in one strip, each as wide as its share."""
    total = sum(group.bytes for group in groups) or 1
    parts: list[Child] = []
    left = 0.0
    for index, group in enumerate(groups):
        width = 100 * group.bytes / total
        box = {"x": f"{left:.3f}%", "y": "0", "width": f"{width:.3f}%", "height": f"{STRIP}", "class": f"g{index % 8}"}
        parts.append(element("rect", box, element("title", {}, f"{group.name}: {size(group.bytes)}")))
        if width >= 9:
            parts.append(text(left + width / 2, 23, f"{width:.0f} %", "on"))
        left += width
    said = ", ".join(f"{group.name} {100 * group.bytes / total:.0f} %" for group in groups)
    return drawing(STRIP, f"Where the bytes are: {said}.", *parts)


def _scale(memory: MemorySection, most: int) -> Height:
    peak = max(memory.peak_dirty_bytes, most, 1)
    return Height(max(peak, memory.limit_bytes) if memory.limit_bytes <= NEAR * peak else peak, HEIGHT)


def _limit(memory: MemorySection, scale: Height) -> Iterator[Markup]:
    y = scale.y(memory.limit_bytes)
    if y >= TOP - 1:
        yield line(y, "limit")
        yield text(100, y - 6, f"limit {size(memory.limit_bytes)}", "limit-name", "end")


def _point(x: float, y: float) -> str:
    return f"{x:.1f},{y:.1f}"
