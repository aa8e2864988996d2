"""Pieces of pictures as inline SVG. Places across are percentages, so that text keeps its size on a phone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from edgeq.reports.figures import size
from edgeq.reports.html_markup import Child, Markup, classed, element, joined

TOP, BOTTOM = 24, 42
Across = Callable[[float], float]
"""From a value to percent of the width."""


class Height:
    """From bytes, 0 at the bottom, to a place downwards in a picture of `height`."""

    def __init__(self, most: float, height: int) -> None:
        self.base = float(height - BOTTOM)
        self.step = _round_step(most / 3)
        self._most = max(most, 1.0)

    def y(self, value: float) -> float:
        return self.base - (self.base - TOP) * value / self._most

    def grid(self) -> Iterator[Markup]:
        """Lines at round sizes, each with its size above it."""
        for index in range(int(self._most / self.step) + 1):
            y = self.y(index * self.step)
            yield line(y, "axis" if index == 0 else "grid")
            if index:
                yield text(0, y - 4, size(index * self.step).replace(".0 ", " "), "tick", "start")


def drawing(height: float, label: str, *children: Child) -> Markup:
    """A picture as wide as its place; `label` says what it shows to who cannot see it."""
    attributes = {"class": "chart", "width": "100%", "height": f"{height:g}", "role": "img", "aria-label": label}
    return element("svg", attributes, *children)


def text(x: float, y: float, words: str, of_class: str, anchor: str = "middle") -> Markup:
    """x in percent."""
    return element("text", {"x": f"{x:.2f}%", "y": f"{y:.1f}", "class": of_class, "text-anchor": anchor}, words)


def line(y: float, of_class: str) -> Markup:
    """From left to right."""
    return element("line", {"x1": "0", "x2": "100%", "y1": f"{y:.1f}", "y2": f"{y:.1f}", "class": of_class})


def upright(x: float, top: float, bottom: float, of_class: str) -> Markup:
    """From top to bottom; x in percent."""
    place = f"{x:.2f}%"
    return element("line", {"x1": place, "x2": place, "y1": f"{top:.1f}", "y2": f"{bottom:.1f}", "class": of_class})


def allowance_bar(share: float | None, *, failed: bool) -> Markup:
    """How much of a limit is used, as a bar with its figure."""
    if share is None:
        return Markup("")
    fill = element("span", {"class": "fill bad" if failed else "fill", "style": f"width:{100 * min(share, 1.0):.1f}%"})
    figure = "< 1 %" if 0 < share < 0.01 else f"{100 * share:,.0f} %" if share < 100 else "over 9,999 %"
    return joined([element("span", {"class": "meter", "aria-hidden": "true"}, fill), classed("span", "share", figure)])


def powers(low: int, high: int, across: Across, height: float) -> Iterator[Markup]:
    """The grid of a logarithmic axis from 10**low to 10**high."""
    skip = 1 if high - low <= 5 else 2
    for power in range(low, high + 1):
        x = across(10.0**power)
        yield upright(x, 4, height - 24, "grid")
        if (power - low) % skip == 0:
            anchor = "start" if power == low else "end" if power == high else "middle"
            yield text(x, height - 8, f"{10.0**power:g}" if power > -5 else f"1e{power}", "tick", anchor)


def logarithmic(low: int, high: int) -> Across:
    """The axis from 10**low to 10**high; what lies beyond is drawn at its end."""

    def across(value: float) -> float:
        power = math.log10(min(max(value, 10.0**low), 10.0**high))
        return 2 + 96 * (power - low) / (high - low)

    return across


def _round_step(about: float) -> float:
    """1, 2 or 5 times a power of ten, of the binary unit that fits."""
    unit = 1024.0 ** max(0, min(3, int(math.log(max(about, 1.0), 1024))))
    power = 10.0 ** math.floor(math.log10(max(about / unit, 1.0)))
    factor = next((factor for factor in (1, 2, 5) if about / unit <= factor * power), 10)
    return unit * power * factor
