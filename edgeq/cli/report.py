"""The verb `report`: what was measured, as files that people and CI systems look at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from edgeq.cli import flags, show
from edgeq.core.report import Verdict
from edgeq.errors import EXIT_DONE, EXIT_GATE_FAILED

if TYPE_CHECKING:
    from edgeq.rendering import Kind

Places = Annotated[
    list[Path], Argument(help="Bundles, report.json files, or directories of bundles.", metavar="BUNDLE_OR_REPORT")
]
HtmlFile = Annotated[Path | None, Option(help="Write a page to look at.", metavar="FILE.html", dir_okay=False)]
JunitFile = Annotated[Path | None, Option(help="Write JUnit XML.", metavar="FILE.xml", dir_okay=False)]
SarifFile = Annotated[Path | None, Option(help="Write SARIF.", metavar="FILE.sarif", dir_okay=False)]
MarkdownFile = Annotated[Path | None, Option(help="Write Markdown.", metavar="FILE.md", dir_okay=False)]


def report(
    *,
    places: Places,
    html: HtmlFile = None,
    junit: JunitFile = None,
    sarif: SarifFile = None,
    markdown: MarkdownFile = None,
    json: flags.Json = False,
) -> int:
    """Show the reports of bundles, and write them into the files that are named; exit code 1 where one failed."""
    from edgeq.rendering import read_pages, write_reports

    pages = read_pages(places)
    named: dict[Kind, Path | None] = {"html": html, "junit": junit, "sarif": sarif, "markdown": markdown}
    write_reports(pages, {kind: path for kind, path in named.items() if path is not None})
    reports = [page.report for page in pages]
    show.reports(reports, json=json)
    return EXIT_GATE_FAILED if any(one.verdict is Verdict.FAILED for one in reports) else EXIT_DONE
