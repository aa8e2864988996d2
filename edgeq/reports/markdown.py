"""`report.md`: the report as Markdown; short enough for a pull request comment or a job summary."""

from __future__ import annotations

from collections.abc import Sequence

from edgeq.core.report import Report, Verdict
from edgeq.reports import figures

MARKS = {Verdict.PASSED: "✅", Verdict.FAILED: "❌", Verdict.NOT_VALIDATED: "⚠️"}


def report_to_markdown(report: Report) -> str:
    """The whole report but the list of files; a few kilobytes."""
    mark = f"{MARKS[report.verdict]} {figures.VERDICT_WORDS[report.verdict]}"
    reason = f": {report.reason}" if report.reason else ""
    sections = [
        f"# {as_text(report.model.source)} for {as_text(report.target)}",
        f"**{mark}**{as_text(reason)}",
        markdown_table(("", ""), _facts(report)),
    ]
    sections += _drift(report)
    sections += _architectures(report)
    sections += _backends(report)
    if report.gates:
        rows = [
            (f"`{gate.name}`", *figures.gate_cells(gate)[:2], f"{MARKS[gate.verdict]} {as_text(gate.reason)}".strip())
            for gate in report.gates
        ]
        sections += ["## Gates", markdown_table(("gate", "value", "limit", "verdict"), rows, right=(1, 2))]
    if report.notes:
        sections += ["## Notes", "\n".join(f"- {as_text(note)}" for note in report.notes)]
    environment = report.environment
    sections.append(
        f"edgeq {report.edgeq_version}, {environment.runtime} {environment.runtime_version}, "
        f"Python {environment.python}, {as_text(environment.platform)}"
    )
    return "\n\n".join(sections) + "\n"


def _facts(report: Report) -> list[tuple[str, str]]:
    model, weights, memory = report.model, report.weights, report.memory
    facts = [
        ("model", f"{as_text(model.architecture)}, {model.parameters:,} parameters, {model.task}"),
        ("revision", f"`{model.revision}`"),
        ("recipe", figures.recipe(report)),
        ("weights", f"{figures.size_change(report)}, {weights.bits_per_weight:.2f} bits per weight"),
        ("weights digest", f"`{weights.digest}`"),
        ("model files", figures.size(report.artifact.bytes)),
        ("peak memory", figures.memory(report)[1] if memory is None else _memory(report)),
    ]
    if memory is not None:
        facts.append(("process memory", figures.process(report).removeprefix("process ")))
    if memory is not None and memory.phases:
        phases = ", ".join(f"{as_text(name)} {figures.size(count)}" for name, count in memory.phases.items())
        facts.append(("memory by phase", phases))
    tokenizer = figures.tokenizer(report)
    return [*facts, ("speed", figures.speed(report.speed)), *([("tokenizer", tokenizer)] if tokenizer else [])]


def _memory(report: Report) -> str:
    if report.memory is None:
        return "not measured"
    backend = as_text(report.memory.backend)
    return f"{figures.memory(report)[1]}, anonymous + shared + swap, limited by {backend}"


def _drift(report: Report) -> list[str]:
    drift = figures.drift(report)
    if drift is None:
        return []
    words = dict(figures.DRIFT_PARTS)
    rows = [(f"{row[0]}: {words[row[0]]}", *row[1:]) for row in drift.rows]
    return [
        "## Drift",
        markdown_table(drift.columns, rows, right=range(1, len(drift.columns))),
        f"Measured {_measured(report)}.",
    ]


def _architectures(report: Report) -> list[str]:
    lines = [f"- {as_text(line)}" for line in figures.architecture_facts(report)]
    if not lines:
        return []
    architectures = figures.architectures(report)
    if architectures is None:
        return ["## Kernels", "\n".join(lines)]
    table = markdown_table(architectures.columns, architectures.rows, right=range(1, len(architectures.columns) - 1))
    words = figures.architecture_columns(report)
    return ["## Kernels", table, f"{words[0].upper()}{words[1:]}.", "\n".join(lines)]


def _backends(report: Report) -> list[str]:
    backends = figures.backends(report)
    if backends is None:
        return []
    lines = "\n".join(f"- {as_text(line)}" for line in figures.backend_facts(report))
    table = markdown_table(backends.columns, backends.rows, right=range(1, len(backends.columns) - 1))
    return ["## Runs", table, figures.backend_columns(report) + ".", *([lines] if lines else [])]


def _measured(report: Report) -> str:
    sample = figures.drift_sample(report)
    return f"as {sample}" if sample.startswith("KL") else sample


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """A table; `right` are the columns of numbers."""
    align = ["---:" if index in right else "---" for index in range(len(columns))]
    lines = [columns, align, *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def as_text(value: str) -> str:
    """Text from outside as one line that Markdown does not take for markup."""
    line = " ".join(value.split())
    for character in "\\`*_[]<>":
        line = line.replace(character, "\\" + character)
    return line
