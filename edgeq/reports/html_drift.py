"""Pictures of drift: its parts against their limits, by token, by layer, and for other sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from edgeq.core.details import LayerDivergence, TokenDivergence
from edgeq.core.frontier import Frontier
from edgeq.core.report import Drift, DriftSection, EmbeddingDrift, Gate, LanguageDrift
from edgeq.reports.figures import number, size
from edgeq.reports.html_drawing import Across, drawing, line, logarithmic, powers, text, upright
from edgeq.reports.html_markup import Child, Markup, classed, element
from edgeq.reports.html_words import DRIFT_WORDS

ROW, LAYERS, FRONTIER = 54, 150, 280
MOST_TOKENS = 400
TINTS = (0.01, 0.05, 0.2, 1.0)
"""From what divergence on a token is drawn darker, in nats."""
_LOWEST = -7
_ALL_NAMED = 6
"""Blocks up to which each column has its figure above it."""


def drift_ranges(section: DriftSection, gates: Sequence[Gate]) -> Markup:
    """Each part on one logarithmic axis: the average as a dot, a line to the worst, the limit of the average."""
    rows = {"quantization": section.quantization, "lowering": section.lowering, "total": section.total}
    limits = {name: limit for name in rows if (limit := _limit(name, gates)) is not None}
    low, high = _decades([*(value for part in rows.values() for value in _range(part)), *limits.values()])
    across = logarithmic(low, high)
    height = ROW * len(rows) + 26
    parts: list[Child] = [*powers(low, high, across, height)]
    for index, (name, part) in enumerate(rows.items()):
        parts += _row(ROW * index + 38, DRIFT_WORDS[name][0], _range(part), limits.get(name), across)
    said = "; ".join(
        f"{DRIFT_WORDS[name][0]}: {number(_range(part)[0])} on average, {number(_range(part)[1])} at worst"
        for name, part in rows.items()
    )
    return drawing(height, f"Change of the answers on a logarithmic axis. {said}.", *parts)


def drift_unit(section: DriftSection) -> str:
    """What the axis of `drift_ranges` counts."""
    if isinstance(section.total, EmbeddingDrift):
        return "1 - cosine"
    return "nats per token" if isinstance(section.total, LanguageDrift) else "nats per answer"


def token_strip(tokens: Sequence[TokenDivergence]) -> Markup:
    """A text whose tokens are the darker the more the predictions after them moved."""
    return element(
        "p",
        {"class": "tokens", "dir": "auto"},
        *(
            element("span", {"class": f"t{tint(token.total)}", "title": f"{number(token.total)} nats"}, token.text)
            for token in tokens[:MOST_TOKENS]
        ),
    )


def tint(divergence: float) -> int:
    """From 0, nothing to see, to 4."""
    return sum(1 for bound in TINTS if not divergence < bound)


def layer_columns(layers: Sequence[LayerDivergence]) -> Markup:
    """The error that leaves each block, first block on the left."""
    most = max((layer.relative_error for layer in layers if math.isfinite(layer.relative_error)), default=0.0) or 1.0
    step = 100 / len(layers)
    every = max(1, -(-len(layers) // 12))
    base, top = LAYERS - 24, 22
    worst = max(range(len(layers)), key=lambda index: layers[index].relative_error)
    parts: list[Child] = []
    for index, layer in enumerate(layers):
        height = (base - top) * min(layer.relative_error / most, 1.0)
        box = {"x": f"{index * step + step * 0.12:.2f}%", "width": f"{step * 0.76:.2f}%", "y": f"{base - height:.1f}"}
        words = f"block {layer.layer}: {number(layer.relative_error)}, cosine {layer.cosine:.4f}"
        note = element("title", {}, words)
        parts.append(element("rect", {**box, "height": f"{height:.1f}", "class": "bar", "rx": "2"}, note))
        if index % every == 0:
            parts.append(text((index + 0.5) * step, LAYERS - 7, f"{layer.layer}", "tick"))
        if index == worst or len(layers) <= _ALL_NAMED:
            anchor = "middle"
            if len(layers) > _ALL_NAMED:
                anchor = "start" if index < len(layers) / 4 else "end" if index > 3 * len(layers) / 4 else "middle"
            parts.append(text((index + 0.5) * step, base - height - 6, f"{layer.relative_error:.2g}", "value", anchor))
    said = f"Error after each of {len(layers)} blocks; most after block {layers[worst].layer}"
    return drawing(LAYERS, f"{said}, {number(layers[worst].relative_error)}.", *parts)


def frontier_plot(plan: Frontier) -> Markup:
    """Bytes of the weights across, drift upwards, both logarithmic: the best, the uniform and the chosen plans."""
    groups = {"best": plan.points, "uniform": plan.uniform, "chosen": (plan.chosen,) if plan.chosen else ()}
    points = [point for group in groups.values() for point in group]
    least, most = min(point.bytes for point in points), max(point.bytes for point in points)
    low, high = _decades([point.drift for point in points])
    upwards, width = logarithmic(low, high), math.log(most / least) or 1.0

    def x(point_bytes: int) -> float:
        return 14 + 82 * math.log(point_bytes / least) / width

    def y(drift: float) -> float:
        return 16 + (FRONTIER - 58) * (98 - upwards(drift)) / 96

    parts: list[Child] = []
    for power in range(low, high + 1):
        parts.append(line(y(10.0**power), "grid"))
        parts.append(text(0, y(10.0**power) - 4, f"{10.0**power:g}", "tick", "start"))
    parts += [text(14, FRONTIER - 8, size(least), "tick"), text(96, FRONTIER - 8, size(most), "tick", "end")]
    for of_class, group in groups.items():
        for point in group:
            note = f"{of_class}: {size(point.bytes)}, drift {number(point.drift)}; {', '.join(point.schemes)}"
            place = {"cx": f"{x(point.bytes):.2f}%", "cy": f"{y(point.drift):.1f}", "class": of_class}
            radius = "7" if of_class == "chosen" else "4"
            parts.append(element("circle", {**place, "r": radius}, element("title", {}, note)))
    return drawing(FRONTIER, f"Size against drift of {len(points)} plans.", *parts)


def drift_key() -> Markup:
    """What the signs of `drift_ranges` are."""
    signs = (("dot", "average"), ("end", "worst"), ("limit", "limit of the average"))
    return classed("p", "key", *(classed("span", f"sign {sign}", words) for sign, words in signs))


def _row(y: float, name: str, values: tuple[float, float], limit: float | None, across: Across) -> Iterator[Markup]:
    start, end = across(values[0]), across(values[1])
    yield text(0, y - 18, name, "name", "start")
    row = {"x1": f"{start:.2f}%", "x2": f"{end:.2f}%", "y1": f"{y:.1f}", "y2": f"{y:.1f}", "class": "range"}
    yield element("line", row)
    yield element("circle", {"cx": f"{end:.2f}%", "cy": f"{y:.1f}", "r": "4", "class": "end"})
    yield element("circle", {"cx": f"{start:.2f}%", "cy": f"{y:.1f}", "r": "7", "class": "dot"})
    if limit is not None:
        yield upright(across(limit), y - 12, y + 12, "limit")


def _range(part: Drift) -> tuple[float, float]:
    """Average and worst."""
    if isinstance(part, EmbeddingDrift):
        return 1.0 - part.cosine_mean, 1.0 - part.cosine_min
    return part.kld_mean, part.kld_max


def _limit(name: str, gates: Sequence[Gate]) -> float | None:
    """Of the average, in the axis' unit."""
    for gate in gates:
        if isinstance(gate.limit, int | float):
            if gate.name == f"{name}_kld_mean":
                return float(gate.limit)
            if gate.name == f"{name}_cosine_mean":
                return 1.0 - gate.limit
    return None


def _decades(values: Sequence[float]) -> tuple[int, int]:
    """The powers of ten that hold all values that can be drawn."""
    drawn = [value for value in values if math.isfinite(value) and value > 0] or [1e-3]
    low = max(math.floor(math.log10(min(drawn))), _LOWEST)
    return low, max(math.ceil(math.log10(max(drawn))), low + 1)
