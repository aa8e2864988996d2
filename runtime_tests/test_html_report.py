"""The HTML report in Chromium: it says nothing on the console, fetches nothing, and fits a phone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeq.core.details import Details
from edgeq.core.report import Gate, Report, Verdict
from edgeq.reports.html import Page, reports_to_html
from edgeq.runtimes.browser.server import serve
from runtime_tests import browser_page
from tests.reports.samples import browser_report, encoder_report, killed_report, passed_report, unvalidated_report
from tests.reports.test_html import HOSTILE, full_details, recorded

WIDTHS = (browser_page.PHONE_WIDTH, 1000)
OVERFLOW = """[...document.querySelectorAll("body *")]
    .filter((one) => !one.closest(".scroll, .chart") && one.getBoundingClientRect().right > innerWidth + 0.5)
    .map((one) => `${one.tagName} ${one.className}`)"""
COVERED = """[...document.querySelectorAll("svg.chart text")].map((one) => one.getBoundingClientRect())
    .filter((box) => box.left < -0.5 || box.right > innerWidth + 0.5).length"""


def hostile_report() -> Report:
    """Names that are markup, longer than any line, in every place that a page shows."""
    report = browser_report()
    long = "x" * 500
    gate = Gate(name=long, value=HOSTILE, limit=long, verdict=Verdict.FAILED, reason=HOSTILE + long)
    return dataclasses.replace(
        report,
        target=long,
        model=dataclasses.replace(report.model, source=HOSTILE + long, revision=long, architecture=long),
        gates=(gate, *report.gates),
        notes=(long, HOSTILE),
        backends=(dataclasses.replace(report.backends[0], name=long, facts={long: long}), *report.backends[1:]),
    )


@pytest.fixture(params=WIDTHS)
def page(request: pytest.FixtureRequest) -> Iterator[browser_page.Page]:
    with browser_page.browser_page(width=request.param) as opened:
        yield opened


def test_pages_fit_fetch_nothing_and_say_nothing(page: browser_page.Page, tmp_path: Path) -> None:
    pages = {
        "language": [Page(report=recorded(passed_report()), details=full_details())],
        "encoder": [Page(report=encoder_report())],
        "runs": [Page(report=browser_report(), details=full_details())],
        "hostile": [Page(report=recorded(hostile_report()), details=full_details())],
        "several": [Page(report=make(), details=Details()) for make in (killed_report, unvalidated_report)],
    }
    for name, several in pages.items():
        (tmp_path / f"{name}.html").write_text(reports_to_html(several), encoding="utf-8")
    with serve(tmp_path) as served:
        for name in pages:
            page.do("open", url=f"{served.url}{name}.html")
            assert page.do("console") == []
            assert page.requests() == [f"{name}.html"]
            assert page.evaluate("document.documentElement.scrollWidth - innerWidth") == 0, name
            assert page.evaluate(OVERFLOW) == [], name
            assert page.evaluate(COVERED) == 0, name
            assert page.evaluate("document.scripts.length + document.images.length") == 0


def test_dark_is_dark(page: browser_page.Page, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(reports_to_html([Page(report=passed_report())]), encoding="utf-8")
    brightness = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).reduce((a, b) => a + Number(b), 0)"
    page.do("open", url=(tmp_path / "page.html").as_uri())
    assert page.evaluate(brightness) > 600
    page.do("dark")
    assert page.evaluate(brightness) < 150
    assert page.do("console") == []


def test_the_table_of_gates_keeps_its_roles_where_rows_are_blocks(page: browser_page.Page, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(reports_to_html([Page(report=passed_report())]), encoding="utf-8")
    page.do("open", url=(tmp_path / "page.html").as_uri())
    roles = 'new Set([...document.querySelectorAll(".gates [role]")].map((one) => one.role))'
    assert sorted(page.evaluate(f"[...{roles}]")) == ["cell", "columnheader", "row", "rowgroup", "rowheader"]
