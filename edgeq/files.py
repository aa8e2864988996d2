"""Writing that is complete or absent, and paths that stay inside their directory."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.errors import OutputError, UnsafeInputError

CHUNK = 1 << 20
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says where nothing more can be written, be it a disk, a quota or a limit on a file's size."""


def contained(directory: Path, relative: str) -> Path:
    """`directory / relative`, refused where it is absolute, climbs out, or leaves through a link.

    Raises UnsafeInputError.
    """
    parts = PurePosixPath(relative.replace("\\", "/"))
    drive = len(relative) > 1 and relative[1] == ":"
    if not relative or parts.is_absolute() or ".." in parts.parts or "\0" in relative or drive:
        raise UnsafeInputError(
            f"The path {relative!r} leaves {directory}.", remedy="Do not use files from whoever made this."
        )
    path = directory / Path(*parts.parts)
    if not path.resolve().is_relative_to(directory.resolve()):
        raise UnsafeInputError(
            f"{relative!r} is a link that leaves {directory}.", remedy="Copy the file itself into the directory."
        )
    return path


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def sync_directory(directory: Path) -> None:
    """Make renames in `directory` survive a power cut, where the system allows it."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn what the system says about writing into an OutputError with a remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            raise OutputError(
                f"The disk is full: {path} could not be written.", remedy="Free some space, then run the same command."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise OutputError(
                f"{path} may not be written ({error.strerror}).", remedy="Choose another --output."
            ) from error
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG):
            raise OutputError(
                f"{path} cannot be created ({error.strerror}).", remedy="Choose another --output."
            ) from error
        raise


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` with a temporary sibling of `path`, then put it in place.

    Readers see the old file or the whole new one. Raises OutputError where the disk is full or the place not writable;
    the temporary file is gone then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with output_errors(path):
        try:
            write(temporary)
            descriptor = os.open(temporary, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            temporary.replace(path)
            sync_directory(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """`write_atomic` of bytes."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(data)

    write_atomic(path, write)


def save_array(path: Path, values: npt.NDArray[Any]) -> None:
    """`np.save` that names the cause of a failed write: numpy itself raises an OSError without an errno.

    Raises OutputError where the disk is full.
    """
    contiguous = np.ascontiguousarray(values)
    with output_errors(path), path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(contiguous))
        stream.write(contiguous.reshape(-1).view(np.uint8).data)


def publish_directory(staged: Path, final: Path, *, force: bool) -> None:
    """Rename a finished directory into place. An existing `final` is replaced only with `force`.

    Raises OutputError where `final` exists and `force` is False.
    """
    with output_errors(final):
        if final.exists():
            if not force:
                raise OutputError(f"{final} exists.", remedy="Name another --output, or say --force to replace it.")
            retired = final.with_name(f".{final.name}.{os.getpid()}.old")
            final.rename(retired)
            try:
                staged.rename(final)
            except OSError:
                retired.rename(final)
                raise
            shutil.rmtree(retired)
        else:
            staged.rename(final)
        sync_directory(final.parent)
