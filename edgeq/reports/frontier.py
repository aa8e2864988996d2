"""A plan for people: costs by bits, the frontier of size and drift as a table and as a plot, as text or SVG."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby

from edgeq.core.frontier import BitsCost, FrontierPoint, PlanReport
from edgeq.reports.figures import number

WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 80, 20, 40, 50
COLUMNS, ROWS = 60, 12
_MARKS = "o", "u", "X"
"""The frontier, the uniform plans and the chosen one in a terminal's plot."""


def plan_text(report: PlanReport) -> str:
    """The whole answer as text of 80 columns."""
    lines = [
        f"model    {report.source}  ({report.architecture}, {report.parameters / 1e6:,.1f} M parameters)",
        f"target   {report.target}, {report.format}, context of {report.context_length:,} tokens",
        "",
        *_cost_lines(report.costs),
    ]
    if report.frontier:
        how = "measured" if report.is_measured else "predicted from gradients"
        lines += ["", f"drift in {report.drift_unit}, {how}, by rounding alone: calibrated methods lose less"]
        lines += [*_point_lines(report), "", *_plot_lines(report)]
    if report.chosen is not None:
        lines += ["", f"chosen   {_gigabytes(report.chosen.bytes)} of weights, drift {number(report.chosen.drift)}"]
        lines += [f"         {_schemes(report.chosen)}"]
        lines += [f"         the bundle takes {report.bundle_bytes:,} bytes"] if report.bundle_bytes else []
    return "\n".join(lines)


def plan_svg(report: PlanReport) -> str:
    """The frontier as a picture: bytes of the weights across, drift upwards on a logarithmic scale."""
    points = _all_points(report)
    if not points:
        return ""
    scale = _Scale(points, WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM)
    title = escape(f"{report.source} on {report.target}: size and drift")
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="15">{title}</text>',
        f'<text x="{WIDTH // 2}" y="{HEIGHT - 10}" text-anchor="middle">weights in the file</text>',
        f'<text x="16" y="{HEIGHT // 2}" text-anchor="middle" transform="rotate(-90 16 {HEIGHT // 2})">'
        f"drift, {escape(report.drift_unit)}</text>",
        *_axes(scale),
    ]
    line = " ".join(f"{LEFT + x:.1f},{TOP + y:.1f}" for x, y in map(scale.place, report.frontier))
    parts.append(f'<polyline points="{line}" fill="none" stroke="#2266aa" stroke-width="2"/>')
    for name, colour, group in (
        ("frontier", "#2266aa", report.frontier),
        ("uniform", "#888888", report.uniform),
        ("chosen", "#cc3311", () if report.chosen is None else (report.chosen,)),
    ):
        for point in group:
            x, y = scale.place(point)
            label = escape(f"{name}: {_gigabytes(point.bytes)}, {number(point.drift)}, {_schemes(point)}")
            parts.append(
                f'<circle cx="{LEFT + x:.1f}" cy="{TOP + y:.1f}" r="4" fill="{colour}"><title>{label}</title></circle>'
            )
    return "\n".join([*parts, "</svg>", ""])


class _Scale:
    """From bytes and drift to a place, the least drift at the bottom; both axes logarithmic."""

    def __init__(self, points: Sequence[FrontierPoint], width: int, height: int) -> None:
        self.width, self.height = width, height
        sizes, drifts = [math.log(point.bytes) for point in points], [_log(point.drift) for point in points]
        self.low, self.high = min(sizes), max(sizes)
        self.least, self.most = min(drifts), max(drifts)

    def place(self, point: FrontierPoint) -> tuple[float, float]:
        across = (math.log(point.bytes) - self.low) / ((self.high - self.low) or 1.0)
        down = (self.most - _log(point.drift)) / ((self.most - self.least) or 1.0)
        return across * self.width, down * self.height


def _log(drift: float) -> float:
    """Float16 costs next to nothing, and would flatten everything else."""
    return math.log10(max(drift, 1e-6))


def _all_points(report: PlanReport) -> list[FrontierPoint]:
    return [*report.frontier, *report.uniform, *([] if report.chosen is None else [report.chosen])]


