"""SARIF 2.1.0: a result for each gate that failed or was not validated, for code-scanning pages.

Of a whole build also one for each budget that warns, and for each cell that could not be built.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from edgeq.core.build import Build, CellResult
from edgeq.core.report import Gate, Report, Verdict
from edgeq.reports import figures

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
MOST_RESULTS = 5000
"""GitHub reads no more of one file (docs.github.com, SARIF support for code scanning)."""
_LEVELS = {Verdict.FAILED: "error", Verdict.NOT_VALIDATED: "note"}


@dataclass(frozen=True, kw_only=True)
class _Finding:
    """One result: `what` it is about in words, `identity` the same from run to run."""

    what: str
    identity: str
    gate: Gate
    level: str


def reports_to_sarif(reports: Sequence[Report], *, settings_file: str = "edgeq.toml") -> str:
    """One run with all reports. settings_file: where a reader is sent to, as a model has no line of source.

    Gates are the rules. A report that passed leaves no result.
    """
    findings = [
        _Finding(
            what=f"{report.model.source} for {report.target}, {report.format}",
            identity=f"{report.model.source}|{report.target}|{report.format}",
            gate=gate,
            level=_level(gate),
        )
        for report in reports
        for gate in _gates(report)
    ]
    return _document(findings, reports[0].edgeq_version if reports else "", settings_file)


def build_to_sarif(build: Build) -> str:
    """One run with all cells; readers are sent to the settings of the build."""
    findings = [finding for cell in build.cells for finding in _cell_findings(cell)]
    return _document(findings, build.edgeq_version, build.settings)


def _cell_findings(cell: CellResult) -> Iterator[_Finding]:
    if cell.error:
        gate = Gate(name="build", value=None, limit=None, verdict=Verdict.FAILED, reason=cell.error)
        yield _Finding(what=cell.name, identity=cell.name, gate=gate, level="error")
    for gate in cell.gates():
        if _is_finding(gate):
            yield _Finding(what=cell.name, identity=cell.name, gate=gate, level=_level(gate))
    for gate in cell.warnings:
        yield _Finding(what=cell.name, identity=cell.name, gate=gate, level="warning")


def _is_finding(gate: Gate) -> bool:
    """Not passed, or passed with something to say."""
    return gate.verdict in _LEVELS or bool(gate.reason)


def _level(gate: Gate) -> str:
    return _LEVELS.get(gate.verdict, "warning")


def _document(findings: Sequence[_Finding], version: str, settings_file: str) -> str:
    kept = findings[:MOST_RESULTS]
    names = sorted({finding.gate.name for finding in kept})
    run = {
        "tool": {
            "driver": {
                "name": "edgeq",
                "version": version,
                "rules": [{"id": name, "shortDescription": {"text": name.replace("_", " ")}} for name in names],
            }
        },
        "results": [_result(finding, names.index(finding.gate.name), settings_file) for finding in kept],
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False) + "\n"


def _gates(report: Report) -> list[Gate]:
    found = [gate for gate in report.gates if _is_finding(gate)]
    if not any(gate.verdict in _LEVELS for gate in found) and report.verdict in _LEVELS:
        found += [Gate(name="verdict", value=None, limit=None, verdict=report.verdict, reason=report.reason)]
    return found


def _result(finding: _Finding, rule: int, settings_file: str) -> dict[str, Any]:
    gate = finding.gate
    value, limit, verdict = figures.gate_cells(gate)
    why = gate.reason or f"{value}, limit {limit}"
    return {
        "ruleId": gate.name,
        "ruleIndex": rule,
        "level": finding.level,
        "message": {"text": f"{finding.what}: {gate.name} {verdict}: {why}"},
        "locations": [{"physicalLocation": {"artifactLocation": {"uri": settings_file}, "region": {"startLine": 1}}}],
        # The same gate of the same cell is the same finding from run to run, whatever its value.
        "partialFingerprints": {"edgeq/v1": f"{finding.identity}|{gate.name}"},
        "properties": {"value": gate.value, "limit": gate.limit},
    }
