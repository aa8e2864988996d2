"""What long work shows on stderr: a bar on a terminal, one plain line per stage elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgeq.progress import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID


class PlainProgress:
    """One line per stage and note: for logs, where a moving bar would be noise."""

    def stage(self, name: str) -> None:
        print(f"{name} ...", file=sys.stderr, flush=True)

    def advance(self, done: int, total: int, detail: str) -> None:
        pass

    def note(self, text: str) -> None:
        print(f"note: {text}", file=sys.stderr, flush=True)


class BarProgress:
    """One bar per stage, with its time; finished stages stay on the screen."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._task: TaskID | None = None

    def stage(self, name: str) -> None:
        self.finish()
        self._task = self._bars.add_task(name, total=None, detail="")

    def advance(self, done: int, total: int, detail: str) -> None:
        if self._task is not None:
            self._bars.update(self._task, completed=done, total=total, detail=detail)

    def note(self, text: str) -> None:
        self._bars.console.print(f"note: {text}", markup=False, highlight=False, style="dim")

    def finish(self) -> None:
        """Mark the current stage as done."""
        if self._task is not None:
            self._bars.update(self._task, completed=1, total=1, detail="")
            self._bars.stop_task(self._task)


@contextmanager
def watching() -> Iterator[Progress]:
    """The progress that fits stderr, until the work is done."""
    if not sys.stderr.isatty():
        yield PlainProgress()
        return
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[detail]}", style="dim", markup=False),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        progress = BarProgress(bars)
        yield progress
        progress.finish()
