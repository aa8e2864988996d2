"""The results as a Markdown table and as a plot of divergence over bits per weight."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from benchmarks.quality_candidates import EDGEQ, Candidate

MIB = 2**20
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 860, 520, 70, 230, 24, 48
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf", "#ff7f0e")
LEAST_LOSS = 1e-7


@dataclass(frozen=True, kw_only=True)
class Result:
    """One row: what was stored, what it cost, and the drift as edgeq reports it; or why the tool refused.

    `stored_bytes` are the matrices' codes, scales and zero points; `total_bytes` adds everything else at 16 bits.
    `seconds` are wall time of quantizing alone, `cpu_seconds` those of the whole process with its imports.
    """

    candidate: Candidate
    refused: str | None = None
    bits_per_weight: float = 0.0
    stored_bytes: int = 0
    total_bytes: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_rss_bytes: int = 0
    drift: Mapping[str, float] | None = None

    @property
    def loss(self) -> float:
        """Mean divergence in nats per token; for embeddings 1 - mean cosine."""
        drift = self.drift or {}
        return drift["kld_mean"] if "kld_mean" in drift else 1.0 - drift["cosine_mean"]


def baseline_loss(results: Sequence[Result], bits: int) -> float | None:
    """edgeq's plain round-to-nearest at these bits."""
    for result in results:
        asked = result.candidate
        if asked.tool == EDGEQ and asked.bits == bits and asked.variant == "rtn" and result.drift:
            return result.loss
    return None


def best_peer(results: Sequence[Result], bits: int) -> Result | None:
    """The peer with the least loss at these bits, whatever it stores."""
    peers = [one for one in results if one.candidate.tool != EDGEQ and one.candidate.bits == bits and one.drift]
    return min(peers, key=lambda one: one.loss, default=None)


def markdown_table(results: Sequence[Result]) -> str:
    """Rows by bits, least loss first, those that refused at the end. `of RTN` and `of peer` are ratios of the loss to
    edgeq's round-to-nearest, and to the best peer, at these bits."""
    encoder = any(result.drift and "cosine_mean" in result.drift for result in results)
    quality = (
        ["1 - cosine", "mean cosine", "minimum", "rank corr."] if encoder else ["KLD", "99.9 %", "top-1", "ppl ratio"]
    )
    heads = [
        "bits",
        "",
        *quality,
        "of RTN",
        "of peer",
        "bits/weight",
        "matrices",
        "total",
        "seconds",
        "CPU",
        "peak RSS",
    ]
    lines = [f"| {' | '.join(heads)} |", f"|---:|---|{'---:|' * (len(heads) - 2)}"]
    for bits in sorted({result.candidate.bits for result in results}, reverse=True):
        rows = [result for result in results if result.candidate.bits == bits]
        baseline, peer = baseline_loss(rows, bits), best_peer(rows, bits)
        for result in sorted((row for row in rows if row.drift), key=lambda row: row.loss):
            cells = _cells(result, baseline, None if peer is None else peer.loss)
            lines.append(f"| {bits} | {' | '.join(cells)} |")
        for reason, names in _refusals(rows).items():
            lines.append(f"| {bits} | {', '.join(names)} | {reason} |{' |' * (len(heads) - 3)}")
    return "\n".join(lines)


def _refusals(results: Sequence[Result]) -> dict[str, list[str]]:
    """The rows that there are not, by the reason."""
    found: dict[str, list[str]] = {}
    for result in results:
        if result.refused:
            found.setdefault(result.refused, []).append(result.candidate.name)
    return found


def _cells(result: Result, baseline: float | None, peer: float | None) -> list[str]:
    drift = result.drift or {}
    if "cosine_mean" in drift:
        keys = ("cosine_mean", "cosine_min", "rank_correlation")
        quality = [_short(result.loss), *(f"{drift[key]:.4f}" for key in keys)]
    else:
        quality = [_short(drift["kld_mean"]), _short(drift["kld_p999"])]
        quality += [f"{drift['top1_agreement']:.4f}", f"{drift['perplexity_ratio']:.4f}"]
    return [
        result.candidate.name,
        *quality,
        _ratio(result.loss, baseline),
        _ratio(result.loss, peer),
        f"{result.bits_per_weight:.3f}",
        f"{result.stored_bytes / MIB:,.2f} MiB",
        f"{result.total_bytes / MIB:,.2f} MiB",
        f"{result.seconds:,.1f} s",
        f"{result.cpu_seconds:,.1f} s",
        f"{result.peak_rss_bytes / MIB:,.0f} MiB",
    ]


