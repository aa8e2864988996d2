"""A build: which cells are current, which have to be made, in what order, and what came of them all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import edgeq
from edgeq.building.budgets import judge
from edgeq.building.cache import cell_key, model_digest, reference_key, store_key
from edgeq.building.configuration import read_configuration
from edgeq.building.matrix import Cell, cells_of, selected
from edgeq.building.processes import Step, run_steps
from edgeq.building.records import Places, forget_stores, is_current, left_over, remember, working_in
from edgeq.building.work import BundleTask, StoreTask, Task
from edgeq.bundle.manifest import Manifest, read_manifest
from edgeq.bundle.stage import check_output
from edgeq.core.build import Build, CellResult, verdict_of_cells
from edgeq.core.records import to_plain
from edgeq.core.report import Gate, Report, Verdict
from edgeq.errors import EdgeqError, UsageError
from edgeq.files import write_bytes_atomic
from edgeq.progress import Progress, SilentProgress
from edgeq.reports.json import read_report
from edgeq.runtimes.opening import runs_apart, runtime_of
from edgeq.targets.formats import FORMATS

BUILD_FILE = "build.json"
SHORT = 16
"""Hex digits of a key in the names of directories: 64 bits."""
VALIDATION = "validation"


@dataclass(frozen=True, kw_only=True)
class Addressed:
    """A cell with its keys; `error` where its model cannot be read, and there are none."""

    cell: Cell
    store: str = ""
    key: str = ""
    reference: str = ""
    error: str = ""


def build(
    configuration: Path,
    *,
    output: Path,
    only: Sequence[str] = (),
    jobs: int = 1,
    force: bool = False,
    progress: Progress | None = None,
) -> Build:
    """Make the bundles of a matrix under `output`, one directory per cell, and `build.json` with what came of them.

    configuration: the file of settings. only: globs over cells' names. jobs: how many cells are worked on at once; what
    they say of speed then suffers. force: make and measure the bundles again, from the weights that are there.

    A cell whose inputs, settings and versions are those of its bundle is left as it is; a cell that fails stops no
    other. Raises UsageError for settings that cannot be meant, OutputError where `output` cannot be written; what is
    wrong with one cell is in its result.
    """
    if jobs < 1:
        raise UsageError(f"{jobs} jobs do nothing.", remedy="Give --jobs 1 or more.")
    progress = progress or SilentProgress()
    settings = read_configuration(configuration)
    cells = selected(cells_of(settings), only)
    places = Places(output=output.resolve())
    with working_in(places):
        progress.stage("looking for what changed")
        addressed = _addressed(cells)
        current = set() if force else _current(addressed, places)
        addressed = [one if one.cell.name in current else _checked(one, places) for one in addressed]
        wanted = [one for one in addressed if not one.error and one.cell.name not in current]
        errors = _make(wanted, places, jobs, progress)
        results = tuple(
            _result(one, places, errors.get(one.cell.name, ""), reused=one.cell.name in current) for one in addressed
        )
        found = Build(
            edgeq_version=edgeq.__version__,
            settings=configuration.as_posix(),
            verdict=verdict_of_cells(results),
            cells=results,
        )
        text = json.dumps(to_plain(found), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        write_bytes_atomic(places.output / BUILD_FILE, text.encode())
        if not only:
            names = [one.cell.name for one in addressed]
            forget_stores(places, names, [one.store for one in addressed])
            for name in left_over(places, names):
                progress.note(f"{name} is no cell of the settings; its bundle is left from an earlier build")
    return found


def _addressed(cells: Sequence[Cell]) -> list[Addressed]:
    digests: dict[str | None, str | EdgeqError] = {}
    for source in {cell.model.source: None for cell in cells}:
        try:
            digests[source] = model_digest(source)
        except EdgeqError as error:
            digests[source] = error
    return [_address(cell, digests[cell.model.source]) for cell in cells]


def _address(cell: Cell, model: str | EdgeqError) -> Addressed:
    try:
        if isinstance(model, EdgeqError):
            raise model
        store = store_key(cell, model)
        return Addressed(
            cell=cell,
            store=store[:SHORT],
            key=cell_key(cell, store),
            reference=reference_key(cell, store)[:SHORT],
        )
    except EdgeqError as error:
        return Addressed(cell=cell, error=str(error))


def _current(addressed: Sequence[Addressed], places: Places) -> set[str]:
    return {one.cell.name for one in addressed if not one.error and is_current(places, one.cell.name, one.key)}


def _checked(one: Addressed, places: Places) -> Addressed:
    """What can be known to fail is said before the work."""
    if one.error:
        return one
    try:
        check_output(places.bundle(one.cell.name), force=True)
        if FORMATS[one.cell.format].distributions or runs_apart(one.cell.format):
            runtime_of(one.cell.format).version()
    except EdgeqError as error:
        return replace(one, error=str(error))
    return one


def _make(wanted: Sequence[Addressed], places: Places, jobs: int, progress: Progress) -> dict[str, str]:
    """Build the cells. By a cell's name, what went wrong."""
    errors: dict[str, str] = {}
    by_name = {one.cell.name: one for one in wanted}

    def finished(task: Task, error: str) -> None:
        if isinstance(task, BundleTask):
            errors[task.name] = error or _remembered(by_name[task.name], places)
        elif error:
            progress.note(f"{task.name}: {error}")

    run_steps(_steps(wanted, places), jobs=jobs, logs=places.logs, progress=progress, finished=finished)
    return errors


