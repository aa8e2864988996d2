"""The data file beside `model.onnx`: laid out first, then written one tensor at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeq.errors import InternalError
from edgeq.files import write_atomic
from edgeq.progress import Progress

DATA_FILE = "model.onnx_data"
ALIGNMENT = 4096
Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class _Slot:
    offset: int
    length: int
    name: str
    produce: Callable[[], Array]


class ExternalData:
    """Initializers whose bytes live in the data file, where runtimes map them instead of copying."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.values: dict[str, ir.Value] = {}
        self._slots: list[_Slot] = []
        self._end = 0

    def reserve(self, name: str, dtype: ir.DataType, shape: tuple[int, ...], produce: Callable[[], Array]) -> ir.Value:
        """An initializer whose bytes `produce` will give when the file is written."""
        length = math.prod(shape) * int(dtype.itemsize)
        offset = -(-self._end // ALIGNMENT) * ALIGNMENT
        self._slots.append(_Slot(offset, length, name, produce))
        self._end = offset + length
        return self._value(name, dtype, shape, offset, length)

    def alias(self, name: str, other: ir.Value, shape: tuple[int, ...]) -> ir.Value:
        """A second initializer over the bytes of `other`, in another shape: stored once, mapped twice."""
        tensor = other.const_value
        assert isinstance(tensor, ir.ExternalTensor)  # noqa: S101 - what `reserve` made
        return self._value(name, tensor.dtype, shape, tensor.offset or 0, tensor.length or 0)

    def _value(self, name: str, dtype: ir.DataType, shape: tuple[int, ...], offset: int, length: int) -> ir.Value:
        tensor = ir.ExternalTensor(
            DATA_FILE, offset, length, dtype, shape=ir.Shape(shape), name=name, base_dir=self.directory
        )
        value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype), const_value=tensor)
        self.values[name] = value
        return value

    def write(self, progress: Progress) -> None:
        """Stream every tensor into the file. Raises OutputError where the disk is full."""
        write_atomic(self.directory / DATA_FILE, lambda path: self._write(path, progress))

    def _write(self, path: Path, progress: Progress) -> None:
        with path.open("wb") as stream:
            for slot in self._slots:
                stream.seek(slot.offset)
                array = np.ascontiguousarray(slot.produce())
                if array.nbytes != slot.length:
                    raise InternalError(
                        f"{slot.name} has {array.nbytes} bytes where {slot.length} are laid out.",
                        remedy="Report this: the store and the layout disagree.",
                    )
                stream.write(array.data)
                progress.advance(slot.offset + slot.length, self._end, slot.name)
            stream.truncate(self._end)
