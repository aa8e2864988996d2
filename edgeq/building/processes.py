"""Tasks one after the other here, or several at once in processes of their own; one that fails stops no other."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from edgeq.building.work import Task, perform
from edgeq.errors import EdgeqError
from edgeq.progress import Progress, SilentProgress

LAST_WORDS = 300
"""Characters of a process' log that its error repeats."""

Outcomes = dict[str, str]
"""By a task's name what went wrong, "" where it is done."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A task, and the name of the one that must be done before."""

    task: Task
    after: str | None = None


class Named:
    """A progress whose stages and notes begin with the cell that they are about."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress, self._name = progress, name

    def stage(self, name: str) -> None:
        self._progress.stage(f"{self._name}: {name}")

    def advance(self, done: int, total: int, detail: str) -> None:
        self._progress.advance(done, total, detail)

    def note(self, text: str) -> None:
        self._progress.note(f"{self._name}: {text}")


def run_steps(
    steps: Sequence[Step],
    *,
    jobs: int,
    logs: Path,
    progress: Progress,
    finished: Callable[[Task, str], None],
) -> None:
    """Do all steps, in their order as far as `after` allows, at most `jobs` at once.

    finished: is told of each task as it ends, with what went wrong or "". A task whose `after` failed is not begun and
    has its error. logs: a directory for what the processes print, and for the tracebacks of defects.
    """
    if not steps:
        return
    if jobs == 1:
        _one_by_one(steps, logs, progress, finished)
    else:
        _Pool(jobs, logs, finished).run(steps, progress)


def _one_by_one(steps: Sequence[Step], logs: Path, progress: Progress, finished: Callable[[Task, str], None]) -> None:
    outcomes: Outcomes = {}
    for step in steps:
        name = step.task.name
        error = _inherited(step, outcomes) or _attempt(step.task, Named(progress, name), logs / f"{name}.log")
        outcomes[name] = error
        finished(step.task, error)


def _inherited(step: Step, outcomes: Mapping[str, str]) -> str:
    return outcomes[step.after] if step.after is not None else ""


def _attempt(task: Task, progress: Progress, log: Path) -> str:
    """What went wrong, "" where nothing did. A defect of edgeq is one cell's error too: the others are still wanted."""
    try:
        perform(task, progress)
    except EdgeqError as error:
        return str(error)
    except Exception as error:  # whatever a defect raises; what is needed to find it is kept
        return f"Internal error: {type(error).__name__}: {error} ({_kept(traceback.format_exc(), log)})"
    return ""


def _kept(text: str, log: Path) -> str:
    """Add a traceback to a log: where it is, in words."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        return f"its traceback could not be written to {log}: {error.strerror}"
    return f"its traceback is in {log}"


class _Pool:
    """A process per task: one that is killed, by the system or its own fault, takes no other along."""

    def __init__(self, jobs: int, logs: Path, finished: Callable[[Task, str], None]) -> None:
        self._jobs, self._logs, self._finished = jobs, logs, finished
        self._running: dict[int, tuple[Step, SpawnProcess, Connection]] = {}
        self._outcomes: Outcomes = {}

    def run(self, steps: Sequence[Step], progress: Progress) -> None:
        self._logs.mkdir(parents=True, exist_ok=True)
        waiting = list(steps)
        progress.stage("building")
        try:
            while waiting or self._running:
                waiting = self._begin(waiting)
                names = [step.task.name for step, _, _ in self._running.values()]
                progress.advance(len(self._outcomes), len(steps), ", ".join(names))
                if self._running:  # what is left may all have ended with what it needed
                    self._collect()
        finally:
            for _, process, _ in self._running.values():
                process.terminate()
            for _, process, _ in self._running.values():
                process.join()

    def _begin(self, waiting: list[Step]) -> list[Step]:
        """Start what can be started; what is left."""
        left = []
        for step in waiting:
            if step.after is not None and step.after not in self._outcomes:
                left.append(step)
            elif error := _inherited(step, self._outcomes):
                self._end(step.task, error)
            elif len(self._running) < self._jobs:
                self._start(step)
            else:
                left.append(step)
        return left

    def _start(self, step: Step) -> None:
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        log = self._logs / f"{step.task.name}.log"
        process = context.Process(target=_child, args=(step.task, sender, log), name=step.task.name)
        process.start()
        sender.close()
        self._running[process.sentinel] = (step, process, receiver)

    def _collect(self) -> None:
        """Wait until a process ends."""
        ended = set(wait(list(self._running)))
        for sentinel in [one for one in self._running if one in ended]:
            step, process, receiver = self._running.pop(sentinel)
            process.join()
            try:
                error = str(receiver.recv())
            except EOFError:
                error = self._silent_end(step.task.name, process.exitcode)
            receiver.close()
            self._end(step.task, error)

    def _end(self, task: Task, error: str) -> None:
        self._outcomes[task.name] = error
        self._finished(task, error)

    def _silent_end(self, name: str, code: int | None) -> str:
        """The error of a process that could not say anything."""
        how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with {code}"
        log = self._logs / f"{name}.log"
        said = " ".join(log.read_text(errors="replace").split())[-LAST_WORDS:] if log.is_file() else ""
        return f"The process that built it {how}{': ' + said if said else '.'}"


def _child(task: Task, sender: Connection, log: Path) -> None:
    """One task in a process of its own, which ends with its parent."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    try:
        sender.send(_attempt(task, SilentProgress(), log))
    except KeyboardInterrupt:  # the terminal's, which the parent has too
        os._exit(1)
    sender.close()
    os._exit(0)  # torch takes a second to take itself down


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
