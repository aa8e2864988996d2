"""QuantizedModel: an opened store."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.core.artifact import FileEntry
from edgeq.core.model import ModelInfo
from edgeq.core.recipe import Assignment, Plan
from edgeq.core.scheme import FLOAT_BITS, Codebook, Scheme
from edgeq.core.tensor import QuantizedTensor
from edgeq.errors import CorruptInputError, InternalError
from edgeq.files import contained, sha256_file
from edgeq.store.encode import decode_quantized
from edgeq.store.layout import REMEDY, SOURCE, BlockRecord, StoreDocument, TensorRecord, read_document
from edgeq.store.shards import read_tensor


@dataclass(frozen=True, kw_only=True)
class ResolvedRecipe:
    """What the plan does to most linears, and the bits of embeddings and head: the recipe as a report shows it."""

    bits: int
    method: str
    group_size: int | None
    symmetric: bool
    embedding_bits: int
    codebook: Codebook | None


class QuantizedModel:
    """A quantized model on disk. Nothing is held in memory; each call reads one tensor.

    Names are those of the torch module's parameters; a tied copy reads the tensor that is stored for it.
    """

    def __init__(self, directory: Path, document: StoreDocument, *, trusted: bool = False) -> None:
        """Use `open`. `trusted`: this process has just written or checked every block."""
        self.directory = directory
        self.info: ModelInfo = document.info
        self.plan: Plan = document.plan
        self.weights_digest: str = document.weights_digest
        self.source_files: tuple[FileEntry, ...] = document.source
        self._blocks = {name: block for block in document.blocks for name in block.tensors}
        self._checked = {block.file.path for block in document.blocks} if trusted else set()

    @classmethod
    def open(cls, directory: Path) -> QuantizedModel:
        """Open a finished store. Contents of a block are checked against its sha256 when it is first read.

        Raises SourceNotFoundError where there is none, CorruptInputError where files lack or have the wrong size.
        """
        document = read_document(directory)
        expected = [*(block.file for block in document.blocks), *(_under_source(entry) for entry in document.source)]
        for entry in expected:
            path = contained(directory, entry.path)
            size = path.stat().st_size if path.is_file() else None
            if size != entry.bytes:
                state = "is missing" if size is None else f"has {size} bytes, not {entry.bytes}"
                raise CorruptInputError(f"{path} {state}.", remedy=REMEDY)
        model = cls(directory, document)
        if set(model._blocks) != set(document.info.weights):
            raise CorruptInputError(f"The blocks of {directory} do not hold the model's weights.", remedy=REMEDY)
        return model

    @property
    def source_directory(self) -> Path:
        """Configuration, tokenizer and licence of the model, copied from where it came from."""
        return self.directory / SOURCE

    @property
    def weights_bytes(self) -> int:
        """Codes, scales, zero points, codebooks and what stayed float."""
        return sum(self._record(name).bytes for name in self._blocks)

    @property
    def recipe(self) -> ResolvedRecipe:
        """The plan in one line: the commonest assignment of linears, or else of convolutions, and of embeddings."""
        linear = self._commonest("linear") or self._commonest("convolution")
        embedding = self._commonest("embedding") or self._commonest("head")
        scheme = linear.scheme if linear else None
        quantized = scheme is not None and not scheme.is_float
        return ResolvedRecipe(
            bits=scheme.bits if scheme else FLOAT_BITS,
            method=linear.method if linear else "none",
            group_size=scheme.group_size if scheme and quantized else None,
            symmetric=bool(scheme and quantized and scheme.symmetric),
            codebook=scheme.codebook if scheme else None,
            embedding_bits=embedding.scheme.bits if embedding else FLOAT_BITS,
        )

    def names(self) -> tuple[str, ...]:
        """The stored weights in checkpoint order; tied copies are in `info.tied`."""
        return tuple(self.info.weights)

    def is_quantized(self, name: str) -> bool:
        return self._record(name).scheme is not None

    def scheme(self, name: str) -> Scheme | None:
        """The grid of a quantized weight, None for one that stayed float."""
        return self._record(name).scheme

    def floating_dtype(self, name: str) -> np.dtype[Any]:
        """The dtype that `floating` returns, without reading it."""
        dtype = self._record(name).dtype
        if dtype is None:
            raise InternalError(f"{name!r} is quantized.", remedy="Report this: `quantized` reads it.")
        return np.dtype(dtype)

    def packed(self, name: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], npt.NDArray[np.uint8] | None]:
        """A quantized weight as it lies on disk: codes uint8 `[out, ceil(in * bits / 8)]`, scales `[out, groups]` and
        zero points uint8 `[out, ceil(groups * bits / 8)]` or None; bits are filled from the lowest on.

        The scales of a palette, which has none, are ones `[out, 1]`. Raises CorruptInputError for a damaged block.
        """
        stored = self.info.tied.get(name, name)
        scheme = self.quantization(stored)
        zero_points = None if scheme.symmetric else self._array(stored, ".zero_points")
        codes = self._array(stored, ".codes")
        scales = self._array(stored, ".scales") if scheme.has_scales else np.ones((len(codes), 1), np.float32)
        return codes, scales, zero_points

    def codebook(self, name: str) -> npt.NDArray[np.float32] | None:
        """The tables of a quantized weight, float32 `[tables, 2**bits]`, or None where its levels are equally spaced.

        Raises CorruptInputError for a damaged block.
        """
        stored = self.info.tied.get(name, name)
        return None if self.quantization(stored).codebook is None else self._array(stored, ".codebook")

    def quantization(self, name: str) -> Scheme:
        """The grid of a weight that is known to be quantized."""
        scheme = self._record(name).scheme
        if scheme is None:
            raise InternalError(f"{name!r} is not quantized.", remedy="Report this: `floating` reads it.")
        return scheme

    def quantized(self, name: str) -> QuantizedTensor:
        """Codes `[out, in]`, scales, zero points and codebook of a quantized weight.

        Raises CorruptInputError for a damaged block.
        """
        stored = self.info.tied.get(name, name)
        scheme, shape, packed = self.quantization(stored), self._record(stored).shape, self.packed(stored)
        try:
            outputs, inputs = shape
            tensor = decode_quantized(scheme, (outputs, inputs), *packed, codebook=self.codebook(stored))
        except (ValueError, InternalError):
            tensor = None
        if tensor is None or tensor.shape != shape:
            raise CorruptInputError(f"{name!r} has not the shape that store.json gives it.", remedy=REMEDY)
        return tensor

    def floating(self, name: str) -> npt.NDArray[Any]:
        """A weight that was not quantized, in the module's own shape: float32, float16 with 16 bits, or integers.

        Raises CorruptInputError for a damaged block.
        """
        stored = self.info.tied.get(name, name)
        self.floating_dtype(stored)
        return self._array(stored, "")

    def dequantized(self, name: str) -> npt.NDArray[np.float32]:
        """The weight that every artifact must hold: float32, in the torch module's own shape and orientation."""
        stored = self.info.tied.get(name, name)
        if not self.is_quantized(stored):
            return self.floating(stored).astype(np.float32)
        weights = self.quantized(stored).dequantize()
        weight = self.info.weights[stored]
        return np.ascontiguousarray(weights.T) if weight.input_axis == 0 else weights.reshape(weight.shape)

    def tensor_digest(self, name: str) -> str | None:
        """The digest of one quantized weight; the weights digest is made of these."""
        return self._record(name).digest

    def _block(self, name: str) -> BlockRecord:
        try:
            return self._blocks[self.info.tied.get(name, name)]
        except KeyError:
            raise InternalError(f"The store has no weight {name!r}.", remedy="Report this.") from None

    def _record(self, name: str) -> TensorRecord:
        return self._block(name).tensors[self.info.tied.get(name, name)]

    def _array(self, stored: str, suffix: str) -> npt.NDArray[Any]:
        entry = self._block(stored).file
        path = contained(self.directory, entry.path)
        if entry.path not in self._checked:
            if not path.is_file() or sha256_file(path) != entry.sha256:
                raise CorruptInputError(f"{path} is not the file that store.json lists.", remedy=REMEDY)
            self._checked.add(entry.path)
        return read_tensor(path, stored + suffix)

    def _commonest(self, role: str) -> Assignment | None:
        found = Counter(
            self.plan.assignments[name]
            for name, weight in self.info.weights.items()
            if weight.role == role and name in self.plan.assignments
        )
        return found.most_common(1)[0][0] if found else None


def _under_source(entry: FileEntry) -> FileEntry:
    return FileEntry(path=f"{SOURCE}/{entry.path}", bytes=entry.bytes, sha256=entry.sha256)
