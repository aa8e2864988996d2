"""The package on disk: its files, the same bytes every time, and a manifest that coremltools opens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from coremltools.converters.mil.mil import Builder

from edgeq.core.scheme import Scheme
from edgeq.errors import OutputError
from edgeq.lowering.coreml.package import FILES, PACKAGE
from tests.lowering.coreml.packages import product_package, random_tensor

SCHEME = Scheme(bits=4, group_size=16, scale_dtype="float16")


def bytes_of(package: Path) -> dict[str, bytes]:
    return {str(path.relative_to(package.parent)): path.read_bytes() for path in package.rglob("*") if path.is_file()}


def test_the_same_bytes_every_time(tmp_path: Path) -> None:
    first, second = (
        bytes_of(product_package(tmp_path / name, random_tensor(SCHEME), functions=("one", "two"))[0]) for name in "ab"
    )
    assert set(first) == set(FILES)
    assert first == second


def test_the_same_bytes_whatever_else_was_named_before(tmp_path: Path) -> None:
    tensor = random_tensor(SCHEME, inputs=41)  # padded, by operations that nobody names
    first = bytes_of(product_package(tmp_path / "a", tensor)[0])
    Builder.name_count.update(pad=7, const=5, constexpr_blockwise_shift_scale=3)
    assert bytes_of(product_package(tmp_path / "b", tensor)[0]) == first


def test_a_package_is_written_over_an_older_one(tmp_path: Path) -> None:
    expected = bytes_of(product_package(tmp_path / "new", random_tensor(SCHEME))[0])
    product_package(tmp_path / "old", random_tensor(SCHEME, seed=1))
    assert bytes_of(product_package(tmp_path / "old", random_tensor(SCHEME))[0]) == expected


def test_the_manifest_leads_to_the_model_and_the_weights(tmp_path: Path) -> None:
    package, _ = product_package(tmp_path, random_tensor(SCHEME))
    manifest = json.loads((package / "Manifest.json").read_text())
    entries = manifest["itemInfoEntries"]
    assert entries[manifest["rootModelIdentifier"]]["name"] == "model.mlmodel"
    assert all((package / "Data" / entry["path"]).exists() for entry in entries.values())


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / PACKAGE).write_text("in the way")
    with pytest.raises(OutputError, match=PACKAGE):
        product_package(tmp_path, random_tensor(SCHEME))
