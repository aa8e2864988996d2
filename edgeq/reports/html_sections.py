"""Sections of a report's page: the verdict, the gates, memory, bytes, drift, speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeq.core.details import Details
from edgeq.core.report import ClassDrift, Gate, LanguageDrift, Report, SpeedSection, Verdict
from edgeq.reports import figures
from edgeq.reports.html_drawing import allowance_bar
from edgeq.reports.html_drift import drift_key, drift_ranges, drift_unit
from edgeq.reports.html_markup import Child, Markup, classed, element
from edgeq.reports.html_memory import NEAR, byte_strip, memory_by_phase, memory_over_time
from edgeq.reports.html_words import (
    DRIFT_WORDS,
    GATE_WORDS,
    allowance,
    drift_figures,
    drift_origin,
    drift_sentence,
    group_words,
    headline,
    reasons,
)

MARKS = {Verdict.PASSED: "\u2713", Verdict.FAILED: "\u2715", Verdict.NOT_VALIDATED: "?"}
MOST_REASONS = 50


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading with what belongs to it; `wide` sections take the page's whole width."""

    title: str
    content: tuple[Child, ...]
    wide: bool = True


def verdict_header(report: Report, heading: str) -> Markup:
    """What a reader must not miss. heading: h1 or h2."""
    why = reasons(report)
    items = [element("li", {}, reason) for reason in why[:MOST_REASONS]]
    if len(why) > MOST_REASONS:
        items.append(element("li", {}, f"and {len(why) - MOST_REASONS} more"))
    name = element("bdi", {}, report.model.source)
    return element(
        "header",
        {"class": f"verdict {report.verdict.value}"},
        classed("p", "badge", classed("span", "mark", MARKS[report.verdict]), figures.VERDICT_WORDS[report.verdict]),
        element(heading, {"class": "title"}, name, " for ", element("bdi", {}, report.target)),
        classed("p", "headline", f"{headline(report)}."),
        classed("p", "note", _what(report)),
        classed("ul", "reasons", *items),
    )


def tiles(report: Report) -> Markup:
    """The four figures that people ask for first."""
    weights = report.weights
    share = f"{100 * weights.bytes / weights.float_bytes:.0f} %" if weights.float_bytes else "-"
    figure, words = _memory_tile(report)
    return classed(
        "dl",
        "tiles",
        _tile("Size", figures.size(report.artifact.bytes), f"the weights take {share} of what they take at 16 bits"),
        _tile("Peak memory", figure, words),
        _tile(*_drift_tile(report)),
        _tile(*_speed_tile(report.speed)),
    )


def gates_section(report: Report) -> Section | None:
    """Each gate with what it means, its value, its limit, and how much of the allowance is used."""
    if not report.gates:
        return None
    order = (Verdict.FAILED, Verdict.NOT_VALIDATED, Verdict.PASSED)
    gates = sorted(report.gates, key=lambda gate: order.index(gate.verdict))
    head = ("Gate", "Value", "Limit", "Of the allowance", "Verdict")
    table = element(
        "table",
        {"class": "gates", "role": "table"},
        element("caption", {}, "Worst first. The allowance is what a limit leaves; above 100 % a gate fails."),
        element("thead", {"role": "rowgroup"}, _row("th", [(words, {"scope": "col"}) for words in head])),
        element("tbody", {"role": "rowgroup"}, *map(_gate_row, gates)),
    )
    return Section(title="Gates", content=(table,))


def memory_section(report: Report) -> Section | None:
    """Where memory went, against the limit."""
    memory = report.memory
    if memory is None:
        planned = sum(report.planned_memory.values())
        if not planned:
            return None
        rows = [(name, figures.size(count)) for name, count in report.planned_memory.items()]
        words = f"Not measured. The model file itself plans for {figures.size(planned)}."
        return Section(
            title="Memory", wide=False, content=(paragraph(words), table(("Part", "Bytes"), rows, right=(1,)))
        )
    peak, limit = memory.peak_dirty_bytes, memory.limit_bytes
    words = f"At its peak the model held {figures.size(peak)}"
    if limit > NEAR * peak:
        words += (
            f"; the limit of {figures.size(limit)} is {limit / max(peak, 1):,.0f} times that, far above this picture."
        )
    else:
        words += f" of the {figures.size(limit)} that the target leaves for it."
    if not memory.survived:
        words += " The process was ended by the limit."
    picture = memory_over_time(memory) if memory.samples else memory_by_phase(memory)
    counted = (
        f"Counted as phones do: anonymous, shared and swapped memory, not files mapped from disk. Before the model was "
        f"opened the process held {figures.size(memory.baseline_dirty_bytes)}. Limited by {memory.backend}"
        f"{figures.where_measured(report)}."
    )
    return Section(title="Memory", wide=False, content=(paragraph(words), picture, note(counted)))


