"""What a build remembers in its directory: which bundle was made from what, and that only one run works at a time."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgeq.bundle.manifest import MANIFEST, verify
from edgeq.core.records import from_plain, to_plain
from edgeq.errors import EdgeqError, OutputError
from edgeq.files import output_errors, sha256_file, write_bytes_atomic

HIDDEN = ".edgeq"


@dataclass(frozen=True, kw_only=True)
class CellRecord:
    """A finished bundle: the key of what it was made from, that of its store, and the sha256 of its manifest."""

    key: str
    store: str
    manifest: str


@dataclass(frozen=True, kw_only=True)
class Places:
    """The directories of a build."""

    output: Path

    @property
    def hidden(self) -> Path:
        return self.output / HIDDEN

    @property
    def references(self) -> Path:
        """What models answered, for as long as a run takes."""
        return self.hidden / "references"

    @property
    def work(self) -> Path:
        """What is on the way, for as long as a run takes."""
        return self.hidden / "work"

    @property
    def logs(self) -> Path:
        return self.hidden / "logs"

    def bundle(self, name: str) -> Path:
        return self.output / name

    def store(self, key: str) -> Path:
        return self.hidden / "stores" / key

    def record(self, name: str) -> Path:
        return self.hidden / "cells" / f"{name}.json"


def remember(places: Places, name: str, key: str, store: str) -> None:
    """Note that a cell's bundle is finished: the last that is done for it."""
    record = CellRecord(key=key, store=store, manifest=sha256_file(places.bundle(name) / MANIFEST))
    path = places.record(name)
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomic(path, (json.dumps(to_plain(record), indent=1) + "\n").encode())


def is_current(places: Places, name: str, key: str) -> bool:
    """Whether a cell's bundle was made from this key and is, byte for byte, what it was then."""
    record = _read(places.record(name))
    bundle = places.bundle(name)
    if record is None or record.key != key or not (bundle / MANIFEST).is_file():
        return False
    try:
        verify(bundle)
    except EdgeqError:
        return False
    return sha256_file(bundle / MANIFEST) == record.manifest


def left_over(places: Places, names: Iterable[str]) -> list[str]:
    """Bundles that an earlier build made of cells that the settings no longer name. They are the user's to remove."""
    recorded = sorted(path.stem for path in places.record("any").parent.glob("*.json"))
    known = set(names)
    return [name for name in recorded if name not in known and places.bundle(name).exists()]


def forget_stores(places: Places, names: Iterable[str], keep: Iterable[str]) -> None:
    """Remove the stores but `keep` and those that the bundles of the cells `names` were made from."""
    known = (_read(places.record(name)) for name in names)
    kept = {*keep, *(record.store for record in known if record is not None)}
    for store in places.store("any").parent.glob("*"):
        if store.name not in kept:
            shutil.rmtree(store, ignore_errors=True)


@contextmanager
def working_in(places: Places) -> Iterator[None]:
    """Make the build's directory, alone in it. What a killed run left on the way is removed, stores and bundles are
    kept. Raises OutputError where another run is at work there or the place cannot be written."""
    with output_errors(places.output):
        places.hidden.mkdir(parents=True, exist_ok=True)
        lock = (places.hidden / "lock").open("w")
    with lock:
        _lock(lock.fileno(), places)
        _clear(places)
        try:
            yield
        finally:
            _clear(places)


def _lock(descriptor: int, places: Places) -> None:
    """The system lets go of the lock when the process ends, however it ends."""
    if os.name != "posix":
        return
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise OutputError(
            f"Another build is at work in {places.output}.", remedy="Wait for it, or name another --output."
        ) from error


def _clear(places: Places) -> None:
    for path in (places.references, places.work):
        shutil.rmtree(path, ignore_errors=True)


def _read(path: Path) -> CellRecord | None:
    """None where there is no record, or one that another edgeq wrote: then the cell is built anew."""
    try:
        return from_plain(CellRecord, json.loads(path.read_bytes()), path.name)
    except (OSError, ValueError, EdgeqError):
        return None
