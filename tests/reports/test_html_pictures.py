"""Pictures and texts of what changed: columns by layer, the frontier, two continuations, the curve of memory."""

from __future__ import annotations

import dataclasses
import re

from edgeq.core.details import LayerDivergence, MemorySample
from edgeq.reports.html import Page, reports_to_html
from tests.reports.samples import MIB, passed_report
from tests.reports.test_html import page_of, recorded

FRONTIER = ("best", "uniform", "chosen")


def test_the_block_that_leaves_most_is_the_highest_column() -> None:
    layers = tuple(LayerDivergence(layer=index, relative_error=index % 7 / 100, cosine=0.9) for index in range(30))
    report = recorded(passed_report())
    assert report.drift is not None
    page = page_of(dataclasses.replace(report, drift=dataclasses.replace(report.drift, layers=layers)))
    (chart,) = [one for one in page.named("svg") if (one.get("aria-label") or "").startswith("Error after each")]
    assert chart["aria-label"] == "Error after each of 30 blocks; most after block 6, 0.06."
    heights = [float(one["height"] or 0) for one in page.named("rect") if one.get("class") == "bar"][-30:]
    assert [heights.index(max(heights)), min(heights)] == [6, 0.0]


def test_smaller_plans_are_left_and_closer_ones_below() -> None:
    circles = [one for one in page_of(recorded(passed_report())).named("circle") if one.get("class") in FRONTIER]
    assert [one["class"] for one in circles] == ["best", "best", "uniform", "chosen"]
    x, y = ([float((one[axis] or "").rstrip("%")) for one in circles] for axis in ("cx", "cy"))
    assert x[0] == x[3] < x[2] < x[1]
    assert y[2] < y[0] == y[3] < y[1]


def test_the_text_is_marked_from_where_the_two_part() -> None:
    page = reports_to_html([Page(report=recorded(passed_report()))])
    written = re.findall(r'<p class="written" dir="auto">(.*?)</p>', page)
    assert written == [
        "mat and<mark> purred.</mark>",
        "mat and<mark> slept &lt;b&gt;well&lt;/b&gt;.</mark>",
        "mat.",
        "mat.",
    ]


def test_a_long_curve_is_drawn_to_its_end() -> None:
    report = recorded(passed_report())
    assert report.memory is not None
    phases = ("load", "prefill", "decode", "drift")
    samples = tuple(
        MemorySample(seconds=index / 100, dirty_bytes=index * MIB, phase=phases[index // 64]) for index in range(256)
    )
    page = page_of(dataclasses.replace(report, memory=dataclasses.replace(report.memory, samples=samples)))
    for line in page.named("polyline"):
        points = [tuple(map(float, point.split(","))) for point in (line["points"] or "").split()]
        assert len(points) > 2 * len(samples)
        assert points[-1][0] == 1000