def bytes_section(report: Report, details: Details) -> Section | None:
    """Which weights take the room."""
    groups = details.weight_groups
    if not groups:
        return None
    total = sum(group.bytes for group in groups) or 1
    rows = [
        (
            classed(
                "span",
                "named",
                classed("span", f"swatch g{index % 8}"),
                group_words(group.name),
                classed("span", "exact", ", ".join(group.schemes) or "float weights, padding and the graph"),
            ),
            figures.size(group.bytes),
            f"{100 * group.bytes / total:.1f} %",
        )
        for index, group in enumerate(groups)
    ]
    largest = max(groups, key=lambda group: group.bytes)
    words = f"{group_words(largest.name)} takes most: {100 * largest.bytes / total:.0f} % of {figures.size(total)}."
    content: list[Child] = [paragraph(words), byte_strip(groups)]
    content.append(table(("Weights", "Bytes", "Share"), rows, right=(1, 2)))
    if total < report.artifact.bytes:
        rest = figures.size(report.artifact.bytes - total)
        content.append(note(f"Of one model; the bundle holds {rest} in others with the same weights."))
    return Section(title="Where the bytes are", wide=False, content=tuple(content))


def drift_section(report: Report) -> Section | None:
    """What changed in the answers, by step."""
    section = report.drift
    if section is None:
        return None
    parts = {"total": section.total, "quantization": section.quantization, "lowering": section.lowering}
    items: list[Child] = []
    for name, part in parts.items():
        title, against = DRIFT_WORDS[name]
        items.append(element("dt", {}, title, classed("span", "against", against)))
        items.append(element("dd", {}, drift_sentence(part), classed("span", "exact", drift_figures(part))))
    origin = drift_origin(section)
    axis = f"Distance from the original, {drift_unit(section)}; every line is ten times the one before."
    return Section(
        title="What changed in the answers",
        content=(
            paragraph(origin) if origin else None,
            drift_ranges(section, report.gates),
            drift_key(),
            note(axis),
            classed("dl", "drift", *items),
            note(f"Measured {_sample(report)}."),
        ),
    )


def speed_section(report: Report) -> Section | None:
    """What was timed, on which machine."""
    speed = report.speed
    if speed is None:
        return None
    shown = [("Load the model", f"{speed.load_seconds:.2f} s", "")]
    if speed.first_token_seconds is not None:
        shown.append(("Begin to answer", f"{speed.first_token_seconds:.2f} s", "from a prompt to its first token"))
    if speed.prefill_tokens_per_second is not None:
        shown.append(("Read a prompt", f"{speed.prefill_tokens_per_second:,.0f} tokens/s", ""))
    if speed.decode_tokens_per_second is not None:
        shown.append(("Write an answer", f"{speed.decode_tokens_per_second:,.0f} tokens/s", ""))
    if speed.latency_ms is not None:
        shown.append(("Embed a sentence", f"{figures.number(speed.latency_ms)} ms", ""))
    where = f"On the machine that built the bundle ({report.environment.platform}), not on the device."
    tiles = classed("dl", "speeds", *(_tile(*words) for words in shown))
    return Section(title="Speed", content=(tiles, note(where)))


def paragraph(words: str) -> Markup:
    """A sentence of a section's own."""
    return element("p", {}, words)


def note(words: str) -> Markup:
    """What explains, in small print."""
    return classed("p", "note", words)


def table(columns: Sequence[str], rows: Sequence[Sequence[Child]], *, right: Sequence[int] = ()) -> Markup:
    """A table that scrolls by itself where it is wider than the page. The first cell of a row names it."""
    head = [element("th", {"scope": "col", **_right(index in right)}, words) for index, words in enumerate(columns)]
    body = []
    for row in rows:
        cells: list[Child] = [element("th", {"scope": "row"}, row[0])]
        cells += [element("td", _right(index + 1 in right), cell) for index, cell in enumerate(row[1:])]
        body.append(element("tr", {}, *cells))
    inner = element("table", {}, element("thead", {}, element("tr", {}, *head)), element("tbody", {}, *body))
    label = f"Table: {', '.join(columns)}"
    return element("div", {"class": "scroll", "role": "region", "tabindex": "0", "aria-label": label}, inner)


