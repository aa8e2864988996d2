"""One HTML file of reports: no script, nothing to fetch, all text escaped, the same bytes for the same reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files

from edgeq.core.details import Details
from edgeq.core.report import Report, Verdict
from edgeq.errors import UsageError
from edgeq.reports import figures
from edgeq.reports.html_extras import (
    about_section,
    answers_section,
    architectures_section,
    backends_section,
    files_section,
    frontier_section,
    layers_section,
    notes_section,
    tokens_section,
)
from edgeq.reports.html_markup import Markup, classed, element
from edgeq.reports.html_sections import (
    MARKS,
    Section,
    bytes_section,
    drift_section,
    gates_section,
    memory_section,
    speed_section,
    table,
    tiles,
    verdict_header,
)
from edgeq.reports.html_words import harm

LARGEST = 1_000_000
"""Bytes of one page: what any mail and any artifact viewer takes."""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
"""Whatever a name could do to the page, it cannot make a browser run or fetch anything."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """A report with what else is known of its bundle."""

    report: Report
    details: Details = field(default_factory=Details)


def reports_to_html(pages: Sequence[Page]) -> str:
    """One document. Where it would be larger than LARGEST, files and details are left out.

    Raises UsageError where there is no report, or too many for one page.
    """
    if not pages:
        raise UsageError("There is no report to show.", remedy="Name a bundle or a report.json.")
    document = _document(pages)
    if len(document.encode()) > LARGEST:
        document = _document([_brief(page) for page in pages])
    if len(document.encode()) > LARGEST:
        raise UsageError(
            f"A page of {len(pages)} reports would be larger than {LARGEST:,} bytes.", remedy="Render fewer at once."
        )
    return document


def _brief(page: Page) -> Page:
    report = page.report
    drift = report.drift and replace(report.drift, tokens=(), answers=(), layers=())
    report = replace(report, drift=drift, frontier=None, artifact=replace(report.artifact, files=()))
    return Page(report=report, details=Details(weight_groups=page.details.weight_groups))


def _document(pages: Sequence[Page]) -> str:
    single = len(pages) == 1
    report = pages[0].report
    title = f"{report.model.source} for {report.target}" if single else f"edgeq: {len(pages)} bundles"
    state = figures.VERDICT_WORDS[_worst(pages)]
    parts = [] if single else [_overview(pages)]
    parts += [_article(page, index, single=single) for index, page in enumerate(pages)]
    head = element(
        "head",
        {},
        element("meta", {"charset": "utf-8"}),
        element("meta", {"http-equiv": "Content-Security-Policy", "content": _POLICY}),
        element("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        element("meta", {"name": "color-scheme", "content": "light dark"}),
        element("link", {"rel": "icon", "href": "data:,"}),
        element("title", {}, f"{state}: {title}"),
        Markup(f"<style>{_style()}</style>"),
    )
    footer = element("footer", {}, f"Written by edgeq {report.edgeq_version}.")
    body = element("body", {}, element("main", {}, *parts), footer)
    return f"<!DOCTYPE html>\n{element('html', {'lang': 'en'}, head, Markup(chr(10)), body).text}\n"


def _style() -> str:
    return files("edgeq.reports").joinpath("templates", "report.css").read_text(encoding="utf-8")


def _article(page: Page, index: int, *, single: bool) -> Markup:
    report, details = page.report, page.details
    sections = (
        gates_section(report),
        memory_section(report),
        bytes_section(report, details),
        drift_section(report),
        architectures_section(report),
        answers_section(report),
        tokens_section(report),
        layers_section(report),
        frontier_section(report),
        speed_section(report),
        backends_section(report),
        notes_section(report),
        about_section(report),
        files_section(report),
    )
    level = "h1" if single else "h2"
    shown = _filled([section for section in sections if section is not None])
    return element(
        "article",
        {"id": f"report-{index + 1}"},
        verdict_header(report, level),
        tiles(report),
        classed("div", "sections", *(_section(section, "h2" if single else "h3") for section in shown)),
    )


def _filled(sections: Sequence[Section]) -> list[Section]:
    """Half a row stays half where another half follows it; else it takes the row."""
    shown: list[Section] = []
    is_left = False
    for section, after in zip(sections, [*sections[1:], None], strict=True):
        if section.wide or is_left:
            shown.append(section)
            is_left = False
        else:
            is_left = after is not None and not after.wide
            shown.append(section if is_left else replace(section, wide=True))
    return shown


def _section(section: Section, heading: str) -> Markup:
    of_class = "section wide" if section.wide else "section"
    return classed("section", of_class, element(heading, {"class": "heading"}, section.title), *section.content)


def _overview(pages: Sequence[Page]) -> Markup:
    verdicts = [page.report.verdict for page in pages]
    counts = [
        f"{verdicts.count(verdict)} {figures.VERDICT_WORDS[verdict]}"
        for verdict in (Verdict.FAILED, Verdict.NOT_VALIDATED, Verdict.PASSED)
        if verdict in verdicts
    ]
    rows = []
    for index, page in enumerate(pages):
        report = page.report
        link = element("a", {"href": f"#report-{index + 1}"}, element("bdi", {}, report.model.source))
        mark = classed("span", "mark", MARKS[report.verdict])
        verdict = classed("span", f"judged {report.verdict.value}", mark, figures.VERDICT_WORDS[report.verdict])
        drift = "-" if report.drift is None else figures.number(harm(report.drift.total))
        memory = "-" if report.memory is None else figures.size(report.memory.peak_dirty_bytes)
        size = figures.size(report.artifact.bytes)
        rows.append((link, element("bdi", {}, report.target), report.format, verdict, size, memory, drift))
    columns = ("Model", "Target", "Format", "Verdict", "Size", "Memory", "Drift")
    return element(
        "header",
        {"class": f"overview {_worst(pages).value}"},
        element("h1", {"class": "title"}, f"{len(pages)} bundles: {', '.join(counts)}"),
        table(columns, rows, right=(4, 5, 6)),
    )


def _worst(pages: Sequence[Page]) -> Verdict:
    verdicts = {page.report.verdict for page in pages}
    order = (Verdict.FAILED, Verdict.NOT_VALIDATED, Verdict.PASSED)
    return next(verdict for verdict in order if verdict in verdicts)
