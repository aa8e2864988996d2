"""A plan as text and as a picture."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from edgeq.core.frontier import BitsCost, FrontierPoint, PlanReport
from edgeq.reports.frontier import plan_svg, plan_text


def point(size: int, drift: float, *, is_uniform: bool = False) -> FrontierPoint:
    schemes = {"int4 g64 asym": 3, "int8 g64 asym": 1}
    return FrontierPoint(bytes=size, bits_per_weight=4.5, drift=drift, schemes=schemes, is_uniform=is_uniform)


def report(*, points: bool = True) -> PlanReport:
    cost = BitsCost(
        bits=4,
        nominal_bytes=3_370_000_000,
        weights_bytes=3_840_000_000,
        scale_bytes=474_000_000,
        embedding_bytes=150_000_000,
        file_bytes=3_840_000_000,
        cache_bytes=0,
        needed_bytes=3_900_000_000,
        fits=("edge",),
    )
    return PlanReport(
        source="a <model>",
        architecture="LlamaForCausalLM",
        parameters=6_740_000_000,
        target="edge",
        format="onnx",
        context_length=4096,
        costs=(cost,),
        frontier=(point(10**6, 0.5), point(2 * 10**6, 0.02), point(4 * 10**6, 1e-15)) if points else (),
        uniform=(point(2 * 10**6, 0.03, is_uniform=True),) if points else (),
        chosen=point(2 * 10**6, 0.02) if points else None,
        bundle_bytes=2_100_000 if points else 0,
    )


def test_text_has_costs_points_and_the_choice() -> None:
    text = plan_text(report())
    assert "3.37 GB  3.84 GB" in text
    assert "4 bits fit edge" in text
    assert "uniform: int4 g64 asym 75 %, int8 g64 asym 25 %" in text
    assert "the bundle takes 2,100,000 bytes" in text
    plot = text[text.index("|") :]
    assert all(mark in plot for mark in "ouX")


def test_without_weights_there_are_costs_alone() -> None:
    text = plan_text(report(points=False))
    assert "3.84 GB" in text
    assert "drift" not in text
    assert plan_svg(report(points=False)) == ""


def test_the_picture_is_xml_with_a_mark_for_each_point() -> None:
    root = ET.fromstring(plan_svg(report()))  # noqa: S314 - our own text
    circles = [element for element in root.iter() if element.tag.endswith("circle")]
    assert len(circles) == 5
    heights = [float(circle.get("cy", "")) for circle in circles[:3]]
    assert heights == sorted(heights)  # less drift is further down
    assert any("a <model>" in (element.text or "") for element in root.iter())
