"""SARIF 2.1.0: a result for each gate that failed or was not validated, for code-scanning pages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from edgeq.core.report import Gate, Report, Verdict
from edgeq.reports import figures

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
MOST_RESULTS = 5000
"""GitHub reads no more of one file (docs.github.com, SARIF support for code scanning)."""
_LEVELS = {Verdict.FAILED: "error", Verdict.NOT_VALIDATED: "note"}


def reports_to_sarif(reports: Sequence[Report], *, settings_file: str = "edgeq.toml") -> str:
    """One run with all reports. settings_file: where a reader is sent to, as a model has no line of source.

    Gates are the rules. A report that passed leaves no result.
    """
    pairs = [(report, gate) for report in reports for gate in _findings(report)][:MOST_RESULTS]
    names = sorted({gate.name for _, gate in pairs})
    run = {
        "tool": {
            "driver": {
                "name": "edgeq",
                "version": reports[0].edgeq_version if reports else "",
                "rules": [{"id": name, "shortDescription": {"text": name.replace("_", " ")}} for name in names],
            }
        },
        "results": [_result(report, gate, names.index(gate.name), settings_file) for report, gate in pairs],
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False) + "\n"


def _findings(report: Report) -> list[Gate]:
    found = [gate for gate in report.gates if gate.verdict in _LEVELS]
    if not found and report.verdict in _LEVELS:
        found = [Gate(name="verdict", value=None, limit=None, verdict=report.verdict, reason=report.reason)]
    return found


def _result(report: Report, gate: Gate, rule: int, settings_file: str) -> dict[str, Any]:
    value, limit, verdict = figures.gate_cells(gate)
    what = f"{report.model.source} for {report.target}, {report.format}: {gate.name} {verdict}"
    why = gate.reason or f"{value}, limit {limit}"
    return {
        "ruleId": gate.name,
        "ruleIndex": rule,
        "level": _LEVELS[gate.verdict],
        "message": {"text": f"{what}: {why}"},
        "locations": [{"physicalLocation": {"artifactLocation": {"uri": settings_file}, "region": {"startLine": 1}}}],
        # The same gate of the same cell is the same finding from run to run, whatever its value.
        "partialFingerprints": {
            "edgeq/v1": f"{report.model.source}|{report.target}|{report.format}|{gate.name}",
        },
        "properties": {"value": gate.value, "limit": gate.limit},
    }
