"""safetensors files: written in one pass, hashed on the way; read one tensor at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.core.artifact import FileEntry
from edgeq.errors import CorruptInputError
from edgeq.files import write_atomic
from edgeq.store.layout import REMEDY

_NAMES = {
    np.dtype(np.uint8): "U8",
    np.dtype(np.float16): "F16",
    np.dtype(np.float32): "F32",
    np.dtype(np.int8): "I8",
    np.dtype(np.int16): "I16",
    np.dtype(np.int32): "I32",
    np.dtype(np.int64): "I64",
    np.dtype(np.bool_): "BOOL",
}


def write_shard(directory: Path, relative: str, arrays: Mapping[str, npt.NDArray[Any]]) -> FileEntry:
    """Write `arrays` to `directory / relative`, complete or not at all. The same arrays give the same bytes.

    Raises OutputError where the disk is full or the place not writable.
    """
    # Wide types first, so that every tensor is aligned.
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    header, end = {}, 0
    for name in order:
        array = arrays[name]
        header[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [end, end + array.nbytes],
        }
        end += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()

    def write(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            pieces: list[bytes | memoryview] = [len(text).to_bytes(8, "little"), text]
            for piece in (*pieces, *(_raw(arrays[name]) for name in order)):
                stream.write(piece)
                digest.update(piece)

    write_atomic(directory / relative, write)
    return FileEntry(path=relative, bytes=8 + len(text) + end, sha256=digest.hexdigest())


def read_tensor(path: Path, name: str) -> npt.NDArray[Any]:
    """One tensor of a shard. Raises CorruptInputError where it is not there or the file is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as shard:
            array: npt.NDArray[Any] = shard.get_tensor(name)
            return array
    except (SafetensorError, OSError) as error:
        raise CorruptInputError(f"{path} cannot be read ({error}).", remedy=REMEDY) from error


def _raw(array: npt.NDArray[Any]) -> memoryview:
    """The bytes of an array as they lie in memory, little endian on every machine that edgeq runs on."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
