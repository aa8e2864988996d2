"""Safetensors weights without torch: headers are checked against the file, tensors are mapped one at a time."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

import ml_dtypes
import numpy as np
import numpy.typing as npt

from edgeq.errors import CorruptInputError, SourceNotFoundError, UnsafeInputError, UnsupportedModelError
from edgeq.files import contained

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
LARGEST_JSON = 100 * 2**20

DTYPES: dict[str, npt.DTypeLike] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """Where one tensor lies: `bytes` bytes at `offset` of `file`. `dtype` in safetensors' spelling."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The tensors of a directory by their names in it, and the files that hold them."""

    files: tuple[Path, ...]
    tensors: dict[str, StoredTensor]

    def read(self, name: str) -> npt.NDArray[Any]:
        """The values, mapped from the file: pages are read when they are touched, and copied when they are written, so
        that torch may wrap them and the file stays as it is."""
        stored = self.tensors[name]
        if stored.dtype not in DTYPES:
            raise UnsupportedModelError(
                f"{name} is stored as {stored.dtype}.", remedy="Use a checkpoint in float32, float16 or bfloat16."
            )
        dtype = np.dtype(DTYPES[stored.dtype])
        if stored.bytes == 0:
            return np.zeros(stored.shape, dtype)
        mapped = np.memmap(stored.file, np.uint8, mode="c", offset=stored.offset, shape=(stored.bytes,))
        return np.asarray(mapped).view(dtype).reshape(stored.shape)


def open_checkpoint(directory: Path) -> Checkpoint:
    """Open `model.safetensors`, or the shards that `model.safetensors.index.json` names. No weights are read.

    Raises UnsafeInputError for pickles and for paths that leave the directory, CorruptInputError where a header and
    its file disagree, SourceNotFoundError where there are no weights.
    """
    if (directory / SINGLE_FILE).exists():
        path = inside(directory, SINGLE_FILE)
        return Checkpoint(files=(path,), tensors=read_header(path))
    if (directory / INDEX_FILE).exists():
        return _open_shards(directory)
    pickles = sorted(path.name for path in directory.iterdir() if path.suffix in PICKLE_SUFFIXES)
    if pickles:
        raise UnsafeInputError(
            f"{directory} holds its weights as a pickle ({pickles[0]}), which can run code when it is opened.",
            remedy="Convert it to safetensors where you trust it: load it with transformers and save_pretrained.",
        )
    raise SourceNotFoundError(
        f"{directory} holds no weights: neither {SINGLE_FILE} nor {INDEX_FILE}.",
        remedy="Name a directory that transformers' save_pretrained has written.",
    )


def _open_shards(directory: Path) -> Checkpoint:
    weight_map = read_json(inside(directory, INDEX_FILE)).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise CorruptInputError(f"{INDEX_FILE} has no weight_map.", remedy="Copy or download the model again.")
    shards: dict[str, dict[str, StoredTensor]] = {}
    for name in sorted(set(weight_map.values())):
        path = inside(directory, name)
        if not path.is_file():
            raise CorruptInputError(f"{name}, named by {INDEX_FILE}, is missing.", remedy="Download the model again.")
        shards[name] = read_header(path)
    absent = [tensor for tensor, file in weight_map.items() if tensor not in shards[file]]
    if absent:
        raise CorruptInputError(
            f"{weight_map[absent[0]]} lacks {absent[0]}, which {INDEX_FILE} promises.",
            remedy="Copy or download the model again.",
        )
    tensors = {tensor: shards[file][tensor] for tensor, file in weight_map.items()}
    return Checkpoint(files=tuple(directory / name for name in shards), tensors=tensors)


def read_header(path: Path) -> dict[str, StoredTensor]:
    """What a safetensors file says about its tensors, after the library has compared it with the file's size.

    Raises CorruptInputError.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np"):
            pass  # opening validates: header size, overflow, overlap, holes, shape times dtype, length of the file
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header: dict[str, dict[str, Any]] = json.loads(stream.read(length))
    except (SafetensorError, OSError, ValueError) as error:
        raise CorruptInputError(
            f"{path.name} is not a whole safetensors file ({error}).", remedy="Copy or download the model again."
        ) from error
    header.pop("__metadata__", None)
    return {
        name: StoredTensor(
            file=path,
            dtype=entry["dtype"],
            shape=tuple(entry["shape"]),
            offset=8 + length + entry["data_offsets"][0],
            bytes=entry["data_offsets"][1] - entry["data_offsets"][0],
        )
        for name, entry in header.items()
    }


def inside(directory: Path, relative: str) -> Path:
    """`directory / relative`, refused where it leaves the directory.

    A snapshot of huggingface_hub's cache is made of links into its neighbour `blobs`; those alone are allowed.
    Raises UnsafeInputError.
    """
    if hub_commit(directory) is not None and ".." not in PurePosixPath(relative).parts:
        blobs = directory.parent.parent / "blobs"
        path = directory / relative
        if path.is_symlink() and path.resolve().is_relative_to(blobs.resolve()):
            return path
    return contained(directory, relative)


def hub_commit(directory: Path) -> str | None:
    """The commit, where `directory` is a snapshot in huggingface_hub's cache."""
    is_snapshot = directory.parent.name == "snapshots" and (directory.parent.parent / "blobs").is_dir()
    return directory.name if is_snapshot else None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises CorruptInputError where the file is something else, or larger than any model's settings."""
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise ValueError(f"it has {path.stat().st_size} bytes")
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptInputError(f"{path.name} cannot be read ({error}).", remedy="Download the model again.") from error
    if not isinstance(value, dict):
        raise CorruptInputError(f"{path.name} is not a JSON object.", remedy="Copy or download the model again.")
    return cast("dict[str, Any]", value)
