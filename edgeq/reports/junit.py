"""JUnit XML: a suite for each target and format, a case for each gate; what was not validated is skipped."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from edgeq.core.report import Gate, Report, Verdict
from edgeq.reports import figures


def reports_to_junit(reports: Sequence[Report]) -> str:
    """One document, as CI servers read it. The seconds of a suite are unknown and left out."""
    root = ElementTree.Element("testsuites", name="edgeq")
    for report in reports:
        _suite(root, report)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _suite(root: ElementTree.Element, report: Report) -> None:
    gates = report.gates or (_verdict_gate(report),)
    name = f"{report.model.source} for {report.target}, {report.format}"
    counts = {verdict: sum(gate.verdict is verdict for gate in gates) for verdict in Verdict}
    suite = ElementTree.SubElement(
        root,
        "testsuite",
        name=_xml(name),
        tests=str(len(gates)),
        failures=str(counts[Verdict.FAILED]),
        errors="0",
        skipped=str(counts[Verdict.NOT_VALIDATED]),
    )
    properties = ElementTree.SubElement(suite, "properties")
    for key, value in _properties(report):
        ElementTree.SubElement(properties, "property", name=key, value=_xml(value))
    for gate in gates:
        _case(suite, gate, class_name=f"{report.target}.{report.format}")


def _case(suite: ElementTree.Element, gate: Gate, *, class_name: str) -> None:
    case = ElementTree.SubElement(suite, "testcase", name=_xml(gate.name), classname=_xml(class_name))
    value, limit, _ = figures.gate_cells(gate)
    match gate.verdict:
        case Verdict.FAILED:
            message = gate.reason or f"{value} is beyond {limit}"
            failure = ElementTree.SubElement(case, "failure", message=_xml(message), type="gate")
            failure.text = _xml(f"value {value}, limit {limit}")
        case Verdict.NOT_VALIDATED:
            ElementTree.SubElement(case, "skipped", message=_xml(gate.reason or "not validated"))
        case Verdict.PASSED:
            ElementTree.SubElement(case, "system-out").text = _xml(f"value {value}, limit {limit}")


def _verdict_gate(report: Report) -> Gate:
    """Stands in where nothing ran, so that a suite without a verdict is not one without a case."""
    return Gate(name="verdict", value=None, limit=None, verdict=report.verdict, reason=report.reason)


def _properties(report: Report) -> list[tuple[str, str]]:
    return [
        ("verdict", report.verdict.value),
        ("edgeq_version", report.edgeq_version),
        ("revision", report.model.revision),
        ("weights_digest", report.weights.digest),
        ("bits_per_weight", f"{report.weights.bits_per_weight:.4f}"),
        ("artifact_bytes", str(report.artifact.bytes)),
    ]


def _xml(text: str) -> str:
    """Without the control characters that XML 1.0 cannot hold, however they are escaped."""
    return "".join(character for character in text if character >= " " or character in "\t\n\r")
