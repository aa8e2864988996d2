"""The data file: aligned, complete or absent, every byte once."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeq.errors import InternalError, OutputError
from edgeq.lowering.onnx.external_data import ALIGNMENT, DATA_FILE, ExternalData
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
