"""Reports into files: read from bundles, report.json files and directories of bundles, written as HTML, JUnit ..."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from edgeq.bundle.manifest import MANIFEST, read_manifest
from edgeq.bundle.weight_groups import weight_groups
from edgeq.core.details import Details
from edgeq.core.report import Report
from edgeq.errors import UsageError
from edgeq.files import output_errors, write_bytes_atomic
from edgeq.reports.html import Page, reports_to_html
from edgeq.reports.json import read_report
from edgeq.reports.junit import reports_to_junit
from edgeq.reports.markdown import report_to_markdown
from edgeq.reports.sarif import reports_to_sarif

REPORT = "report.json"
_DEEPEST = 4
"""Folders below a build in which its bundles are looked for: model, target, format, and one to spare."""
Kind = Literal["html", "junit", "sarif", "markdown"]


def read_pages(places: Sequence[Path]) -> tuple[Page, ...]:
    """The reports at `places` in their order, with what their bundles tell beside. A directory of bundles is all of
    them, by path.

    Raises UsageError where a place holds no report, CorruptInputError where a report or a manifest cannot be read.
    """
    return tuple(_page(path) for place in places for path in _reports(place))


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


def _reports(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    if (place / REPORT).is_file():
        return [place / REPORT]
    patterns = ["/".join(["*"] * depth) + f"/{MANIFEST}" for depth in range(1, _DEEPEST + 1)]
    found = sorted(manifest.parent / REPORT for pattern in patterns for manifest in place.glob(pattern))
    if not found:
        raise UsageError(
            f"There is no report at {place}.", remedy="Name a bundle, a report.json, or a build's directory."
        )
    return found


def _page(path: Path) -> Page:
    report = read_report(path)
    if not (path.parent / MANIFEST).is_file():
        return Page(report=report)
    manifest = read_manifest(path.parent)
    # A report.json that was laid beside another bundle's manifest is not about its weights.
    if manifest.weights_digest != report.weights.digest:
        return Page(report=report)
    return Page(report=report, details=Details(weight_groups=weight_groups(manifest)))


def _markdown(reports: Sequence[Report]) -> str:
    return "\n".join(report_to_markdown(report) for report in reports)
