"""What is done for a build, in pieces that a process of its own can do: a store with its references, and a bundle."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from edgeq import pipeline
from edgeq.building.matrix import Cell
from edgeq.composition import quantize_model
from edgeq.core.records import from_plain, to_plain
from edgeq.errors import EdgeqError
from edgeq.files import output_errors, write_bytes_atomic
from edgeq.models.evaluation import evaluation_inputs
from edgeq.models.source import SourceModel, load
from edgeq.planning import recipe_within
from edgeq.progress import Progress
from edgeq.store import QuantizedModel
from edgeq.summary import Origin
from edgeq.validation.reference_set import ReferenceSet
from edgeq.workplace import STORE

DONE = "finished.json"
"""Beside a store: that it is whole, and what reports should say of it."""


@dataclass(frozen=True, kw_only=True)
class StoreTask:
    """Quantize a model for all cells that share its grid, and let it and the original answer for their references.

    cell: any of those cells. directory: of the store. references: where to, with a cell that has the evaluation text.
    """

    name: str
    cell: Cell
    directory: Path
    references: tuple[tuple[Path, Cell], ...]


@dataclass(frozen=True, kw_only=True)
class BundleTask:
    """Lower, stage, validate and seal one cell's bundle from its store. work: a directory for what is on the way."""

    name: str
    cell: Cell
    store: Path
    references: Path
    output: Path
    work: Path


Task = StoreTask | BundleTask


def perform(task: Task, progress: Progress) -> None:
    """Raises EdgeqError as an export does."""
    match task:
        case StoreTask():
            _make_store(task, progress)
        case BundleTask():
            _make_bundle(task, progress)
        case _:
            assert_never(task)


def is_finished(store: Path) -> bool:
    """Whether a store is whole, to be used as it is."""
    if not (store / DONE).is_file():
        return False
    try:
        QuantizedModel.open(store / STORE)
    except EdgeqError:
        return False
    return True


def _make_store(task: StoreTask, progress: Progress) -> None:
    cell = task.cell
    progress.stage("loading")
    model = load(cell.model.source, task=cell.settings.task)
    for _, other in task.references:  # raises before the work what it would after it
        evaluation_inputs(model.directory, model.info, other.settings.evaluation)
    if is_finished(task.directory):
        store = QuantizedModel.open(task.directory / STORE)
    else:
        store = _quantized(model, task, progress)
    for directory, other in task.references:
        with output_errors(directory):
            shutil.rmtree(directory, ignore_errors=True)
            directory.parent.mkdir(parents=True, exist_ok=True)
        pipeline.make_references(store, model, _job(other, directory), directory, progress)


def _quantized(model: SourceModel, task: StoreTask, progress: Progress) -> QuantizedModel:
    """One that a killed run left unfinished is gone on with, and ends with the same bytes."""
    cell = task.cell
    with output_errors(task.directory):
        task.directory.mkdir(parents=True, exist_ok=True)
    fitted = recipe_within(
        model,
        cell.recipe,
        cell.profile,
        cell.formats,
        budget=cell.allocation,
        calibration=cell.settings.calibration,
        progress=progress,
    )
    store, notes = quantize_model(
        model,
        fitted.recipe,
        cell.profile,
        cell.formats,
        task.directory / STORE,
        calibration=cell.settings.calibration,
        progress=progress,
    )
    origin = Origin(notes=(*model.notes, *notes), frontier=fitted.frontier)
    document = {"weights_digest": store.weights_digest, "origin": to_plain(origin)}
    write_bytes_atomic(task.directory / DONE, json.dumps(document, indent=1, ensure_ascii=False).encode())
    return store


def _make_bundle(task: BundleTask, progress: Progress) -> None:
    with output_errors(task.output):
        shutil.rmtree(task.work, ignore_errors=True)
        task.work.mkdir(parents=True)
    try:
        pipeline.make_bundle(
            QuantizedModel.open(task.store / STORE),
            ReferenceSet.open(task.references),
            _job(task.cell, task.output),
            task.cell.format,
            from_plain(Origin, json.loads((task.store / DONE).read_bytes())["origin"], DONE),
            work=task.work,
            progress=progress,
        )
    finally:
        shutil.rmtree(task.work, ignore_errors=True)


def _job(cell: Cell, output: Path) -> pipeline.Job:
    """The export that a cell is. Budgets are not its matter: they are judged on its report."""
    return pipeline.Job(
        recipe=cell.recipe,
        target=cell.profile,
        formats=(cell.format,),
        output=output,
        max_memory=cell.memory_limit,
        calibration=cell.settings.calibration,
        evaluation=cell.settings.evaluation,
        tokenizer=cell.settings.tokenizer,
        budget=cell.allocation,
        validate=True,
        force=True,
    )
