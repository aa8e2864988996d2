"""Pictures of drift: its parts against their limits, and what it is by token."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from edgeq.core.details import TokenDivergence
from edgeq.core.report import Drift, DriftSection, EmbeddingDrift, Gate, LanguageDrift
from edgeq.reports.figures import number
from edgeq.reports.html_drawing import Across, drawing, logarithmic, powers, text, upright
from edgeq.reports.html_markup import Child, Markup, classed, element
from edgeq.reports.html_words import DRIFT_WORDS

ROW = 54
MOST_TOKENS = 400
TINTS = (0.01, 0.05, 0.2, 1.0)
"""From what divergence on a token is drawn darker, in nats."""
_LOWEST = -7


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
