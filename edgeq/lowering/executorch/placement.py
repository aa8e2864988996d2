"""Where each quantized weight went in a finished `.pte`: found by its bytes, so that nothing is taken on trust."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.core.artifact import TABLE_SUFFIX, WeightLocation
from edgeq.core.packing import pack_rows
from edgeq.core.tensor import QuantizedTensor
from edgeq.errors import UnsupportedModelError
from edgeq.lowering.executorch.carriers import in_product, in_table, padded
from edgeq.lowering.executorch.kernels import ExecuTorchKernels, key
from edgeq.lowering.stateful import quantized_weight
from edgeq.store import QuantizedModel

Array = npt.NDArray[Any]
ALIGNMENT = 16
"""Of constants in the file, in bytes: zeros follow each up to the next one."""


class Places:
    """The buffers of a program by the hash of their contents: `named:KEY` or `constant:INDEX`."""

    def __init__(self, pte: bytes) -> None:
        from executorch.exir._serialize._program import deserialize_pte_binary

        file = deserialize_pte_binary(pte)
        self._found: dict[str, str] = {}
        for index, buffer in enumerate(file.program.constant_buffer):
            self._found[_hash(buffer.storage)] = f"constant:{index}"
        if file.named_data is not None:
            for name, entry in file.named_data.pte_data.items():
                self._found[_hash(file.named_data.buffers[entry.buffer_index])] = f"named:{name}"

    def of(self, name: str, what: str, candidates: Iterable[Array]) -> str:
        """The place of the first of several forms that is there. Raises UnsupportedModelError where none is."""
        for array in candidates:
            contents = np.ascontiguousarray(array).tobytes()
            place = self._found.get(
                _hash(contents), self._found.get(_hash(contents + bytes(-len(contents) % ALIGNMENT)))
            )
            if place is not None:
                return place
        raise UnsupportedModelError(
            f"ExecuTorch did not keep the {what} of {name} as they are.",
            remedy="Use --format onnx, and report this: a pass of ExecuTorch changed the weights.",
        )


def place(pte: bytes, store: QuantizedModel, kernels: ExecuTorchKernels) -> dict[str, WeightLocation]:
    """The location of every weight; one that is a head and a table too is stored twice, the table under its own name.

    Raises UnsupportedModelError where a weight is not in the file bit for bit.
    """
    places = Places(pte)
    locations = {}
    for name in (name for name in store.names() if store.is_quantized(name)):
        tensor = quantized_weight(store, name)
        is_linear = key(name) in kernels.linears
        if is_linear:
            locations[name] = _linear(places, name, tensor)
        if key(name) in kernels.tables:
            locations[f"{name}{TABLE_SUFFIX}" if is_linear else name] = _table(places, name, tensor)
    return locations


def _linear(places: Places, name: str, tensor: QuantizedTensor) -> WeightLocation:
    """XNNPACK's layout: for 4 bits two codes a byte, the lower half first, and bfloat16 scales."""
    original, tensor = tensor, padded(in_product(tensor))
    if tensor.scheme.bits == 4:
        codes = tensor.codes[:, 0::2] | (tensor.codes[:, 1::2] << 4)
        scales: Array = (tensor.scales.view(np.uint32) >> 16).astype(np.uint16)
    else:
        codes, scales = _signed(tensor), tensor.scales
    zero_points = None
    if tensor.zero_points is not None:
        zeros = tensor.zero_points.astype(np.float32) - tensor.scheme.default_zero_point
        correction = -(tensor.scales * zeros)
        zero_points = places.of(name, "zero points", (correction, correction.T))
    return _location(
        original, tensor, places.of(name, "codes", (codes,)), places.of(name, "scales", (scales,)), zero_points
    )


def _table(places: Places, name: str, tensor: QuantizedTensor) -> WeightLocation:
    """The quantized embedding's layout: for 4 bits two codes a byte, the upper half first; for 2 bits four, the lowest
    first; and float32 scales."""
    original, tensor = tensor, in_table(tensor)
    codes: Array = _signed(tensor)
    if tensor.scheme.bits == 2:
        codes = pack_rows(tensor.codes, 2)
    elif tensor.scheme.bits == 4:
        codes = (tensor.codes[:, 0::2] << 4) | tensor.codes[:, 1::2]
    zero_points = None
    if tensor.zero_points is not None:
        zeros = tensor.zero_points.astype(np.float32) - tensor.scheme.default_zero_point
        zero_points = places.of(name, "zero points", (zeros, zeros.astype(np.int8)))
    return _location(
        original, tensor, places.of(name, "codes", (codes,)), places.of(name, "scales", (tensor.scales,)), zero_points
    )


def _signed(tensor: QuantizedTensor) -> npt.NDArray[np.int8]:
    return (tensor.codes.astype(np.int16) - tensor.scheme.default_zero_point).astype(np.int8)


def _location(
    tensor: QuantizedTensor, held: QuantizedTensor, codes: str, scales: str, zero_points: str | None
) -> WeightLocation:
    scheme, bits = tensor.scheme, held.scheme.bits
    return WeightLocation(
        bits=scheme.bits,
        group_size=scheme.group_size,
        symmetric=scheme.symmetric,
        scale_dtype=scheme.scale_dtype,
        shape=tensor.shape,
        codes=codes,
        scales=scales,
        zero_points=zero_points,
        rows=(0, tensor.shape[0]),
        container_bits=None if bits == scheme.bits else bits,
    )


def _hash(contents: bytes) -> str:
    return hashlib.sha256(contents).hexdigest()