def _short(value: float) -> str:
    """Four significant digits, never an exponent."""
    if value <= 0.0 or not math.isfinite(value):
        return f"{value:.1f}"
    return f"{value:.{max(0, 3 - math.floor(math.log10(value)))}f}"


def _ratio(value: float, other: float | None) -> str:
    return "" if not other else f"{value / other:.2f}"


def plot(results: Sequence[Result], title: str) -> str:
    """An SVG: bits per weight, all bytes counted, against the loss on a logarithmic axis; one line per quantizer."""
    points = [result for result in results if result.drift and math.isfinite(result.loss)]
    if not points:
        return ""
    lines: dict[str, list[tuple[float, float]]] = {}
    for result in sorted(points, key=lambda one: one.bits_per_weight):
        lines.setdefault(_series(result.candidate), []).append((result.bits_per_weight, max(result.loss, LEAST_LOSS)))
    axes = _Axes.around([point for line in lines.values() for point in line])
    label = "1 - mean cosine" if "cosine_mean" in (points[0].drift or {}) else "KL divergence, nats per token"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif"'
        ' font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="16" font-weight="bold">{escape(title)}</text>',
        *axes.grid(label),
    ]
    for index, (name, line) in enumerate(
        sorted(lines.items(), key=lambda entry: (not entry[0].startswith(EDGEQ), entry[0]))
    ):
        parts += _line(axes, name, line, index)
    return "\n".join([*parts, "</svg>", ""])


def _series(candidate: Candidate) -> str:
    """llama.cpp's types are one quantizer; a scheme of any other is the same at all bits."""
    if candidate.tool != "llamacpp":
        return candidate.name
    return "llama.cpp i-quants" if candidate.variant.startswith("IQ") else "llama.cpp"


@dataclass(frozen=True, kw_only=True)
class _Axes:
    """`x` are bits per weight, `y` decades of the loss."""

    x: tuple[float, float]
    y: tuple[int, int]

    @classmethod
    def around(cls, points: Sequence[tuple[float, float]]) -> _Axes:
        bits = [bits for bits, _ in points]
        decades = [math.log10(loss) for _, loss in points]
        lowest = math.floor(min(decades))
        return cls(
            x=(math.floor(min(bits)), math.floor(max(bits)) + 1),
            y=(lowest, max(lowest + 1, math.ceil(max(decades)))),
        )

    def place(self, bits: float, loss: float) -> tuple[float, float]:
        (x0, x1), (y0, y1) = self.x, self.y
        across = LEFT + (WIDTH - LEFT - RIGHT) * (bits - x0) / (x1 - x0)
        down = TOP + (HEIGHT - TOP - BOTTOM) * (y1 - math.log10(loss)) / (y1 - y0)
        return round(across, 1), round(down, 1)

    def grid(self, label: str) -> list[str]:
        """Lines and numbers at every bit and decade, and what the axes are."""
        parts, right, bottom = [], WIDTH - RIGHT, HEIGHT - BOTTOM
        for bits in range(int(self.x[0]), int(self.x[1]) + 1):
            x, _ = self.place(bits, 1.0)
            parts.append(f'<path d="M{x} {TOP}V{bottom}" stroke="#ddd"/>')
            parts.append(f'<text x="{x}" y="{bottom + 16}" text-anchor="middle">{bits}</text>')
        for decade in range(self.y[0], self.y[1] + 1):
            _, y = self.place(self.x[0], 10.0**decade)
            parts.append(f'<path d="M{LEFT} {y}H{right}" stroke="#ddd"/>')
            parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{10.0**decade:g}</text>')
        middle = (TOP + bottom) / 2
        parts.append(f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 10}" text-anchor="middle">bits per weight</text>')
        parts.append(
            f'<text transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">{escape(label)}</text>'
        )
        return parts


def _line(axes: _Axes, name: str, line: Sequence[tuple[float, float]], index: int) -> list[str]:
    """One quantizer: its points, the line through them and its name in the legend. Peers' lines are dashed."""
    colour = COLOURS[index % len(COLOURS)]
    places = [axes.place(*point) for point in line]
    dash = "" if name.startswith(EDGEQ) else ' stroke-dasharray="5 3"'
    path = "M" + "L".join(f"{x} {y}" for x, y in places)
    x, y = WIDTH - RIGHT + 16, TOP + 12 + 18 * index
    return [
        f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.5"{dash}/>',
        *(f'<circle cx="{px}" cy="{py}" r="3.5" fill="{colour}"/>' for px, py in places),
        f'<path d="M{x} {y}h22" stroke="{colour}" stroke-width="1.5"{dash}/>',
        f'<text x="{x + 28}" y="{y + 4}">{escape(name)}</text>',
    ]
