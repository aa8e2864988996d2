"""Tasks in order, here or in processes of their own: what fails takes only those along that need it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from edgeq.building import processes
from edgeq.building.configuration import read_configuration
from edgeq.building.matrix import Cell, cells_of
from edgeq.building.processes import Step, run_steps
from edgeq.building.work import StoreTask, Task
from edgeq.progress import SilentProgress
from tests.building.samples import Worker


class Deadly:
    """In the place of a cell: a process that reads it is gone."""

    def __reduce__(self) -> tuple[Callable[[int], None], tuple[int]]:
        return kill_oneself, (signal.SIGKILL,)


def kill_oneself(number: int) -> None:
    os.kill(os.getpid(), number)


def unreadable(directory: Path, name: str) -> StoreTask:
    """A task that fails with a word about its model, before any framework is loaded."""
    path = directory / "edgeq.toml"
    path.write_text("models = ['./nowhere']")
    (cell,) = cells_of(read_configuration(path))
    return StoreTask(name=name, cell=cell, directory=directory / name, references=())


def deadly(directory: Path, name: str) -> StoreTask:
    return StoreTask(name=name, cell=cast("Cell", Deadly()), directory=directory / name, references=())


class Ends:
    """What was told of each task, in order."""

    def __init__(self) -> None:
        self.told: dict[str, str] = {}

    def __call__(self, task: Task, error: str) -> None:
        assert task.name not in self.told
        self.told[task.name] = error


def run(steps: list[Step], directory: Path, *, jobs: int) -> dict[str, str]:
    ends = Ends()
    run_steps(steps, jobs=jobs, logs=directory / "logs", progress=SilentProgress(), finished=ends)
    return ends.told


def test_what_needs_a_failed_task_is_not_begun(tmp_path: Path, worker: Worker) -> None:
    names = ("first", "its", "second", "other")
    tasks = {name: unreadable(tmp_path, name) for name in names}
    worker.broken = {"first"}
    steps = [
        Step(task=tasks["first"]),
        Step(task=tasks["its"], after="first"),
        Step(task=tasks["second"]),
        Step(task=tasks["other"], after="second"),
    ]
    told = run(steps, tmp_path, jobs=1)
    assert list(told) == list(names)
    assert told["its"] == told["first"] == "first is too strange. Take another."
    assert (told["second"], told["other"]) == ("", "")
    assert [task.name for task in worker.tasks] == ["first", "second", "other"]


def test_a_defect_is_one_tasks_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def perform(task: Task, _progress: object) -> None:
        if task.name == "bad":
            raise ZeroDivisionError("by zero")

    monkeypatch.setattr(processes, "perform", perform)
    told = run([Step(task=unreadable(tmp_path, name)) for name in ("bad", "good")], tmp_path, jobs=1)
    assert told["good"] == ""
    assert told["bad"].startswith("Internal error: ZeroDivisionError: by zero (its traceback is in ")
    (log,) = tmp_path.rglob("bad.log")
    assert str(log) in told["bad"]
    assert 'raise ZeroDivisionError("by zero")' in log.read_text(encoding="utf-8")


def test_a_traceback_that_cannot_be_kept_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def perform(_task: Task, _progress: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(processes, "perform", perform)
    (tmp_path / "file").touch()
    told = run([Step(task=unreadable(tmp_path, "bad"))], tmp_path / "file", jobs=1)
    assert "its traceback could not be written to" in told["bad"]


def test_ctrl_c_is_not_an_error_of_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def perform(_task: Task, _progress: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(processes, "perform", perform)
    with pytest.raises(KeyboardInterrupt):
        run([Step(task=unreadable(tmp_path, "one"))], tmp_path, jobs=1)


def test_processes_tell_what_went_wrong_however_they_end(tmp_path: Path) -> None:
    steps = [
        Step(task=unreadable(tmp_path, "refused")),
        Step(task=unreadable(tmp_path, "needs it"), after="refused"),
        Step(task=deadly(tmp_path, "killed")),
    ]
    told = run(steps, tmp_path, jobs=2)
    assert sorted(told) == ["killed", "needs it", "refused"]
    assert "nowhere is not a directory here" in told["refused"]
    assert told["needs it"] == told["refused"]
    assert told["killed"].startswith("The process that built it was killed by signal 9")


def test_the_last_task_may_end_without_a_process(tmp_path: Path) -> None:
    refused = Step(task=unreadable(tmp_path, "refused"))
    told = run([refused, Step(task=unreadable(tmp_path, "needs it"), after="refused")], tmp_path, jobs=2)
    assert list(told) == ["refused", "needs it"]


def test_nothing_to_do_starts_nothing(tmp_path: Path) -> None:
    assert run([], tmp_path, jobs=4) == {}
    assert list(tmp_path.iterdir()) == []
