"""Quantized weights read back from a `.mlpackage`: from the program and the file of weights that a phone will open."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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

Array = npt.NDArray[Any]
MODEL_LIMIT = 1 << 30
"""A program without its weights is never larger."""
_PREFIX = "@model_path/"
_SENTINEL = 0xDEADBEEF
_HEADER = np.dtype([("sentinel", "<u4"), ("dtype", "<u4"), ("size", "<u8"), ("offset", "<u8"), ("padding", "<u8")])
_BLOB_TYPES = {1: "float16", 2: "float32", 3: "uint8", 4: "int8", 8: "int4", 10: "uint2", 11: "uint4"}
_BLOB_TYPES |= {12: "uint3", 13: "uint6"}
_PACKED = {"int4": 4, "uint2": 2, "uint3": 3, "uint4": 4, "uint6": 6}


class CoremlWeights:
    """The constants of a package's program. Weights stay on disk, mapped; nothing outside the package is read."""

    def __init__(self, package: Path) -> None:
        """Raises CorruptInputError where `package` holds no program."""
        path = _model_path(package)
        self._directory = path.parent
        self._functions = [_constants(function) for function in _load(path).mlProgram.functions.values()]

    def array(self, reference: str) -> Array:
        """One argument of a constant expression, `VALUE.ARGUMENT`; numbers of fewer than 8 bits as uint8 or int8.

        Raises CorruptInputError where it is missing, differs between functions, or does not fit its bytes.
        """
        name, _, argument = reference.rpartition(".")
        found: list[Any] = [constants[name].inputs.get(argument) for constants in self._functions if name in constants]
        if len(found) != len(self._functions) or not found or any(item != found[0] for item in found):
            raise _corrupt(f"its functions do not all hold {reference!r}, and the same")
        bindings: Any = () if found[0] is None else found[0].arguments
        if len(bindings) != 1 or not bindings[0].HasField("value"):
            raise _corrupt(f"{reference!r} is not a constant")
        return self._value(reference, bindings[0].value)

    def tensor(self, entry: WeightLocation) -> QuantizedTensor:
        """A quantized tensor as the runtime will read it. Raises CorruptInputError."""
        codes = self.array(entry.codes)
        scales = None if entry.codebook_kind == "palette" else self.array(entry.scales)
        zero_points = None if entry.zero_points is None else self.array(entry.zero_points)
        codebook = None if entry.codebook is None else self.array(entry.codebook)
        try:
            return _assemble(entry, codes, scales, zero_points, codebook)
        except (ValueError, EdgeqError) as error:
            raise _corrupt(f"{entry.codes} does not hold a tensor {entry.shape} ({error})") from error

    def _value(self, reference: str, value: Any) -> Array:  # noqa: ANN401 - protobuf has no types
        shape = tuple(dimension.constant.size for dimension in value.type.tensorType.dimensions)
        count = math.prod(shape)
        if value.HasField("blobFileValue"):
            kind, raw = self._blob(reference, value.blobFileValue)
        else:
            kind, raw = _immediate(reference, value)
        bits = _PACKED.get(kind) or np.dtype(kind).itemsize * 8
        if raw.nbytes != -(-count * bits // 8):
            raise _corrupt(f"{reference} has {raw.nbytes} bytes for {count} numbers of {kind}")
        if kind not in _PACKED:
            values: Array = raw.view(kind).reshape(shape)
            return values
        fields: Array = unpack_rows(raw[None], bits, count)[0].reshape(shape)
        return fields if kind != "int4" else ((fields ^ 8).astype(np.int16) - 8).astype(np.int8)

    def _blob(self, reference: str, blob: Any) -> tuple[str, npt.NDArray[np.uint8]]:  # noqa: ANN401 - as above
        if not blob.fileName.startswith(_PREFIX):
            raise _corrupt(f"{reference} is in {blob.fileName!r}")
        path = contained(self._directory, blob.fileName.removeprefix(_PREFIX))
        if not path.is_file() or not path.stat().st_size:
            raise _corrupt(f"{path.name} is missing")
        data = np.memmap(path, dtype=np.uint8, mode="r")
        if blob.offset + _HEADER.itemsize > data.size:
            raise _corrupt(f"{reference} lies beyond the end of {path.name}")
        header = data[blob.offset : blob.offset + _HEADER.itemsize].view(_HEADER)[0]
        start, size = int(header["offset"]), int(header["size"])
        kind = _BLOB_TYPES.get(int(header["dtype"]))
        if header["sentinel"] != _SENTINEL or kind is None or start + size > data.size:
            raise _corrupt(f"{reference} has no data in {path.name}")
        return kind, data[start : start + size]


def artifact_digest(model_path: Path, weights: Mapping[str, object]) -> str:
    """The weights digest of what the package `model_path` holds, one tensor in memory at a time.

    Raises CorruptInputError or UnsafeInputError.
    """
    source = CoremlWeights(model_path)
    entries = {name: from_plain(WeightLocation, entry, f"weights.{name}") for name, entry in weights.items()}
    return weights_digest((name, tensor_digest(name, source.tensor(entry))) for name, entry in entries.items())


def _model_path(package: Path) -> Path:
    """The model that the manifest of the package calls its root."""
    try:
        manifest = json.loads((package / "Manifest.json").read_text(encoding="utf-8"))
        relative = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
        return contained(package / "Data", str(relative))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _corrupt("its manifest names no model") from error


def _load(path: Path) -> Any:  # noqa: ANN401 - protobuf's messages have no type stubs
    from coremltools.proto import Model_pb2

    if not path.is_file() or path.stat().st_size > MODEL_LIMIT:
        raise _corrupt("it is missing, or too large for a program")
    try:
        model = Model_pb2.Model.FromString(path.read_bytes())
    except Exception as error:  # protobuf's own error type has no type stubs
        raise _corrupt("it is not a Core ML model") from error
    if not model.mlProgram.functions:
        raise _corrupt("it holds no program")
    return model


def _constants(function: Any) -> dict[str, Any]:  # noqa: ANN401 - protobuf's messages have no type stubs
    """The constant expressions of a function by the name of their value."""
    return {
        operation.outputs[0].name: operation
        for block in function.block_specializations.values()
        for operation in block.operations
        if operation.type.startswith("constexpr_") and operation.outputs
    }


def _immediate(reference: str, value: Any) -> tuple[str, npt.NDArray[np.uint8]]:  # noqa: ANN401 - as above
    """A value of a few numbers, which the program itself holds."""
    from coremltools.proto import MIL_pb2

    kinds = {MIL_pb2.FLOAT16: "float16", MIL_pb2.UINT8: "uint8", MIL_pb2.INT8: "int8"}
    kinds |= {MIL_pb2.UINT2: "uint2", MIL_pb2.UINT3: "uint3", MIL_pb2.UINT4: "uint4", MIL_pb2.UINT6: "uint6"}
    kinds |= {MIL_pb2.INT4: "int4"}
    tensor = value.immediateValue.tensor
    kind = kinds.get(value.type.tensorType.dataType)
    if tensor.HasField("floats"):
        return "float32", np.array(tensor.floats.values, dtype=np.float32).view(np.uint8)
    if kind is None or not tensor.HasField("bytes"):
        raise _corrupt(f"{reference} is of no kind that holds weights")
    return kind, np.frombuffer(tensor.bytes.values, dtype=np.uint8)


def _assemble(
    entry: WeightLocation, codes: Array, scales: Array | None, zero_points: Array | None, codebook: Array | None
) -> QuantizedTensor:
    """Cut off the inputs that pad the last group, and undo the sign that symmetric codes are stored with."""
    outputs, inputs = entry.shape
    scheme = Scheme(
        bits=entry.bits,
        group_size=entry.group_size,
        symmetric=entry.symmetric,
        scale_dtype=entry.scale_dtype,
        codebook=entry.codebook_kind,
        palette_rows=entry.palette_rows,
    )
    scales = np.ones((outputs, 1), dtype=np.float16) if scales is None else scales
    signed = codes.dtype == np.int8
    expects_sign = scheme.symmetric and scheme.codebook is None
    if codes.ndim != 2 or len(codes) != outputs or signed != expects_sign or scales.dtype != np.float16:
        msg = f"codes {codes.shape} of {codes.dtype}, scales of {scales.dtype}"
        raise ValueError(msg)
    if signed:
        codes = codes.astype(np.int16) + scheme.default_zero_point
    codes = codes[:, :inputs].astype(np.uint8)
    if codes.shape != entry.shape or codes.max(initial=0) >= scheme.levels:
        msg = f"codes {codes.shape} up to {codes.max(initial=0)}"
        raise ValueError(msg)
    return QuantizedTensor(
        scheme=scheme,
        codes=codes,
        scales=scales.astype(np.float32),
        zero_points=zero_points,
        codebook=None if codebook is None else _tables(scheme, outputs, codebook),
    )


def _tables(scheme: Scheme, outputs: int, stored: Array) -> npt.NDArray[np.float32]:
    """`[tables, levels]`. Core ML has them for equal numbers of rows, so that some may be there several times."""
    if stored.ndim != 4 or stored.shape[1:] != (1, scheme.levels, 1) or stored.dtype != np.float16:
        msg = f"tables {stored.shape} of {stored.dtype}"
        raise ValueError(msg)
    if not len(stored) or outputs % len(stored):
        msg = f"{len(stored)} tables for {outputs} rows"
        raise ValueError(msg)
    owners = np.arange(0, outputs, outputs // len(stored)) // (scheme.palette_rows or outputs)
    _, first = np.unique(owners, return_index=True)
    tables: Array = stored[first, 0, :, 0]
    if len(tables) != scheme.tables(outputs) or not np.array_equal(tables[owners], stored[:, 0, :, 0]):
        msg = "tables that contradict each other"
        raise ValueError(msg)
    return tables.astype(np.float32)


def _corrupt(why: str) -> CorruptInputError:
    return CorruptInputError(f"The package is not what the manifest says: {why}.", remedy="Export the bundle again.")
