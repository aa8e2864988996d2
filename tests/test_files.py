"""Writing is complete or absent, and paths stay inside their directory."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeq.errors import OutputError, UnsafeInputError
from edgeq.files import (
    CHUNK,
    contained,
    output_errors,
    publish_directory,
    sha256_file,
    write_atomic,
    write_bytes_atomic,
)


@pytest.mark.parametrize("path", ["a", "a/b.txt", "./a", "a/./b", "..a/b..", "a..b"])
def test_contained_accepts_what_stays_inside(tmp_path: Path, path: str) -> None:
    assert contained(tmp_path, path).resolve().is_relative_to(tmp_path.resolve())


@pytest.mark.parametrize(
    "path", ["", "/etc/passwd", "..", "../a", "a/../../b", "a\\..\\..\\b", "\\\\host\\share", "C:/x", "C:\\x", "a\0b"]
)
def test_contained_refuses_what_leaves(tmp_path: Path, path: str) -> None:
    with pytest.raises(UnsafeInputError):
        contained(tmp_path, path)


def test_contained_refuses_links_that_leave(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "out").symlink_to(tmp_path)
    (inside / "within").symlink_to(inside)
    with pytest.raises(UnsafeInputError, match="link"):
        contained(inside, "out/secret")
    assert contained(inside, "within/file") == inside / "within" / "file"


@given(st.text(alphabet="./\\ab:\0", max_size=12))
def test_contained_never_returns_a_path_outside(path: str) -> None:
    base = Path("/nowhere/at/all")
    try:
        result = contained(base, path)
    except UnsafeInputError:
        return
    assert Path(os.path.normpath(result)).is_relative_to(base)


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1])
def test_sha256_file_is_hashlib_over_all_bytes(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(data)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(data).hexdigest()


def test_write_bytes_atomic_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes_atomic(path, b"a long first version")
    write_bytes_atomic(path, b"second")
    assert path.read_bytes() == b"second"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_write_atomic_leaves_the_old_file_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        write_atomic(path, fail)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_write_atomic_names_a_full_disk(tmp_path: Path) -> None:
    def fill(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OutputError, match="disk is full"):
        write_atomic(tmp_path / "file", fill)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EDQUOT, "disk is full"),
        (errno.EFBIG, "disk is full"),
        (errno.EACCES, "may not be written"),
        (errno.EPERM, "may not be written"),
        (errno.EROFS, "may not be written"),
        (errno.ENOTDIR, "cannot be created"),
        (errno.ENAMETOOLONG, "cannot be created"),
    ],
)
def test_output_errors_become_one_line_with_a_remedy(code: int, message: str) -> None:
    with pytest.raises(OutputError, match=message) as refusal, output_errors(Path("out")):
        raise OSError(code, os.strerror(code))
    assert refusal.value.exit_code == 2
    assert refusal.value.remedy


def test_output_errors_leave_other_failures_alone() -> None:
    with pytest.raises(OSError, match="weird") as failure, output_errors(Path("out")):
        raise OSError(errno.EIO, "weird")
    assert not isinstance(failure.value, OutputError)


def directory(path: Path, text: str) -> Path:
    path.mkdir()
    (path / "file").write_text(text)
    return path


def test_publish_renames_into_place(tmp_path: Path) -> None:
    publish_directory(directory(tmp_path / "staged", "new"), tmp_path / "final", force=False)
    assert (tmp_path / "final" / "file").read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["final"]


def test_publish_refuses_to_replace_without_force(tmp_path: Path) -> None:
    staged, final = directory(tmp_path / "staged", "new"), directory(tmp_path / "final", "old")
    with pytest.raises(OutputError, match="exists"):
        publish_directory(staged, final, force=False)
    assert (final / "file").read_text() == "old"
    publish_directory(staged, final, force=True)
    assert (final / "file").read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["final"]
