"""Tensors as the store keeps them: packed to their bits, with their record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.core.digest import tensor_digest
from edgeq.core.packing import pack_rows, unpack_rows
from edgeq.core.scheme import Scheme
from edgeq.core.tensor import QuantizedTensor
from edgeq.store.layout import TensorRecord


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedTensor:
    """The arrays of one weight by their names in the file, and its record."""

    arrays: dict[str, npt.NDArray[Any]]
    record: TensorRecord


def encode_quantized(name: str, tensor: QuantizedTensor) -> EncodedTensor:
    """Pack a quantized weight."""
    bits = tensor.scheme.bits
    arrays: dict[str, npt.NDArray[Any]] = {
        f"{name}.codes": pack_rows(tensor.codes, bits),
    }
    if tensor.scheme.has_scales:
        arrays[f"{name}.scales"] = np.ascontiguousarray(tensor.scales, dtype=np.float32)
    if tensor.zero_points is not None:
        arrays[f"{name}.zero_points"] = pack_rows(tensor.zero_points, bits)
    if tensor.codebook is not None:
        arrays[f"{name}.codebook"] = np.ascontiguousarray(tensor.codebook, dtype=np.float32)
    size = sum(array.nbytes for array in arrays.values())
    record = TensorRecord(shape=tensor.shape, bytes=size, scheme=tensor.scheme, digest=tensor_digest(name, tensor))
    return EncodedTensor(arrays=arrays, record=record)


def encode_float(name: str, values: npt.NDArray[Any]) -> EncodedTensor:
    """Keep a weight as it is: float32, float16, or a buffer of integers or booleans."""
    record = TensorRecord(shape=tuple(values.shape), bytes=values.nbytes, dtype=values.dtype.name)
    return EncodedTensor(arrays={name: values}, record=record)


def decode_quantized(
    scheme: Scheme,
    shape: tuple[int, int],
    codes: npt.NDArray[np.uint8],
    scales: npt.NDArray[np.float32],
    zero_points: npt.NDArray[np.uint8] | None,
    *,
    codebook: npt.NDArray[np.float32] | None = None,
) -> QuantizedTensor:
    """Unpack what `encode_quantized` packed; the scales of a palette are ones `[out, 1]`."""
    _, inputs = shape
    groups = scheme.groups(inputs)
    return QuantizedTensor(
        scheme=scheme,
        codes=np.ascontiguousarray(unpack_rows(codes, scheme.bits, inputs)),
        scales=scales,
        zero_points=None if zero_points is None else unpack_rows(zero_points, scheme.bits, groups),
        codebook=codebook,
    )
