"""JUnit XML: a suite for each target and format, a case for each gate; what was not validated is skipped.

Of a whole build a suite is a target, and the class of a case is its cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from edgeq.core.build import Build, CellResult
from edgeq.core.report import Gate, Report, Verdict
from edgeq.reports import figures


def reports_to_junit(reports: Sequence[Report]) -> str:
    """One document, as CI servers read it. The seconds of a suite are unknown and left out."""
    root = ElementTree.Element("testsuites", name="edgeq")
    for report in reports:
        _suite(root, report)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def build_to_junit(build: Build) -> str:
    """One document of a whole build. A cell that could not be built is an error; a budget that only warns is told in a
    case that passed."""
    root = ElementTree.Element("testsuites", name="edgeq")
    for target in dict.fromkeys(cell.target for cell in build.cells):
        _target_suite(root, target, [cell for cell in build.cells if cell.target == target])
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _target_suite(root: ElementTree.Element, target: str, cells: Sequence[CellResult]) -> None:
    gates = [gate for cell in cells for gate in cell.gates()]
    errors = [cell for cell in cells if cell.error]
    warnings = sum(len(cell.warnings) for cell in cells)
    suite = _suite_element(root, target, gates, errors=len(errors), others=warnings)
    properties = ElementTree.SubElement(suite, "properties")
    for cell in cells:
        for key, value in (("key", cell.key), *(() if cell.report is None else _properties(cell.report))):
            ElementTree.SubElement(properties, "property", name=_xml(f"{cell.name}.{key}"), value=_xml(value))
    for cell in cells:
        if cell.error:
            case = ElementTree.SubElement(suite, "testcase", name="build", classname=_xml(cell.name))
            ElementTree.SubElement(case, "error", message=_xml(cell.error), type="build")
        for gate in cell.gates():
            _case(suite, gate, class_name=cell.name)
        for gate in cell.warnings:
            name = _xml(f"{gate.name} (warning)")
            case = ElementTree.SubElement(suite, "testcase", name=name, classname=_xml(cell.name))
            ElementTree.SubElement(case, "system-out").text = _xml(f"warning: {gate.reason}")


def _suite_element(
    root: ElementTree.Element, name: str, gates: Sequence[Gate], *, errors: int = 0, others: int = 0
) -> ElementTree.Element:
    """others: cases that pass whatever they say."""
    counts = {verdict: sum(gate.verdict is verdict for gate in gates) for verdict in Verdict}
    return ElementTree.SubElement(
        root,
        "testsuite",
        name=_xml(name),
        tests=str(len(gates) + errors + others),
        failures=str(counts[Verdict.FAILED]),
        errors=str(errors),
        skipped=str(counts[Verdict.NOT_VALIDATED]),
    )


def _suite(root: ElementTree.Element, report: Report) -> None:
    gates = report.gates or (_verdict_gate(report),)
    suite = _suite_element(root, f"{report.model.source} for {report.target}, {report.format}", gates)
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
            warning = f"\nwarning: {gate.reason}" if gate.reason else ""
            ElementTree.SubElement(case, "system-out").text = _xml(f"value {value}, limit {limit}{warning}")


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
