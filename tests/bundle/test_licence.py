"""The model's licence goes with it, or the bundle says what is not known."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeq.bundle.licence import write_licence


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    return source, out


@pytest.mark.parametrize("name", ["LICENSE", "LICENSE.txt", "LICENCE.md", "COPYING"])
def test_licence_file_is_copied_as_license(places: tuple[Path, Path], name: str) -> None:
    source, out = places
    (source / name).write_text("the terms")
    write_licence(source, "mit", "demo", out)
    assert [path.name for path in out.iterdir()] == ["LICENSE"]
    assert (out / "LICENSE").read_text() == "the terms"


def test_further_licences_and_notices_are_copied_too(places: tuple[Path, Path]) -> None:
    source, out = places
    for name in ("LICENSE", "LICENSE-data", "NOTICE"):
        (source / name).write_text(name)
    write_licence(source, None, "demo", out)
    assert {path.name: path.read_text() for path in out.iterdir()} == {
        "LICENSE": "LICENSE",
        "LICENSE-data": "LICENSE-data",
        "NOTICE": "NOTICE",
    }


def test_licence_of_the_model_card_is_stated(places: tuple[Path, Path]) -> None:
    source, out = places
    (source / "NOTICE").write_text("thanks")
    write_licence(source, "apache-2.0", "demo", out)
    text = (out / "LICENSE").read_text()
    assert "demo" in text
    assert "model card names: apache-2.0" in text
    assert (out / "NOTICE").is_file()


def test_unknown_licence_is_said(places: tuple[Path, Path]) -> None:
    source, out = places
    write_licence(source, None, "demo", out)
    assert "came without a licence" in (out / "LICENSE").read_text()
