"""The verb `plan`: size and drift before anything is built."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from edgeq.cli import flags, show
from edgeq.cli.settings import Settings, override, read_settings
from edgeq.cli.watch import watching
from edgeq.errors import EXIT_DONE, OutputError, UsageError

if TYPE_CHECKING:
    from edgeq.planner import PlanResult

RecipeOutput = Annotated[
    Path | None, Option("--output", help="Write the recipe that meets the budget.", metavar="FILE.toml", dir_okay=False)
]
Plot = Annotated[Path | None, Option(help="Write the frontier as a picture.", metavar="FILE.svg", dir_okay=False)]


def plan(
    *,
    model: flags.Model = None,
    target: flags.Target = None,
    method: flags.Method = None,
    group_size: flags.GroupSize = None,
    symmetric: flags.Symmetric = None,
    embedding_bits: flags.EmbeddingBits = None,
    format: flags.FormatName = None,
    task: flags.TaskName = None,
    calibration: flags.Calibration = None,
    max_memory: flags.MaxMemory = None,
    max_drift: flags.MaxDrift = None,
    max_size: flags.MaxSize = None,
    output: RecipeOutput = None,
    plot: Plot = None,
    json: flags.Json = False,
    force: flags.Force = False,
) -> int:
    """Say what each number of bits costs, and what drift each size allows; choose a recipe under a budget.

    From a config.json without weights, the costs alone.
    """
    settings = override(read_settings(Path()), locals())
    limits = (settings.max_memory, settings.max_drift, settings.max_size)
    _check_outputs(output, plot, has_budget=any(limit is not None for limit in limits), force=force)
    _show(_plan(settings), output, plot, json=json)
    return EXIT_DONE


def _plan(settings: Settings) -> PlanResult:
    from edgeq import planner

    with watching() as progress:
        return planner.plan(
            settings.model,
            target=settings.target,
            method=settings.method,
            group_size=settings.group_size,
            symmetric=settings.symmetric,
            embedding_bits=settings.embedding_bits,
            format=settings.format,
            task=settings.task,
            calibration=settings.calibration,
            max_memory=settings.max_memory,
            max_drift=settings.max_drift,
            max_size=settings.max_size,
            progress=progress,
        )


def _show(result: PlanResult, output: Path | None, plot: Path | None, *, json: bool) -> None:
    """The report on stdout, recipe and picture in their files."""
    from edgeq.core.recipe_text import recipe_to_toml
    from edgeq.reports.frontier import plan_svg, plan_text

    if output is not None and result.recipe is not None:
        _write(output, recipe_to_toml(result.recipe))
    if plot is not None and not result.report.frontier:
        raise UsageError("Without weights there is no frontier to draw.", remedy="Leave --plot out.")
    if plot is not None:
        _write(plot, plan_svg(result.report))
    if json:
        show.document(result.report)
    else:
        show.line(plan_text(result.report))


def _check_outputs(output: Path | None, plot: Path | None, *, has_budget: bool, force: bool) -> None:
    """What can be known to fail is said before the work."""
    if output is not None and not has_budget:
        raise UsageError(
            "Without a budget there is no recipe to write.", remedy="Give --max-size, --max-memory or --max-drift."
        )
    for path in (output, plot):
        if path is not None and path.exists() and not force:
            raise OutputError(f"{path} exists.", remedy="Name another file, or say --force.")


def _write(path: Path, text: str) -> None:
    from edgeq.files import output_errors, write_bytes_atomic

    with output_errors(path):
        write_bytes_atomic(path, text.encode())
