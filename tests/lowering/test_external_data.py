"""The data file: aligned, complete or absent, every byte once."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeq.errors import InternalError, OutputError, UnsupportedModelError
from edgeq.lowering.onnx.external_data import ALIGNMENT, DATA_FILE, WEB_FILE_BYTES, WEB_FILES, ExternalData
from edgeq.progress import SilentProgress

ROWS = np.arange(12, dtype=np.uint8).reshape(3, 4)
FLOATS = np.linspace(0, 1, 5, dtype=np.float32)


def placed(value: ir.Value) -> tuple[int | None, int | None]:
    tensor = value.const_value
    assert isinstance(tensor, ir.ExternalTensor)
    assert tensor.location == DATA_FILE
    return tensor.offset, tensor.length


def laid_out(directory: Path) -> tuple[ExternalData, ir.Value, ir.Value]:
    data = ExternalData(directory)
    rows = data.reserve("rows", ir.DataType.UINT8, (3, 4), lambda: ROWS)
    floats = data.reserve("floats", ir.DataType.FLOAT, (5,), lambda: FLOATS)
    return data, rows, floats


def test_tensors_start_where_a_page_does(tmp_path: Path) -> None:
    data, rows, floats = laid_out(tmp_path)
    data.write(SilentProgress())
    assert (placed(rows), placed(floats)) == ((0, 12), (ALIGNMENT, 20))
    found = (tmp_path / DATA_FILE).read_bytes()
    assert found == ROWS.tobytes() + bytes(ALIGNMENT - 12) + FLOATS.tobytes()


def test_an_alias_adds_no_bytes(tmp_path: Path) -> None:
    data, rows, _ = laid_out(tmp_path)
    flat = data.alias("flat", rows, (12,))
    data.write(SilentProgress())
    assert placed(flat) == placed(rows)
    assert flat.shape == ir.Shape((12,))
    assert flat.dtype == ir.DataType.UINT8
    assert (tmp_path / DATA_FILE).stat().st_size == ALIGNMENT + 20
    assert set(data.values) == {"rows", "floats", "flat"}


def test_tensors_are_produced_one_after_the_other_and_reported(tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []

    class Listener(SilentProgress):
        def advance(self, done: int, total: int, detail: str) -> None:
            seen.append((done, total, detail))

    data, _, _ = laid_out(tmp_path)
    data.write(Listener())
    assert seen == [(12, ALIGNMENT + 20, "rows"), (ALIGNMENT + 20, ALIGNMENT + 20, "floats")]


def test_a_tensor_of_another_length_is_refused(tmp_path: Path) -> None:
    data, _, _ = laid_out(tmp_path)
    data.reserve("wrong", ir.DataType.FLOAT, (3,), lambda: FLOATS)
    with pytest.raises(InternalError, match="wrong has 20 bytes where 12 are laid out"):
        data.write(SilentProgress())
    assert list(tmp_path.iterdir()) == []


def test_a_failure_on_the_way_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / DATA_FILE).write_bytes(b"old")
    data, _, _ = laid_out(tmp_path)

    def fail() -> np.ndarray[Any, Any]:
        msg = "on the way"
        raise ValueError(msg)

    data.reserve("last", ir.DataType.FLOAT, (3,), fail)
    with pytest.raises(ValueError, match="on the way"):
        data.write(SilentProgress())
    assert [path.name for path in tmp_path.iterdir()] == [DATA_FILE]
    assert (tmp_path / DATA_FILE).read_bytes() == b"old"


def test_a_full_disk_is_an_output_error(tmp_path: Path) -> None:
    data, _, _ = laid_out(tmp_path)

    def full() -> np.ndarray[Any, Any]:
        raise OSError(errno.ENOSPC, "No space left on device")

    data.reserve("last", ir.DataType.FLOAT, (3,), full)
    with pytest.raises(OutputError, match="disk is full"):
        data.write(SilentProgress())
    assert list(tmp_path.iterdir()) == []


def in_chunks(
    directory: Path, lengths: dict[str, int], limit: int
) -> tuple[ExternalData, dict[str, ir.ExternalTensor]]:
    """Tensors of bytes that say which tensor they belong to, and where they were put."""
    data = ExternalData(directory, file="model_q4.onnx_data", file_bytes=limit)
    for index, (name, length) in enumerate(lengths.items()):
        filling = np.full(length, index + 1, dtype=np.uint8)
        data.reserve(name, ir.DataType.UINT8, (length,), lambda filling=filling: filling)  # type: ignore[misc]
    places = {name: value.const_value for name, value in data.values.items()}
    return data, {name: place for name, place in places.items() if isinstance(place, ir.ExternalTensor)}


def test_files_hold_every_tensor_once_and_end_before_the_limit(tmp_path: Path) -> None:
    lengths = {"a": 5000, "b": 4000, "c": 4097, "d": 1, "e": 30000, "f": 4096, "g": 12288}
    data, places = in_chunks(tmp_path, lengths, 3 * ALIGNMENT)
    data.write(SilentProgress())
    assert data.files == ("model_q4.onnx_data", *(f"model_q4.onnx_data_{index}" for index in range(1, 5)))
    assert {path.name for path in tmp_path.iterdir()} == set(data.files)
    assert [places[name].location for name in lengths] == [data.files[index] for index in (0, 0, 1, 1, 2, 3, 4)]
    found = {file: np.frombuffer((tmp_path / file).read_bytes(), np.uint8) for file in data.files}
    for index, (name, length) in enumerate(lengths.items()):
        place = places[name]
        start = place.offset or 0
        assert start % ALIGNMENT == 0
        assert (found[str(place.location)][start : start + length] == index + 1).all()
    assert sum(int((content > 0).sum()) for content in found.values()) == sum(lengths.values())
    assert all(len(content) <= 3 * ALIGNMENT for file, content in found.items() if file != data.files[2])
    assert len(found[data.files[2]]) == lengths["e"]  # longer than a file may be, so it has one of its own


def test_an_alias_lies_in_the_file_of_what_it_names(tmp_path: Path) -> None:
    data, places = in_chunks(tmp_path, {"a": 5000, "b": 5000}, 5000)
    alias = data.alias("c", data.values["b"], (50, 100)).const_value
    assert isinstance(alias, ir.ExternalTensor)
    assert (alias.location, alias.offset, alias.length) == (places["b"].location, 0, 5000)


def test_progress_goes_on_from_file_to_file(tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []

    class Listener(SilentProgress):
        def advance(self, done: int, total: int, detail: str) -> None:
            seen.append((done, total, detail))

    in_chunks(tmp_path, {"a": 5000, "b": 100}, 5000)[0].write(Listener())
    assert seen == [(5000, 5100, "a"), (5100, 5100, "b")]


def test_a_tensor_that_no_browser_takes_is_refused(tmp_path: Path) -> None:
    data = ExternalData(tmp_path, file_bytes=512 << 20)
    data.reserve("fits", ir.DataType.UINT8, (WEB_FILE_BYTES,), lambda: ROWS)
    with pytest.raises(UnsupportedModelError, match=f"table has {WEB_FILE_BYTES + 1} bytes"):
        data.reserve("table", ir.DataType.UINT8, (WEB_FILE_BYTES + 1,), lambda: ROWS)
    ExternalData(tmp_path).reserve("table", ir.DataType.UINT8, (WEB_FILE_BYTES + 1,), lambda: ROWS)


def test_more_files_than_are_fetched_are_refused(tmp_path: Path) -> None:
    lengths = {str(index): ALIGNMENT for index in range(WEB_FILES)}
    data, _ = in_chunks(tmp_path, lengths, ALIGNMENT)
    assert len(data.files) == WEB_FILES
    with pytest.raises(UnsupportedModelError, match="more than 100 files of 4096 bytes"):
        data.reserve("more", ir.DataType.UINT8, (1,), lambda: ROWS)
