"""Writing a store: block by block, each complete or absent, continued where it was killed."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

import edgeq
from edgeq.core.artifact import FileEntry
from edgeq.core.digest import weights_digest
from edgeq.core.model import ModelInfo
from edgeq.core.recipe import Plan
from edgeq.core.records import from_plain, to_plain
from edgeq.core.tensor import QuantizedTensor
from edgeq.errors import EdgeqError, InternalError, OutputError
from edgeq.files import contained, output_errors, sha256_file, write_bytes_atomic
from edgeq.store.encode import EncodedTensor, decode_quantized
from edgeq.store.layout import (
    BLOCKS,
    DOCUMENT,
    DRAFT,
    PARTIAL,
    SOURCE,
    STORE_SCHEMA,
    TRAINING,
    BlockRecord,
    StoreDocument,
    TensorRecord,
    read_document,
)
from edgeq.store.model import QuantizedModel
from edgeq.store.shards import read_tensor, write_shard

TEMPORARY = ".*.tmp"
"""What a killed run may leave of `edgeq.files.write_atomic`."""


def store_key(info: ModelInfo, plan: Plan, source: Path, calibration: Sequence[Sequence[int]] = ()) -> str:
    """Hex sha256 of what a store's bytes depend on; `calibration` are the token ids that its methods read.

    A local directory has no revision of its weights, so the size and the time of each weight file stand for them.
    """
    files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(source.glob("*.safetensors"))]
    inputs = [
        STORE_SCHEMA,
        edgeq.__version__,
        to_plain(info),
        to_plain(plan),
        files,
        [list(ids) for ids in calibration],
    ]
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


class StoreWriter:
    """One run that fills a store. Blocks of an earlier run with the same key are kept; another key starts anew."""

    def __init__(self, directory: Path, *, key: str) -> None:
        """Raises OutputError where `directory` is not writable or holds something else than a store."""
        self._directory = directory
        self._key = key
        self._blocks: dict[str, BlockRecord] = {}
        with output_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
            found = self._finished_before()
            if found is None:
                self._start_anew()
            self._known = found or {}
            (directory / BLOCKS).mkdir(exist_ok=True)
            for litter in (*directory.glob(TEMPORARY), *(directory / BLOCKS).glob(TEMPORARY)):
                litter.unlink()

    def holds(self, index: int, label: str) -> bool:
        """Whether block number `index` is already stored with the right bytes; then it counts as written."""
        relative = _block_path(index, label)
        record = self._known.get(relative)
        if record is None:
            return False
        path = self._directory / relative
        if not path.is_file() or path.stat().st_size != record.file.bytes or sha256_file(path) != record.file.sha256:
            return False
        self._blocks[relative] = record
        return True

    def quantized(self, index: int, label: str) -> dict[str, QuantizedTensor]:
        """The quantized weights of a block that is written. Raises CorruptInputError where its file is damaged."""
        record = self._blocks[_block_path(index, label)]
        return {
            name: _read_quantized(self._directory / record.file.path, name, entry)
            for name, entry in record.tensors.items()
            if entry.scheme is not None
        }

    def floats(self, index: int, label: str) -> dict[str, npt.NDArray[np.float32]]:
        """The weights of a written block that are stored as float32. Raises CorruptInputError as `quantized`."""
        record = self._blocks[_block_path(index, label)]
        path = self._directory / record.file.path
        return {name: read_tensor(path, name) for name, entry in record.tensors.items() if entry.dtype == "float32"}

    def write(self, index: int, label: str, tensors: Mapping[str, EncodedTensor]) -> None:
        """Store block number `index`. Raises OutputError where it cannot be written; then nothing of it is visible."""
        relative = _block_path(index, label)
        arrays = {name: array for tensor in tensors.values() for name, array in tensor.arrays.items()}
        if len(arrays) != sum(len(tensor.arrays) for tensor in tensors.values()):
            raise InternalError(f"Two tensors of {label} have one name in the file.", remedy="Report this.")
        entry = write_shard(self._directory, relative, arrays)
        record = BlockRecord(file=entry, tensors={name: tensor.record for name, tensor in tensors.items()})
        self._blocks[relative] = record
        # Not synced: a line that a power cut takes away only means that its block is written again.
        line = json.dumps(to_plain(record)) + "\n"
        with output_errors(self._directory), (self._directory / PARTIAL).open("a", encoding="utf-8") as stream:
            stream.write(line)

    def finish(self, info: ModelInfo, plan: Plan, source: Path, companions: tuple[Path, ...]) -> QuantizedModel:
        """Copy the companion files, write `store.json` and open the store."""
        document = StoreDocument(
            schema=STORE_SCHEMA,
            edgeq_version=edgeq.__version__,
            key=self._key,
            weights_digest=weights_digest(
                (name, tensor.digest)
                for block in self._blocks.values()
                for name, tensor in block.tensors.items()
                if tensor.digest is not None
            ),
            info=info,
            plan=plan,
            blocks=tuple(self._blocks[path] for path in sorted(self._blocks)),
            source=tuple(self._copy(source, relative) for relative in sorted(companions)),
        )
        text = json.dumps(to_plain(document), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        write_bytes_atomic(self._directory / DOCUMENT, text.encode())
        (self._directory / PARTIAL).unlink(missing_ok=True)
        (self._directory / TRAINING).unlink(missing_ok=True)
        shutil.rmtree(self._directory / DRAFT, ignore_errors=True)
        return QuantizedModel(self._directory, document, trusted=True)

    def _copy(self, source: Path, relative: Path) -> FileEntry:
        """Copy one companion file. Not synced: `store.json` holds its hash."""
        target = contained(self._directory / SOURCE, relative.as_posix())
        with output_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / relative, target)
        return FileEntry(path=relative.as_posix(), bytes=target.stat().st_size, sha256=sha256_file(target))

    def _finished_before(self) -> dict[str, BlockRecord] | None:
        """Blocks by path that a run with this key wrote, or None where there was no such run."""
        known: dict[str, BlockRecord] = {}
        found = False
        try:
            document = read_document(self._directory)
        except EdgeqError:
            document = None
        if document is not None and document.key == self._key:
            found = True
            known.update((block.file.path, block) for block in document.blocks)
        partial = self._directory / PARTIAL
        lines = partial.read_text(encoding="utf-8", errors="replace").splitlines() if partial.is_file() else []
        if not lines or lines[0] != self._key:
            return known if found else None
        for line in lines[1:]:
            try:
                record = from_plain(BlockRecord, json.loads(line), PARTIAL)
            except (ValueError, EdgeqError):
                break  # the line that was being written when the run was killed
            known[record.file.path] = record
        return known

    def _start_anew(self) -> None:
        """Remove what a run with another key left. Refuses a directory that holds anything else."""
        ours = {DOCUMENT, PARTIAL, BLOCKS, SOURCE, DRAFT, TRAINING}
        names = {path.name for path in self._directory.iterdir()}
        names -= {path.name for path in self._directory.glob(TEMPORARY)}
        if names - ours or (names and not names & {DOCUMENT, PARTIAL, DRAFT}):
            raise OutputError(f"{self._directory} is not a store and not empty.", remedy="Name another --output.")
        for name in (DOCUMENT, TRAINING):
            (self._directory / name).unlink(missing_ok=True)
        for name in (BLOCKS, SOURCE):
            shutil.rmtree(self._directory / name, ignore_errors=True)
        (self._directory / PARTIAL).write_text(self._key + "\n", encoding="utf-8")


def _read_quantized(path: Path, name: str, record: TensorRecord) -> QuantizedTensor:
    scheme, (outputs, inputs) = record.scheme, record.shape
    if scheme is None:
        raise InternalError(f"{name!r} is not quantized.", remedy="Report this.")
    scales = read_tensor(path, f"{name}.scales") if scheme.has_scales else np.ones((outputs, 1), np.float32)
    return decode_quantized(
        scheme,
        (outputs, inputs),
        read_tensor(path, f"{name}.codes"),
        scales,
        None if scheme.symmetric else read_tensor(path, f"{name}.zero_points"),
        codebook=None if scheme.codebook is None else read_tensor(path, f"{name}.codebook"),
    )


def _block_path(index: int, label: str) -> str:
    return f"{BLOCKS}/{index:04d}-{label[:80]}.safetensors"
