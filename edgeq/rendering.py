"""Reports into files: read from bundles, report.json files and directories of bundles, written as HTML, JUnit ..."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from edgeq.core.report import Report
from edgeq.files import output_errors, write_bytes_atomic
from edgeq.finding import find_reports
from edgeq.reports.html import Page, reports_to_html
from edgeq.reports.junit import reports_to_junit
from edgeq.reports.markdown import report_to_markdown
from edgeq.reports.sarif import reports_to_sarif
from edgeq.summary import page_of

Kind = Literal["html", "junit", "sarif", "markdown"]


def read_pages(places: Sequence[Path]) -> tuple[Page, ...]:
    """The reports at `places` in their order, with what their bundles tell beside. A directory of bundles is all of
    them, by path; a build is the cells that could be built, as its budgets judged them.

    Raises UsageError where a place holds no report, CorruptInputError where a report or a manifest cannot be read.
    """
    found = [one for place in places for one in find_reports(place).values()]
    return tuple(page_of(one.report, one.manifest) for one in found if one.report is not None)


def write_reports(pages: Sequence[Page], files: Mapping[Kind, Path]) -> None:
    """One file per kind with all pages. Raises OutputError, and UsageError where a page would be too large."""
    reports = [page.report for page in pages]
    render: dict[Kind, Callable[[], str]] = {
        "html": lambda: reports_to_html(pages),
        "junit": lambda: reports_to_junit(reports),
        "sarif": lambda: reports_to_sarif(reports),
        "markdown": lambda: _markdown(reports),
    }
    texts = {path: render[kind]() for kind, path in files.items()}
    for path, text in texts.items():
        with output_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes_atomic(path, text.encode("utf-8", "replace"))


def _markdown(reports: Sequence[Report]) -> str:
    return "\n".join(report_to_markdown(report) for report in reports)
