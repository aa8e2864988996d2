"""Where work goes on beside its output: kept from a killed run for the next one, gone after success and errors."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgeq.errors import UsageError
from edgeq.files import output_errors

STORE = "store"


@contextmanager
def workplace(output: Path) -> Iterator[Path]:
    """A directory beside the output for what is on the way. A killed run leaves it behind, and the next one goes on
    with it; success and errors remove it."""
    work = output.with_name(f".{output.name}.work")
    with undone(work):
        with output_errors(output):
            work.mkdir(parents=True, exist_ok=True)
        _keep_store(work)
        try:
            yield work
        except KeyboardInterrupt:
            _keep_store(work)
            raise
    shutil.rmtree(work, ignore_errors=True)


def _keep_store(work: Path) -> None:
    """Remove the rest: only the store is worth keeping from a run that was killed or interrupted."""
    for path in work.iterdir():
        if path.name != STORE:
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def undone(directory: Path) -> Iterator[None]:
    """Where the work fails, remove `directory` and the parents that were made for it."""
    made = [parent for parent in directory.parents if not parent.exists()]
    try:
        yield
    except Exception:
        shutil.rmtree(directory, ignore_errors=True)
        for parent in made:
            with suppress(OSError):
                parent.rmdir()
        raise


def created(directory: Path) -> Path:
    """`directory`, which is made."""
    with output_errors(directory):
        directory.mkdir()
    return directory


def check_text(path: Path | None, option: str) -> None:
    """Raises UsageError where a text that an option names is no file."""
    if path is not None and not path.is_file():
        raise UsageError(f"There is no file {path}.", remedy=f"Name a UTF-8 text with {option}.")