def _remembered(one: Addressed, places: Places) -> str:
    try:
        remember(places, one.cell.name, one.key, one.store)
    except EdgeqError as error:
        return str(error)
    return ""


def _steps(wanted: Sequence[Addressed], places: Places) -> list[Step]:
    """A store for each group of cells that share it, then their bundles."""
    groups: dict[str, list[Addressed]] = {}
    for one in wanted:
        groups.setdefault(one.store, []).append(one)
    steps = []
    for key, group in groups.items():
        references = {one.reference: one.cell for one in group}
        first = group[0].cell
        store = StoreTask(
            name=f"weights-of-{first.model.name}-{key[:8]}",
            cell=first,
            directory=places.store(key),
            references=tuple((places.references / name, cell) for name, cell in references.items()),
        )
        steps.append(Step(task=store))
        steps += [Step(task=_bundle_task(one, places), after=store.name) for one in group]
    return steps


def _bundle_task(one: Addressed, places: Places) -> BundleTask:
    return BundleTask(
        name=one.cell.name,
        cell=one.cell,
        store=places.store(one.store),
        references=places.references / one.reference,
        output=places.bundle(one.cell.name),
        work=places.work / one.cell.name,
    )


def _result(one: Addressed, places: Places, error: str, *, reused: bool) -> CellResult:
    cell, error = one.cell, one.error or error
    bundle = places.bundle(cell.name)
    report: Report | None = None
    warnings: tuple[Gate, ...] = ()
    if not error:
        try:
            judged = judge(
                read_report(bundle / "report.json"), cell.settings.budgets, app_bytes=_app_bytes(read_manifest(bundle))
            )
            report, warnings = judged.report, judged.warnings
        except EdgeqError as unreadable:
            error = str(unreadable)
    return CellResult(
        name=cell.name,
        model=cell.model.name,
        target=cell.profile.name,
        format=cell.format,
        key=one.key,
        verdict=Verdict.FAILED if report is None else report.verdict,
        reason=error if report is None else report.reason,
        reused=reused and not error,
        bundle=None if error else cell.name,
        warnings=warnings,
        error=error,
        report=report,
    )


def _app_bytes(manifest: Manifest) -> int:
    """What goes into the app: the files below the bundle's root, without the reference for later validation."""
    prefix = "" if manifest.root == "." else f"{manifest.root}/"
    shipped = (entry for entry in manifest.files if entry.path.startswith(prefix))
    return sum(entry.bytes for entry in shipped if not entry.path.startswith(f"{VALIDATION}/"))
