"""A build with a double of the work: what is made, what is left as it is, and what `build.json` says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edgeq.building import build
from edgeq.building.records import HIDDEN, Places, working_in
from edgeq.building.run import BUILD_FILE
from edgeq.building.work import BundleTask, StoreTask, Task
from edgeq.bundle.manifest import read_manifest, verify
from edgeq.core.build import Build, CellResult
from edgeq.core.report import Verdict
from edgeq.errors import OutputError, UnknownNameError, UsageError
from edgeq.progress import SilentProgress
from edgeq.reports.build import read_build
from tests.building.samples import SETTINGS, Worker, model
from tests.reports.samples import MIB

CELLS = ["android-writer", "android-search", "rpi5-8gb-writer", "rpi5-8gb-search"]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out"


def results(found: Build) -> dict[str, CellResult]:
    return {cell.name: cell for cell in found.cells}


def reused(found: Build) -> list[str]:
    return [cell.name for cell in found.cells if cell.reused]


def test_the_first_build_makes_every_cell(settings: Path, output: Path, worker: Worker) -> None:
    found = build(settings, output=output)
    assert [cell.name for cell in found.cells] == CELLS
    assert (found.verdict, reused(found)) == (Verdict.PASSED, [])
    assert {path.name for path in output.iterdir()} == {*CELLS, HIDDEN, BUILD_FILE}
    for cell in found.cells:
        assert cell.bundle is not None
        verify(output / cell.bundle)
    assert read_build(output / BUILD_FILE) == found


def test_a_model_is_quantized_once_for_targets_that_share_its_grid(
    settings: Path, output: Path, worker: Worker
) -> None:
    build(settings, output=output)
    assert [task.cell.model.name for task in worker.stores] == ["writer", "search"]
    bundles = {task.name: task for task in worker.tasks if isinstance(task, BundleTask)}
    assert bundles["android-writer"].store == bundles["rpi5-8gb-writer"].store
    assert bundles["android-writer"].references == bundles["rpi5-8gb-writer"].references
    assert bundles["android-writer"].store != bundles["android-search"].store
    # a store comes before all that needs it
    for name, task in bundles.items():
        (store,) = (one for one in worker.stores if one.directory == task.store)
        assert worker.tasks.index(store) < worker.tasks.index(task), name


def test_another_text_to_compare_on_has_references_of_its_own(settings: Path, output: Path, worker: Worker) -> None:
    (settings.parent / "text.txt").write_text("Some text.")
    settings.write_text(f"{SETTINGS}[[override]]\nselect = 'rpi5-*'\nevaluation = 'text.txt'\n")
    build(settings, output=output)
    writer = worker.stores[0]
    assert [cell.name for _, cell in writer.references] == ["android-writer", "rpi5-8gb-writer"]
    assert len({directory for directory, _ in writer.references}) == 2


def test_the_second_build_makes_nothing(settings: Path, output: Path, worker: Worker) -> None:
    first = build(settings, output=output)
    manifests = {name: (output / name / "edgeq.json").stat().st_mtime_ns for name in CELLS}
    worker.forget()
    second = build(settings, output=output)
    assert worker.tasks == []
    assert reused(second) == CELLS
    assert {name: (output / name / "edgeq.json").stat().st_mtime_ns for name in CELLS} == manifests
    assert [cell.report for cell in second.cells] == [cell.report for cell in first.cells]


def test_a_second_measurement_can_be_had(settings: Path, output: Path, worker: Worker) -> None:
    build(settings, output=output)
    worker.forget()
    assert reused(build(settings, output=output, only=["android-*"], force=True)) == []
    assert worker.names == ["android-writer", "android-search"]


def test_a_copy_elsewhere_makes_nothing_either(settings: Path, output: Path, worker: Worker, tmp_path: Path) -> None:
    build(settings, output=output)
    worker.forget()
    shutil.copytree(output, tmp_path / "elsewhere", copy_function=shutil.copyfile)
    assert reused(build(settings, output=tmp_path / "elsewhere")) == CELLS
    assert worker.tasks == []


def test_a_change_makes_only_its_cells(settings: Path, output: Path, worker: Worker) -> None:
    build(settings, output=output)
    worker.forget()
    (settings.parent / "models" / "search" / "tokenizer.json").write_text('{"other": 1}')
    assert reused(build(settings, output=output)) == ["android-writer", "rpi5-8gb-writer"]
    assert worker.names == ["android-search", "rpi5-8gb-search"]
    worker.forget()
    settings.write_text(f"{SETTINGS}[[override]]\nselect = 'android-search'\nbits = 8\n")
    build(settings, output=output)
    assert worker.names == ["android-search"]


def test_a_damaged_bundle_is_made_again(settings: Path, output: Path, worker: Worker) -> None:
    build(settings, output=output)
    worker.forget()
    for name, file in (("android-search", "edgeq.json"), ("rpi5-8gb-writer", "report.json")):
        with (output / name / file).open("ab") as stream:
            stream.write(b" ")
    (output / "rpi5-8gb-search" / "report.md").unlink()
    build(settings, output=output)
    assert sorted(worker.names) == ["android-search", "rpi5-8gb-search", "rpi5-8gb-writer"]


def test_a_budget_is_judged_without_making_anything(settings: Path, output: Path, worker: Worker) -> None:
    assert build(settings, output=output).verdict is Verdict.PASSED
    worker.forget()
    settings.write_text(
        f"{SETTINGS}[[override]]\nselect = 'android-search'\nmax_memory = '500 MiB'\n"
        "[[override]]\nselect = 'rpi5-*'\nmax_memory = { limit = '400 MiB', level = 'warn' }\n"
    )
    found = build(settings, output=output)
    assert worker.tasks == []
    assert found.verdict is Verdict.FAILED
    cells = results(found)
    assert [name for name, cell in cells.items() if cell.verdict is Verdict.FAILED] == ["android-search"]
    assert cells["android-search"].reason == "peak_dirty_bytes: 512.0 MiB is above 500.0 MiB"
    assert [name for name, cell in cells.items() if cell.warnings] == ["rpi5-8gb-writer", "rpi5-8gb-search"]
    # the bundle itself is as it was
    verify(output / "android-search")
    settings.write_text(SETTINGS)
    assert build(settings, output=output).verdict is Verdict.PASSED
    assert worker.tasks == []


def test_the_size_is_that_of_what_goes_into_the_app(settings: Path, output: Path, worker: Worker) -> None:
    build(settings, output=output)
    manifest = read_manifest(output / "android-writer")
    size = sum(entry.bytes for entry in manifest.files if entry.path.startswith(f"{manifest.root}/"))
    for limit, verdict in ((size, Verdict.PASSED), (size - 1, Verdict.FAILED)):
        settings.write_text(f"max_size = {limit}\n{SETTINGS}")
        assert results(build(settings, output=output))["android-writer"].verdict is verdict


def test_a_bad_cell_stops_no_other(settings: Path, output: Path, worker: Worker) -> None:
    shutil.rmtree(settings.parent / "models" / "search")
    worker.broken = {"android-writer"}
    found = build(settings, output=output)
    cells = results(found)
    assert found.verdict is Verdict.FAILED
    assert cells["android-writer"].error == "android-writer is too strange. Take another."
    assert "models/search" in cells["android-search"].error
    assert cells["android-search"].key == ""
    for name in ("android-writer", "android-search", "rpi5-8gb-search"):
        assert (cells[name].verdict, cells[name].bundle, cells[name].report) == (Verdict.FAILED, None, None)
        assert cells[name].reason == cells[name].error
    assert cells["rpi5-8gb-writer"].verdict is Verdict.PASSED
    # and is tried again
    worker.forget()
    worker.broken = set()
    model(settings.parent / "models" / "search")
    assert build(settings, output=output).verdict is Verdict.PASSED
    assert worker.names == ["android-writer", "android-search", "rpi5-8gb-search"]


def test_a_store_that_cannot_be_made_is_the_error_of_its_cells(settings: Path, output: Path, worker: Worker) -> None:
    def refuse(task: Task) -> None:
        if isinstance(task, StoreTask) and task.cell.model.name == "writer":
            worker.broken.add(task.name)

    worker.before = refuse
    cells = results(build(settings, output=output))
    assert [name for name, cell in cells.items() if cell.error] == ["android-writer", "rpi5-8gb-writer"]
    assert "is too strange" in cells["rpi5-8gb-writer"].error


def test_what_is_no_bundle_is_not_replaced(settings: Path, output: Path, worker: Worker) -> None:
    place = output / "android-writer"
    place.mkdir(parents=True)
    (place / "holiday.jpg").write_text("mine")
    cells = results(build(settings, output=output))
    assert "is no edgeq bundle" in cells["android-writer"].error
    assert (place / "holiday.jpg").read_text() == "mine"
    assert "android-writer" not in worker.names
    assert cells["rpi5-8gb-writer"].error == ""


def test_only_some_cells(settings: Path, output: Path, worker: Worker) -> None:
    found = build(settings, output=output, only=["*-search"])
    assert [cell.name for cell in found.cells] == ["android-search", "rpi5-8gb-search"] == worker.names
    worker.forget()
    assert reused(build(settings, output=output)) == ["android-search", "rpi5-8gb-search"]
    assert worker.names == ["android-writer", "rpi5-8gb-writer"]
    with pytest.raises(UnknownNameError):
        build(settings, output=output, only=["windows-*"])


def test_stores_that_nothing_was_made_from_go(settings: Path, output: Path, worker: Worker) -> None:
    build(settings, output=output)
    stores = output / HIDDEN / "stores"
    before = {path.name for path in stores.iterdir()}
    settings.write_text(f"bits = 8\n{SETTINGS}")
    build(settings, output=output, only=["*-writer"])
    assert before < {path.name for path in stores.iterdir()}
    build(settings, output=output)
    after = {path.name for path in stores.iterdir()}
    assert len(after) == 2
    assert after.isdisjoint(before)


class Notes(SilentProgress):
    """What was noted."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


