"""The data files beside a model: laid out first, then written one tensor at a time."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeq.errors import InternalError, UnsupportedModelError
from edgeq.files import write_atomic
from edgeq.progress import Progress

DATA_FILE = "model.onnx_data"
ALIGNMENT = 4096
WEB_FILE_BYTES = 0x7FE00000
"""The most that a browser holds of one file: Chrome's ArrayBuffer takes no more."""
WEB_FILES = 100
"""The most files that transformers.js fetches for one model."""
Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class _Slot:
    file: int
    offset: int
    length: int
    name: str
    produce: Callable[[], Array]


class ExternalData:
    """Initializers whose bytes live in data files, where runtimes map them instead of copying.

    file: the name of the first one; those that follow are called `FILE_1`, `FILE_2`, ... file_bytes: where a tensor
    would make a file longer than this, the next one begins; a longer tensor has a file of its own. None: one file.
    """

    def __init__(self, directory: Path, *, file: str = DATA_FILE, file_bytes: int | None = None) -> None:
        self.directory = directory
        self.values: dict[str, ir.Value] = {}
        self._file, self._file_bytes = file, file_bytes
        self._slots: list[_Slot] = []
        self._ends = [0]

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the data files, in order."""
        return tuple(f"{self._file}_{index}" if index else self._file for index in range(len(self._ends)))

    def reserve(self, name: str, dtype: ir.DataType, shape: tuple[int, ...], produce: Callable[[], Array]) -> ir.Value:
        """An initializer whose bytes `produce` will give when its file is written.

        Raises UnsupportedModelError for one that no browser takes, where files are limited.
        """
        length = math.prod(shape) * int(dtype.itemsize)
        offset = self._room(name, length)
        self._slots.append(_Slot(len(self._ends) - 1, offset, length, name, produce))
        self._ends[-1] = offset + length
        place = ir.ExternalTensor(
            self.files[-1], offset, length, dtype, shape=ir.Shape(shape), name=name, base_dir=self.directory
        )
        return self._value(place)

    def _room(self, name: str, length: int) -> int:
        """Where a tensor begins in the last file, which is a new one where the last has no room."""
        offset = -(-self._ends[-1] // ALIGNMENT) * ALIGNMENT
        if self._file_bytes is None:
            return offset
        if length > WEB_FILE_BYTES:
            raise UnsupportedModelError(
                f"{name} has {length} bytes, and a browser takes {WEB_FILE_BYTES} at most.",
                remedy="Give it fewer bits with a rule for its name, or take a smaller model.",
            )
        if offset + length <= self._file_bytes or not self._ends[-1]:
            return offset
        if len(self._ends) == WEB_FILES:
            raise UnsupportedModelError(
                f"The weights need more than {WEB_FILES} files of {self._file_bytes} bytes.",
                remedy="Raise file_limit_mib in the profile, or take fewer bits.",
            )
        self._ends.append(0)
        return 0

    def alias(self, name: str, other: ir.Value, shape: tuple[int, ...]) -> ir.Value:
        """A second initializer over the bytes of `other`, in another shape: stored once, mapped twice."""
        tensor = other.const_value
        assert isinstance(tensor, ir.ExternalTensor)  # noqa: S101 - what `reserve` made
        return self._value(
            ir.ExternalTensor(
                tensor.location,
                tensor.offset,
                tensor.length,
                tensor.dtype,
                shape=ir.Shape(shape),
                name=name,
                base_dir=self.directory,
            )
        )

    def _value(self, tensor: ir.ExternalTensor) -> ir.Value:
        value = ir.Value(
            name=tensor.name,
            shape=tensor.shape,
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        self.values[str(tensor.name)] = value
        return value

    def write(self, progress: Progress) -> None:
        """Stream every tensor into its file. Raises OutputError where the disk is full."""
        for index, file in enumerate(self.files):
            write_atomic(self.directory / file, functools.partial(self._write, index=index, progress=progress))

    def _write(self, path: Path, *, index: int, progress: Progress) -> None:
        before, total = sum(self._ends[:index]), sum(self._ends)
        with path.open("wb") as stream:
            for slot in (slot for slot in self._slots if slot.file == index):
                stream.seek(slot.offset)
                array = np.ascontiguousarray(slot.produce())
                if array.nbytes != slot.length:
                    raise InternalError(
                        f"{slot.name} has {array.nbytes} bytes where {slot.length} are laid out.",
                        remedy="Report this: the store and the layout disagree.",
                    )
                stream.write(array.data)
                progress.advance(before + slot.offset + slot.length, total, slot.name)
            stream.truncate(self._ends[index])
