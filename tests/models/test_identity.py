"""Revision and licence."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeq.models import identity
from edgeq.models.identity import licence, revision


def model(directory: Path, data: bytes = bytes(5000)) -> list[Path]:
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    path = directory / "model.safetensors"
    path.write_bytes(data)
    return [path]


def test_the_same_bytes_have_the_same_revision_anywhere(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    assert revision(first, model(first)) == revision(second, model(second))


@pytest.mark.parametrize("changed", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("limit", [identity.HASHED_WHOLE, 0])
def test_other_bytes_have_another_revision(
    tmp_path: Path, changed: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "HASHED_WHOLE", limit)
    files = model(tmp_path / "a")
    before = revision(tmp_path / "a", files)
    data = bytearray((tmp_path / "a" / changed).read_bytes())
    data[-1] ^= 1
    (tmp_path / "a" / changed).write_bytes(data)
    assert revision(tmp_path / "a", files) != before


def test_other_images_make_another_model(tmp_path: Path) -> None:
    files = model(tmp_path / "a")
    before = revision(tmp_path / "a", files)
    (tmp_path / "a" / "preprocessor_config.json").write_text('{"size": 224}')
    with_size = revision(tmp_path / "a", files)
    (tmp_path / "a" / "preprocessor_config.json").write_text('{"size": 192}')
    assert len({before, with_size, revision(tmp_path / "a", files)}) == 3


def test_large_files_are_sampled_with_both_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "HASHED_WHOLE", 0)
    monkeypatch.setattr(identity, "CHUNK", 8)
    monkeypatch.setattr(identity, "SAMPLES", 4)
    files = model(tmp_path / "a", bytes(1003))
    before = revision(tmp_path / "a", files)
    for position, seen in ((0, True), (1002, True), (50, False)):
        data = bytearray(1003)
        data[position] = 1
        files[0].write_bytes(data)
        assert (revision(tmp_path / "a", files) != before) is seen


def test_a_hub_snapshot_is_its_commit(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshots").mkdir()
    directory = tmp_path / "snapshots" / "0123abc"
    assert revision(directory, model(directory)) == "0123abc"


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlanguage: en\nlicense: apache-2.0\n---\n# Model", "apache-2.0"),
        ('---\nlicense: "mit"\n---\n', "mit"),
        ("---\nlicense: other\nlicense_name: own-terms\n---\n", "own-terms"),
        ("---\nlicense: other\n---\n", "other"),
        ("# no front matter\nlicense: mit\n", None),
        ("---\nlanguage: en\n---\nlicense: mit\n", None),
    ],
)
def test_the_licence_is_in_the_card(tmp_path: Path, card: str, expected: str | None) -> None:
    (tmp_path / "README.md").write_text(card)
    assert licence(tmp_path) == expected


def test_else_the_licence_file_is_named(tmp_path: Path) -> None:
    assert licence(tmp_path) is None
    (tmp_path / "LICENSE.txt").write_text("terms")
    assert licence(tmp_path) == "LICENSE.txt"
