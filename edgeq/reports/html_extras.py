"""Further sections of a report's page: what was recorded beside the figures, the runs, the surroundings, the files."""

from __future__ import annotations

from collections.abc import Sequence

from edgeq.core.details import Answer, NextWord
from edgeq.core.frontier import FrontierPoint
from edgeq.core.report import Report
from edgeq.reports import figures
from edgeq.reports.html_drift import MOST_TOKENS, TINTS, frontier_plot, layer_columns, token_strip
from edgeq.reports.html_markup import Child, Markup, classed, element
from edgeq.reports.html_sections import Section, note, paragraph, table

MOST_FILES = 200
MOST_NOTES = 100
MOST_ANSWERS = 8


def answers_section(report: Report) -> Section | None:
    """The same prompt to both models."""
    if report.drift is None or not report.drift.answers:
        return None
    answers = report.drift.answers[:MOST_ANSWERS]
    words = ["The same text given to both; what each holds to be the next token, with its probability."]
    written = [answer for answer in answers if answer.both or answer.original_text or answer.exported_text]
    if written:
        same = sum(1 for answer in written if not answer.original_text and not answer.exported_text)
        rest = "" if same == len(written) else " From where the others part the text is marked."
        words.append(
            f"Each then goes on by its own most likely tokens: {same} of {len(written)} texts are the same.{rest} A "
            f"choice between two words that are nearly as likely can fall either way without harm."
        )
    return Section(
        title="The same prompt, original and exported", content=(*map(paragraph, words), *map(_answer, answers))
    )


def tokens_section(report: Report) -> Section | None:
    """Where in a text the predictions moved."""
    if report.drift is None or not report.drift.tokens:
        return None
    tokens = report.drift.tokens
    worst = max(tokens, key=lambda token: (bool(token.text.strip()), token.total))
    words = (
        f"Each token is the darker, the more the prediction of what follows it has changed. Most after "
        f"\u201c{worst.text.strip()}\u201d: {figures.number(worst.total)} nats."
    )
    scale = [
        classed("span", f"sign t{index}", bound)
        for index, bound in enumerate((f"below {TINTS[0]:g}", *(f"from {bound:g}" for bound in TINTS)))
    ]
    cut = f" The first {MOST_TOKENS} of {len(tokens):,} tokens." if len(tokens) > MOST_TOKENS else ""
    return Section(
        title="Change by token",
        content=(paragraph(words + cut), token_strip(tokens), classed("p", "key", *scale, "nats")),
    )


def architectures_section(report: Report) -> Section | None:
    """This machine's kernels beside the device's."""
    facts = [element("li", {}, line) for line in figures.architecture_facts(report)]
    if not facts:
        return None
    content: list[Child] = [classed("ul", "plain", *facts)]
    architectures = figures.architectures(report)
    if architectures is not None:
        shown = table(architectures.columns, architectures.rows, right=range(1, len(architectures.columns) - 1))
        content = [shown, note(f"{figures.architecture_columns(report)}."), *content]
    return Section(title="Kernels", content=tuple(content))


def layers_section(report: Report) -> Section | None:
    """Where in the model the error arises."""
    if report.drift is None or not report.drift.layers:
        return None
    layers = report.drift.layers
    last = layers[-1]
    words = (
        f"How far what leaves each block is from the original's, as a share of it, by fewer bits alone. A step up is "
        f"where harm is done. Behind the last block a token's vector keeps {last.cosine:.4f} of its direction."
    )
    return Section(title="Change by layer", content=(paragraph(words), layer_columns(layers)))


def frontier_section(report: Report) -> Section | None:
    """What other recipes would have cost, where a budget chose among them."""
    plan = report.frontier
    if plan is None or not plan.points:
        return None
    how = "measured" if plan.is_measured else "predicted from gradients"
    words = (
        f"The budget chose among these. Smaller is to the left, closer to the original is further down; bytes of the "
        f"weights, and drift in {plan.drift_unit}, {how} by rounding alone: calibrated methods lose less."
    )
    chosen = plan.chosen and f"Chosen: {figures.size(plan.chosen.bytes)} of weights, {_by_scheme(plan.chosen)}."
    signs = (("best", "best for its size"), ("uniform", "all layers alike"), ("chosen", "chosen"))
    key = [classed("span", f"sign {sign}", words) for sign, words in signs]
    return Section(
        title="Size and drift of other recipes",
        content=(
            paragraph(words),
            frontier_plot(plan),
            classed("p", "key", *key),
            paragraph(chosen) if chosen else None,
        ),
    )


