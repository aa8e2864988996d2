"""Summary of a report and tables of targets for a terminal of 80 columns, with colours only where it has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO, TYPE_CHECKING

from edgeq.core.report import Report, Verdict
from edgeq.core.target import TargetProfile
from edgeq.reports import figures

if TYPE_CHECKING:
    from rich.console import Console, Group, RenderableType
    from rich.table import Table

_STYLES = {Verdict.PASSED: "bold green", Verdict.FAILED: "bold red", Verdict.NOT_VALIDATED: "bold yellow"}
_BAR_WIDTH = 20


def print_report(report: Report, *, file: IO[str] | None = None) -> None:
    """Print the summary of an export or a validation."""
    _console(file).print(report_summary(report))


def print_targets(profiles: Sequence[TargetProfile], *, file: IO[str] | None = None) -> None:
    """Print one line per target."""
    _console(file).print(targets_table(profiles))


def print_target(profile: TargetProfile, *, file: IO[str] | None = None) -> None:
    """Print one target with the source of each number."""
    _console(file).print(target_details(profile))


def report_summary(report: Report) -> Group:
    """Sizes, memory against the limit, drift, speed, gates and the verdict."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    parts: list[RenderableType] = [_facts(report)]
    drift = figures.drift(report)
    if drift is not None:
        parts += [Text(), _grid(drift.columns, drift.rows), Text(f"  {figures.drift_sample(report)}", style="dim")]
    architectures = figures.architectures(report)
    if architectures is not None:
        parts += [Text(), _runs(architectures), Text(f"  {figures.architecture_columns(report)}", style="dim")]
    parts += [Padding(Text(line, style="dim"), (0, 0, 0, 2)) for line in figures.architecture_facts(report)]
    backends = figures.backends(report)
    if backends is not None:
        parts += [Text(), _runs(backends), Text(f"  {figures.backend_columns(report)}", style="dim")]
        parts += [Padding(Text(line, style="dim"), (0, 0, 0, 2)) for line in figures.backend_facts(report)]
    if report.gates:
        parts += [Text(), _gates(report)]
    parts += [Padding(Text(f"note: {note}", style="dim"), (0, 0, 0, 2)) for note in report.notes]
    verdict = Text("\nverdict  ").append(figures.VERDICT_WORDS[report.verdict], style=_STYLES[report.verdict])
    if report.reason:
        verdict.append(f": {report.reason}")
    return Group(*parts, verdict)


def targets_table(profiles: Sequence[TargetProfile]) -> Table:
    """Name, memory limit, what the app leaves of it for the model, and description of each target."""
    columns = ("target", "memory", "for model", "device")
    rows = [
        (
            profile.name,
            f"{profile.memory_limit_mib} MiB",
            f"{profile.memory_limit_mib - profile.memory_reserve_mib} MiB",
            profile.description,
        )
        for profile in profiles
    ]
    return _grid(columns, rows, right=(1, 2), wrap=(3,))


_UNITS = {
    "cpu": "the CPU",
    "gpu": "the GPU",
    "neural_engine": "the Neural Engine",
    "wasm": "WebAssembly",
    "webgpu": "WebGPU",
}