def _right(yes: bool) -> dict[str, str]:
    return {"class": "right"} if yes else {}


def _tile(title: str, figure: str, words: str) -> Markup:
    value, _, unit = figure.partition(" ")
    shown = classed("span", "figure", value, classed("span", "unit", f" {unit}") if unit else None)
    return classed("div", "tile", element("dt", {}, title), element("dd", {}, shown, words))


def _memory_tile(report: Report) -> tuple[str, str]:
    memory = report.memory
    if memory is None:
        planned = sum(report.planned_memory.values())
        return ("-", "not measured") if not planned else (figures.size(planned), "planned by the file, not measured")
    share = memory.peak_dirty_bytes / memory.limit_bytes if memory.limit_bytes else 0.0
    ended = "" if memory.survived else "; ended by the limit"
    return figures.size(
        memory.peak_dirty_bytes
    ), f"{100 * share:.0f} % of the limit of {figures.size(memory.limit_bytes)}{ended}"


def _drift_tile(report: Report) -> tuple[str, str, str]:
    if report.drift is None:
        return "Like the original", "-", "not measured"
    total = report.drift.total
    if isinstance(total, LanguageDrift):
        return "Like the original", f"{100 * total.top1_agreement:.1f} %", "of next tokens are its own first choice"
    if isinstance(total, ClassDrift):
        return "Like the original", f"{100 * total.top1_agreement:.1f} %", "of answers are its own first choice"
    return "Like the original", f"{total.cosine_mean:.4f}", "of 1: how alike the embeddings are"


def _speed_tile(speed: SpeedSection | None) -> tuple[str, str, str]:
    if speed is None:
        return "Speed", "-", "not measured"
    if speed.decode_tokens_per_second is not None:
        return "Speed", f"{speed.decode_tokens_per_second:,.0f} tokens/s", "written, on the building machine"
    if speed.latency_ms is not None:
        return "Speed", f"{figures.number(speed.latency_ms)} ms", "for a sentence, on the building machine"
    return "Speed", f"{speed.load_seconds:.2f} s", "to load, on the building machine"


def _gate_row(gate: Gate) -> Markup:
    value, limit, verdict = figures.gate_cells(gate)
    failed = gate.verdict is Verdict.FAILED
    words = GATE_WORDS.get(gate.name)
    name: list[Child] = [classed("code", "gate", gate.name)]
    name += [] if words is None else [classed("span", "means", words)]
    name += [classed("span", "why", gate.reason)] if gate.reason else []
    mark = classed("span", "mark", MARKS[gate.verdict])
    cells: list[tuple[Child | Sequence[Child], dict[str, str]]] = [
        (name, {"scope": "row"}),
        (value, {"class": "value", "data-label": "value"}),
        (limit, {"class": "value", "data-label": "limit"}),
        (allowance_bar(allowance(gate), failed=failed), {"class": "allowance"}),
        ([mark, verdict], {"class": f"judged {gate.verdict.value}"}),
    ]
    return _row("td", cells)


def _row(kind: str, cells: Sequence[tuple[Child | Sequence[Child], dict[str, str]]]) -> Markup:
    """Roles are said, as a phone's style sheet lays rows out as blocks."""
    parts = []
    for content, attributes in cells:
        scope = attributes.get("scope")
        role = {"col": "columnheader", "row": "rowheader", None: "cell"}[scope]
        children = [content] if isinstance(content, Markup | str) or content is None else content
        parts.append(element("th" if scope else kind, {"role": role, **attributes}, *children))
    return element("tr", {"role": "row"}, *parts)


def _what(report: Report) -> str:
    model, environment = report.model, report.environment
    made_of = f"{model.architecture}, {model.parameters / 1e6:,.1f} M parameters"
    return f"{made_of} \u00b7 {figures.recipe(report)} \u00b7 {environment.runtime} {environment.runtime_version}"


def _sample(report: Report) -> str:
    sample = figures.drift_sample(report)
    return f"as {sample}" if sample.startswith("KL") else sample
