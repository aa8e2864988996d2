"""Where a validation keeps its files."""

from __future__ import annotations

from pathlib import Path

import pytest

import edgeq.validation.workplace as module
from edgeq.validation.workplace import available_cores, lies_in_memory, working_directory


def test_the_deepest_mount_decides(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    spaced = str(tmp_path).replace(" ", "\\040")
    (tmp_path / "ram" / "disk").mkdir(parents=True)
    mounts.write_text(f"root / ext4 rw 0 0\nx {spaced}/ram tmpfs rw 0 0\ny {spaced}/ram/disk ext4 rw 0 0\n")
    assert not lies_in_memory(tmp_path, mounts=mounts)
    assert lies_in_memory(tmp_path / "ram", mounts=mounts)
    assert not lies_in_memory(tmp_path / "ram" / "disk", mounts=mounts)


def test_a_later_mount_hides_an_earlier_one(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"a {tmp_path} tmpfs rw 0 0\nb {tmp_path} ext4 rw 0 0\n")
    assert not lies_in_memory(tmp_path, mounts=mounts)


def test_a_system_without_a_mount_table(tmp_path: Path) -> None:
    assert not lies_in_memory(tmp_path, mounts=tmp_path / "none")


def test_places_in_memory_are_avoided_and_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "lies_in_memory", lambda path: path != tmp_path)
    with working_directory(tmp_path) as directory:
        assert directory.parent == tmp_path
        (directory / "file").write_text("x")
    assert list(tmp_path.iterdir()) == []


def test_some_place_is_found_where_all_lie_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "lies_in_memory", lambda _: True)
    with working_directory(tmp_path) as directory:
        assert directory.is_dir()


def test_there_is_a_core() -> None:
    assert available_cores() >= 1
