"""The verb `build`: every model for every target of `edgeq.toml`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from edgeq.cli import flags, show
from edgeq.cli.verdicts import exit_code
from edgeq.cli.watch import watching

if TYPE_CHECKING:
    from edgeq.core.build import Build

DEFAULT_OUTPUT = Path("build") / "edgeq"

Config = Annotated[
    Path | None,
    Option(help="Settings. Default: edgeq.toml here, else [tool.edgeq] of pyproject.toml.", metavar="FILE.toml"),
]
Only = Annotated[
    list[str] | None, Option(help="Cells to build, such as 'ios-*' (repeat it). Default: all.", metavar="GLOB")
]
Jobs = Annotated[
    int, Option(help="Cells at once, each in its own process; what is measured of speed suffers.", metavar="N", min=1)
]
Again = Annotated[bool, Option("--force", help="Make and measure the bundles again, though nothing has changed.")]
Output = Annotated[Path, Option(help="Directory of all bundles.", metavar="DIR", file_okay=False)]
JunitFile = Annotated[Path | None, Option(help="Also write JUnit XML.", metavar="FILE.xml", dir_okay=False)]
SarifFile = Annotated[Path | None, Option(help="Also write SARIF.", metavar="FILE.sarif", dir_okay=False)]
MarkdownFile = Annotated[Path | None, Option(help="Also write Markdown.", metavar="FILE.md", dir_okay=False)]
HtmlFile = Annotated[
    Path | None,
    Option(
        help="Also write a page to look at; cells that could not be built are not in it.",
        metavar="FILE.html",
        dir_okay=False,
    ),
]


def build(
    *,
    config: Config = None,
    only: Only = None,
    jobs: Jobs = 1,
    output: Output = DEFAULT_OUTPUT,
    junit: JunitFile = None,
    sarif: SarifFile = None,
    markdown: MarkdownFile = None,
    html: HtmlFile = None,
    json: flags.Json = False,
    force: Again = False,
    require: flags.Require = False,
) -> int:
    """Build the bundles that the settings name, of which only what changed is made again."""
    from edgeq import building
    from edgeq.building.configuration import find_configuration
    from edgeq.reports.build import build_text

    path = find_configuration(Path()) if config is None else config
    with watching() as progress:
        found = building.build(path, output=output, only=only or (), jobs=jobs, force=force, progress=progress)
    _write(found, junit=junit, sarif=sarif, markdown=markdown, html=html)
    if json:
        show.document(found)
    else:
        show.line(build_text(found))
    return exit_code([found.verdict], require=require)


def _write(found: Build, *, junit: Path | None, sarif: Path | None, markdown: Path | None, html: Path | None) -> None:
    """The files that were asked for."""
    from edgeq.files import output_errors, write_bytes_atomic
    from edgeq.reports.build import build_markdown
    from edgeq.reports.junit import build_to_junit
    from edgeq.reports.sarif import build_to_sarif

    wanted = (
        (junit, build_to_junit),
        (sarif, build_to_sarif),
        (markdown, build_markdown),
        (html if any(cell.report for cell in found.cells) else None, _page),
    )
    for path, render in wanted:
        if path is not None:
            with output_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_bytes_atomic(path, render(found).encode())


def _page(found: Build) -> str:
    from edgeq.reports.html import Page, reports_to_html

    return reports_to_html([Page(report=cell.report) for cell in found.cells if cell.report is not None])
