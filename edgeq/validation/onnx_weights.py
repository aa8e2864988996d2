"""Quantized weights read back from `model.onnx` and its data file: what ships, not what was meant."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeq.core.artifact import WeightLocation
from edgeq.core.digest import tensor_digest, weights_digest
from edgeq.core.packing import unpack_rows
from edgeq.core.records import from_plain
from edgeq.core.scheme import Scheme
from edgeq.core.tensor import QuantizedTensor
from edgeq.errors import CorruptInputError, EdgeqError
from edgeq.files import contained

if TYPE_CHECKING:
    from onnx import GraphProto, TensorProto

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
MODEL_LIMIT = 1 << 30
"""The graph itself, without its weights, is never larger."""


class OnnxWeights:
    """The initializers of a model. External data stays on disk, mapped; nothing outside its directory is read."""

    def __init__(self, model_path: Path) -> None:
        self._directory = model_path.parent
        self._initializers = {tensor.name: tensor for tensor in load_graph(model_path).initializer}

    def array(self, name: str) -> Array:
        """One initializer. Raises CorruptInputError where it is missing or its bytes do not fit, UnsafeInputError."""
        from onnx import helper

        tensor = self._initializers.get(name)
        if tensor is None:
            raise _corrupt(f"it has no initializer {name!r}")
        try:
            dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
        except (KeyError, TypeError) as error:
            raise _corrupt(f"{name} has a type that is not known") from error
        shape = tuple(tensor.dims)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        raw = self._external(tensor, size) if tensor.external_data else np.frombuffer(tensor.raw_data, np.uint8)
        if raw.nbytes != size:
            raise _corrupt(f"{name} has {raw.nbytes} bytes, not {size}")
        return raw.view(dtype).reshape(shape)

    def sizes(self) -> dict[str, int]:
        """Bytes of each initializer. Raises CorruptInputError for a type that is not known."""
        return {name: self.array(name).nbytes for name in self._initializers}

    def tensor(self, entry: WeightLocation) -> QuantizedTensor:
        """A quantized tensor as the runtime will read it. Raises CorruptInputError."""
        codes, scales = self.array(entry.codes), self.array(entry.scales)
        zero_points = None if entry.zero_points is None else self.array(entry.zero_points)
        try:
            return _assemble(entry, codes, scales, zero_points)
        except (ValueError, EdgeqError) as error:
            raise _corrupt(f"{entry.codes} does not hold a tensor {entry.shape} ({error})") from error

    def _external(self, tensor: TensorProto, size: int) -> Bytes:
        where = {item.key: item.value for item in tensor.external_data}
        path = contained(self._directory, where.get("location", ""))
        try:
            offset, length = int(where.get("offset", "0")), int(where.get("length", str(size)))
            available = path.stat().st_size
        except (ValueError, OSError) as error:
            raise _corrupt(f"the data of {tensor.name} is missing") from error
        if offset < 0 or length != size or offset + length > available:
            raise _corrupt(f"{tensor.name} reaches beyond the end of {path.name}")
        if not length:
            return np.empty(0, dtype=np.uint8)
        return np.memmap(path, dtype=np.uint8, mode="r", offset=offset, shape=(length,))


def read_entries(weights: Mapping[str, object]) -> dict[str, WeightLocation]:
    """The manifest's weights map. Raises CorruptInputError."""
    return {name: from_plain(WeightLocation, entry, f"weights.{name}") for name, entry in weights.items()}


def artifact_digest(model_path: Path, weights: Mapping[str, object]) -> str:
    """The weights digest of what the artifact holds, one tensor in memory at a time.

    Raises CorruptInputError or UnsafeInputError.
    """
    source = OnnxWeights(model_path)
    entries = read_entries(weights)
    return weights_digest((name, tensor_digest(name, source.tensor(entry))) for name, entry in entries.items())


def load_graph(model_path: Path) -> GraphProto:
    """The graph without its external data. Raises CorruptInputError."""
    import onnx

    if not model_path.is_file() or model_path.stat().st_size > MODEL_LIMIT:
        raise _corrupt("it is missing, or too large for a graph")
    try:
        return onnx.load_model_from_string(model_path.read_bytes()).graph
    except Exception as error:  # protobuf's own error type has no type stubs
        raise _corrupt("it is not an ONNX model") from error


def _assemble(entry: WeightLocation, codes: Array, scales: Array, zero_points: Array | None) -> QuantizedTensor:
    """Cut out the entry's rows and unpack them. A row's codes have no gaps, and padding at their end."""
    outputs, inputs = entry.shape
    start, stop = entry.rows
    if stop - start != outputs:
        msg = f"{stop - start} rows for {outputs} outputs"
        raise ValueError(msg)
    bits = entry.stored_bits
    scheme = Scheme(bits=bits, group_size=entry.group_size, symmetric=entry.symmetric, scale_dtype=entry.scale_dtype)
    groups = scheme.groups(inputs)
    packed = _rows(codes.reshape(codes.shape[0], -1), start, stop)
    if packed.dtype != np.uint8 or scales.dtype.kind not in "fV" or packed.shape[1] * 8 < inputs * bits:
        msg = f"rows of {packed.shape[1]} values of {packed.dtype}, scales of {scales.dtype}"
        raise ValueError(msg)
    zero = None
    if zero_points is not None:
        width = -(-groups * bits // 8)
        zero = unpack_rows(_rows(zero_points.reshape(-1, width), start, stop), bits, groups)
    tensor = QuantizedTensor(
        scheme=scheme,
        codes=unpack_rows(packed, bits, inputs),
        scales=_rows(scales.reshape(-1, groups), start, stop).astype(np.float32),
        zero_points=zero,
    )
    return tensor if bits == entry.bits else tensor.narrowed(entry.bits)


def _rows(rows: Array, start: int, stop: int) -> Array:
    if not 0 <= start < stop <= len(rows):
        msg = f"rows {start}..{stop} of {len(rows)}"
        raise ValueError(msg)
    return rows[start:stop]


def _corrupt(why: str) -> CorruptInputError:
    return CorruptInputError(f"The model file is not what the manifest says: {why}.", remedy="Export the bundle again.")