def _by_scheme(point: FrontierPoint) -> str:
    total = sum(point.schemes.values()) or 1
    return ", ".join(f"{100 * count / total:.0f} % as {name}" for name, count in point.schemes.items())


def backends_section(report: Report) -> Section | None:
    """Every way in which the bundle was run."""
    backends = figures.backends(report)
    if backends is None:
        return None
    right = range(1, len(backends.columns) - 1)
    facts = [element("li", {}, line) for line in figures.backend_facts(report)[:MOST_NOTES]]
    content: list[Child] = [table(backends.columns, backends.rows, right=right)]
    content += [note(f"{figures.backend_columns(report)}."), classed("ul", "plain", *facts) if facts else None]
    return Section(title="Runs", content=tuple(content))


def notes_section(report: Report) -> Section | None:
    """What the pipeline had to say."""
    if not report.notes:
        return None
    items = [element("li", {}, words) for words in report.notes[:MOST_NOTES]]
    if len(report.notes) > MOST_NOTES:
        items.append(element("li", {}, f"and {len(report.notes) - MOST_NOTES:,} more, in report.json"))
    return Section(title="Notes", content=(classed("ul", "plain", *items),))


def about_section(report: Report) -> Section:
    """The model, the recipe and the machine."""
    model, weights, environment = report.model, report.weights, report.environment
    facts: list[tuple[str, Child]] = [
        ("Model", f"{model.architecture}, {model.parameters:,} parameters, {model.task}"),
        ("Revision", element("code", {}, model.revision)),
        ("Recipe", figures.recipe(report)),
        ("Weights", f"{figures.size_change(report)}, {weights.bits_per_weight:.2f} bits per weight"),
        ("Weights digest", element("code", {}, weights.digest)),
        ("Format", f"{report.format}, accuracy level {report.recipe.accuracy_level}"),
        ("Runtime", f"{environment.runtime} {environment.runtime_version}"),
        ("Built with", f"edgeq {report.edgeq_version}, Python {environment.python}"),
        ("Machine", environment.platform),
    ]
    items = [part for name, value in facts for part in (element("dt", {}, name), element("dd", {}, value))]
    return Section(title="About this bundle", content=(classed("dl", "facts", *items),))


def files_section(report: Report) -> Section | None:
    """The model's files, folded away."""
    files = report.artifact.files
    if not files:
        return None
    rows = [
        (element("code", {}, entry.path), figures.size(entry.bytes), element("code", {}, f"{entry.sha256[:16]}\u2026"))
        for entry in files[:MOST_FILES]
    ]
    summary = f"{len(files):,} file{'s' if len(files) != 1 else ''}, {figures.size(report.artifact.bytes)}"
    content: list[Child] = [element("summary", {}, summary), table(("File", "Size", "sha256"), rows, right=(1,))]
    if len(files) > MOST_FILES:
        rest = files[MOST_FILES:]
        content.append(note(f"and {len(rest):,} more, {figures.size(sum(entry.bytes for entry in rest))}"))
    return Section(title="Model files", content=(element("details", {}, *content),))


def _answer(answer: Answer) -> Markup:
    sides = (
        _side("Original", answer.original, (answer.both, answer.original_text)),
        _side("Exported", answer.exported, (answer.both, answer.exported_text)),
    )
    return classed(
        "div",
        "answer",
        element("p", {"class": "prompt", "dir": "auto"}, f"{answer.prompt.strip()} \u2026"),
        classed("div", "sides", *sides),
    )


def _side(title: str, words: Sequence[NextWord], texts: tuple[str, str]) -> Markup:
    """texts: what both wrote, and what this one wrote behind it."""
    items = []
    for word in words:
        share = f"{100 * word.probability:.0f} %" if word.probability >= 0.01 else "< 1 %"
        fill = element("span", {"class": "fill", "style": f"width:{100 * min(max(word.probability, 0), 1):.1f}%"})
        meter = element("span", {"class": "meter", "aria-hidden": "true"}, fill)
        items.append(element("li", {}, element("bdi", {}, _shown(word.text)), meter, classed("span", "share", share)))
    written: list[Child] = []
    if any(texts):
        both, own = (text.lstrip(" ") if index == 0 or not texts[0] else text for index, text in enumerate(texts))
        marked = element("mark", {}, own) if own else None
        written = [element("p", {"class": "written", "dir": "auto"}, both, marked)]
    return classed("div", "side", classed("p", "who", title), element("ol", {}, *items), *written)


def _shown(text: str) -> str:
    """A token that is only white space is made visible."""
    return text.strip() or text.replace("\n", "\u21b5").replace(" ", "\u2423") or "(nothing)"
