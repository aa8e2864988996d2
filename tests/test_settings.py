"""One reader of settings for exports and builds: it knows the fields of both, and both read one file."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from edgeq.building.configuration import Budgets, CellSettings, read_configuration
from edgeq.cli.settings import Settings, read_settings
from edgeq.errors import UsageError
from edgeq.settings import BUDGETS, KEYS, OPTIONS, Limit

TEXT = """
bits = 8
calibration = "c.txt"
targets = ["ios"]
max_size = { limit = "3MB", level = "warn" }
min_decode_tokens_per_second = 5

[models]
a = "x"

[[override]]
select = "*"
bits = 2
"""


def test_an_export_and_a_build_read_one_file(tmp_path: Path) -> None:
    path = tmp_path / "edgeq.toml"
    path.write_text(TEXT)
    (tmp_path / "c.txt").write_text("text")
    build, export = read_configuration(path), read_settings(tmp_path)
    assert export == Settings(bits=8, calibration=tmp_path / "c.txt", max_size=3_000_000)
    assert build.values["bits"] == export.bits
    assert build.values["calibration"] == export.calibration
    assert build.values["max_size"] == Limit(limit=3_000_000, level="warn")


def test_what_an_export_reads_is_checked_as_for_a_build(tmp_path: Path) -> None:
    path = tmp_path / "edgeq.toml"
    for text in ("max_size = 0", "calibration = 'nowhere.txt'", "effort = 'slow'", "task = 'module'", "bits = true"):
        path.write_text(text)
        with pytest.raises(UsageError) as of_export:
            read_settings(tmp_path)
        with pytest.raises(UsageError) as of_build:
            read_configuration(path)
        assert str(of_export.value) == str(of_build.value)


def test_without_settings_an_export_has_its_defaults(tmp_path: Path) -> None:
    assert read_settings(tmp_path) == Settings()
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "app"\n')
    assert read_settings(tmp_path) == Settings()
    (tmp_path / "pyproject.toml").write_text("[tool]\nedgeq = 3\n")
    with pytest.raises(UsageError, match="is not a table"):
        read_settings(tmp_path)


def test_the_reader_knows_every_field_of_exports_and_cells() -> None:
    cells = {one.name for one in fields(CellSettings)} - {"budgets"}
    budgets = tuple(one.name for one in fields(Budgets))
    exports = {one.name for one in fields(Settings)}
    assert cells == set(OPTIONS)
    assert budgets == BUDGETS
    assert cells | exports | {*budgets, "models", "targets", "override"} == set(KEYS)