def target_details(profile: TargetProfile) -> Group:
    """Every number of one target, with where it comes from underneath."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    where = " and ".join(_UNITS[unit] for unit in profile.execution_providers or (profile.compute_unit,))
    values = {
        "memory_limit_mib": f"{profile.memory_limit_mib} MiB of dirty memory for the process",
        "memory_reserve_mib": f"{profile.memory_reserve_mib} MiB of it for the app itself",
        "bundle_limit_mib": "none" if profile.bundle_limit_mib is None else f"{profile.bundle_limit_mib} MiB",
        "threads": str(profile.threads),
        "context_length": f"{profile.context_length} tokens",
        "accuracy_level": {1: "1, float32 activations", 4: "4, int8 activations"}.get(
            profile.accuracy_level, str(profile.accuracy_level)
        ),
    }
    if profile.file_limit_mib is not None:
        values["file_limit_mib"] = f"{profile.file_limit_mib} MiB for the largest file"
    if profile.buffer_limit_mib is not None:
        values["buffer_limit_mib"] = f"{profile.buffer_limit_mib} MiB for the largest tensor"
    if profile.validate_cpus:
        values["validate_cpus"] = f"{', '.join(profile.validate_cpus)}: {profile.validate_arch}"
    parts: list[RenderableType] = [
        Text(profile.name, style="bold").append(f"  {profile.description}", style="not bold"),
        Text(f"{profile.surface} bundle, formats: {', '.join(profile.formats)}, on {where}"),
    ]
    if profile.surface == "ios":
        entitlement = "with it; the app must declare it" if profile.increased_memory_limit else "without it"
        parts.append(Text(f"increased_memory_limit (an entitlement): {entitlement}"))
    for name, value in values.items():
        parts.append(Text(f"\n{name:<20}", style="bold").append(value, style="not bold"))
        provenance = profile.provenance.get(name)
        if provenance is not None:
            origin = Text(f"{provenance.confidence}, {provenance.source_date}: {provenance.source}", style="dim")
            parts.append(Padding(origin, (0, 0, 0, 20)))
    return Group(*parts)


def _facts(report: Report) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    model, weights = report.model, report.weights
    table.add_row("model", Text(f"{model.source}  ({model.architecture}, {model.parameters / 1e6:,.1f} M parameters)"))
    table.add_row("target", f"{report.target}, {report.format}, {report.environment.runtime}")
    table.add_row("recipe", figures.recipe(report))
    table.add_row("weights", figures.size_change(report))
    table.add_row("", f"{weights.bits_per_weight:.2f} bits per weight, all counted")
    table.add_row("artifact", f"{figures.size(report.artifact.bytes)}, the model files in the bundle")
    table.add_row("memory", _memory(report))
    if report.memory is not None:
        table.add_row("", figures.process(report))
    table.add_row("speed", figures.speed(report.speed))
    if tokenizer := figures.tokenizer(report):
        table.add_row("tokenizer", tokenizer)
    return table


def _memory(report: Report) -> Table:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    fraction, words = figures.memory(report)
    line = Table.grid(padding=(0, 1))
    if fraction is None:
        line.add_row(Text(words))
        return line
    style = "green" if fraction <= 1 else "red"
    bar = ProgressBar(total=1, completed=min(fraction, 1), width=_BAR_WIDTH, complete_style=style, finished_style=style)
    line.add_row(Text("["), bar, Text("]"), Text(words))
    return line


def _runs(table: figures.FiguresTable) -> Table:
    last = len(table.columns) - 1
    return _grid(table.columns, table.rows, right=range(1, last), wrap=(0, last), styled=last)


def _gates(report: Report) -> Table:
    rows = []
    for gate in report.gates:
        value, limit, verdict = figures.gate_cells(gate)
        rows.append((gate.name, value, limit, f"{verdict}: {gate.reason}" if gate.reason else verdict))
    return _grid(("gate", "value", "limit", "verdict"), rows, right=(1, 2), wrap=(3,), styled=3)


def _grid(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Sequence[int] | None = None,
    wrap: Sequence[int] = (),
    styled: int | None = None,
) -> Table:
    """A borderless table. right: columns of numbers, by default all but the first. styled: the one with verdicts."""
    from rich.table import Table
    from rich.text import Text

    numbers = range(1, len(columns)) if right is None else right
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index, column in enumerate(columns):
        justify = "right" if index in numbers else "left"
        table.add_column(column, justify=justify, no_wrap=index not in wrap, overflow="fold")  # type: ignore[arg-type]
    for row in rows:
        cells = [Text(cell) for cell in row]
        if styled is not None:
            cells[styled].stylize(_style_of(row[styled]))
        table.add_row(*cells)
    return table


def _style_of(words: str) -> str:
    for verdict, name in figures.VERDICT_WORDS.items():
        if words.startswith(name):
            return _STYLES[verdict]
    return ""


def _console(file: IO[str] | None) -> Console:
    from rich.console import Console

    return Console(file=file, highlight=False, soft_wrap=False)