def test_bundles_of_cells_that_are_gone_are_named_and_kept(settings: Path, output: Path, worker: Worker) -> None:
    build(settings, output=output)
    settings.write_text(SETTINGS.replace(', "rpi5-8gb"', ""))
    notes = Notes()
    assert list(results(build(settings, output=output, progress=notes))) == ["android-writer", "android-search"]
    assert [text.split()[0] for text in notes.texts] == ["rpi5-8gb-search", "rpi5-8gb-writer"]
    verify(output / "rpi5-8gb-search")
    notes.texts.clear()
    build(settings, output=output, only=["android-writer"], progress=notes)
    assert notes.texts == []


def test_the_store_of_a_cell_that_failed_is_kept(settings: Path, output: Path, worker: Worker) -> None:
    worker.broken = {"android-writer", "rpi5-8gb-writer"}
    build(settings, output=output)
    assert len(list((output / HIDDEN / "stores").iterdir())) == 2


class Killed(BaseException):
    """As if the process were gone: nothing that catches errors catches it."""


def test_a_killed_build_goes_on(settings: Path, output: Path, worker: Worker) -> None:
    def kill(task: Task) -> None:
        if task.name == "rpi5-8gb-writer":
            raise Killed

    worker.before = kill
    with pytest.raises(Killed):
        build(settings, output=output)
    assert worker.names == ["android-writer"]
    assert not (output / BUILD_FILE).exists()
    # what a process that is really killed leaves
    for name in ("work", "references"):
        (output / HIDDEN / name / "rpi5-8gb-writer").mkdir(parents=True)
    worker.before = lambda _: None
    worker.forget()
    assert reused(build(settings, output=output)) == ["android-writer"]
    assert worker.names == ["android-search", "rpi5-8gb-search", "rpi5-8gb-writer"]
    assert {path.name for path in (output / HIDDEN).iterdir()} == {"cells", "stores", "lock"}