def _axes(scale: _Scale) -> Iterator[str]:
    width, height = scale.width, scale.height
    yield f'<path d="M{LEFT} {TOP}v{height}h{width}" fill="none" stroke="black"/>'
    for step in range(5):
        x, y = LEFT + step * width / 4, TOP + height - step * height / 4
        size = math.exp(scale.low + (scale.high - scale.low) * step / 4)
        drift = 10 ** (scale.least + (scale.most - scale.least) * step / 4)
        yield f'<text x="{x:.1f}" y="{TOP + height + 18}" text-anchor="middle">{_gigabytes(size)}</text>'
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{drift:.1g}</text>'


def _cost_lines(costs: Sequence[BitsCost]) -> Iterator[str]:
    """By bits, in thousands as sizes of models are quoted."""
    yield from _table(
        ("bits", "nominal", "true", "scales", "tables", "in file", "cache", "needs"),
        [
            (
                str(cost.bits),
                *(
                    _gigabytes(value)
                    for value in (
                        cost.nominal_bytes,
                        cost.weights_bytes,
                        cost.scale_bytes,
                        cost.embedding_bytes,
                        cost.file_bytes,
                        cost.cache_bytes,
                        cost.needed_bytes,
                    )
                ),
            )
            for cost in costs
        ],
    )
    for fits, alike in groupby(costs, key=lambda cost: cost.fits):
        yield f"{', '.join(str(cost.bits) for cost in alike)} bits fit {', '.join(fits) or 'no target'}"


def _point_lines(report: PlanReport) -> Iterator[str]:
    points = sorted((*report.frontier, *report.uniform), key=lambda point: point.bytes)
    rows = [
        (
            _gigabytes(point.bytes),
            f"{point.bits_per_weight:.2f}",
            number(point.drift),
            f"{'uniform: ' if point.is_uniform else ''}{_schemes(point)}",
        )
        for point in points
    ]
    yield from _table(("weights", "bits", "drift", "schemes"), rows)


def _plot_lines(report: PlanReport) -> Iterator[str]:
    """Drift upwards, bytes across."""
    points = _all_points(report)
    scale = _Scale(points, COLUMNS - 1, ROWS - 1)
    canvas = [[" "] * COLUMNS for _ in range(ROWS)]
    groups = (report.frontier, report.uniform, () if report.chosen is None else (report.chosen,))
    for mark, group in zip(_MARKS, groups, strict=True):
        for point in group:
            x, y = scale.place(point)
            canvas[round(y)][round(x)] = mark
    for index, row in enumerate(canvas):
        drift = 10 ** (scale.most + (scale.least - scale.most) * index / (ROWS - 1))
        yield f"{drift:>9.1g} |{''.join(row)}".rstrip()
    yield " " * 10 + "+" + "-" * COLUMNS
    least, most = _gigabytes(math.exp(scale.low)), _gigabytes(math.exp(scale.high))
    yield f"{'':11}{least}{most:>{COLUMNS - len(least)}}"
    yield f"{'':11}{_MARKS[0]} frontier  {_MARKS[1]} uniform  {_MARKS[2]} chosen"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns of numbers; the last one is text where it is no number."""
    every = [columns, *rows]
    widths = [max(len(row[index]) for row in every) for index in range(len(columns))]
    for row in every:
        cells = [f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)]
        if columns[-1] == "schemes":
            cells[-1] = row[-1]
        yield "  ".join(cells).rstrip()


def _schemes(point: FrontierPoint) -> str:
    """The commonest schemes with their shares."""
    total = sum(point.schemes.values()) or 1
    return ", ".join(f"{label} {100 * count / total:.0f} %" for label, count in list(point.schemes.items())[:3])


def _gigabytes(count: float) -> str:
    """Bytes in thousands: 3.50 GB, 812 MB, 4.1 MB."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            value = count / factor
            return f"{value:.2f} {unit}" if unit == "GB" else f"{value:.3g} {unit}"
    return f"{count:.0f} B"