def test_a_bundle_that_was_not_noted_before_the_kill_is_made_again(
    settings: Path, output: Path, worker: Worker
) -> None:
    build(settings, output=output)
    (output / HIDDEN / "cells" / "android-writer.json").write_text('{"key": "torn')
    worker.forget()
    build(settings, output=output)
    assert worker.names == ["android-writer"]


def test_two_builds_do_not_share_a_directory(settings: Path, output: Path, worker: Worker) -> None:
    with working_in(Places(output=output)), pytest.raises(OutputError, match="Another build is at work"):
        build(settings, output=output)
    assert worker.tasks == []
    build(settings, output=output)


def test_no_jobs_are_refused(settings: Path, output: Path) -> None:
    with pytest.raises(UsageError, match="0 jobs"):
        build(settings, output=output, jobs=0)
    assert not output.exists()


def test_wrong_settings_make_nothing(settings: Path, output: Path, worker: Worker) -> None:
    settings.write_text(f"bit = 8\n{SETTINGS}")
    with pytest.raises(UnknownNameError):
        build(settings, output=output)
    assert not output.exists()


def test_the_report_of_a_cell_has_the_budgets_limit(settings: Path, output: Path, worker: Worker) -> None:
    settings.write_text(f"max_memory = '600 MiB'\n{SETTINGS}")
    report = build(settings, output=output).cells[0].report
    assert report is not None
    assert report.memory is not None
    assert report.memory.limit_bytes == 600 * MIB
