"""Quantized weights as Core ML's constant expressions, and what those cannot hold."""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np
import numpy.typing as npt
from coremltools.converters.mil.mil import Builder, types

from edgeq.core.artifact import WeightLocation
from edgeq.core.scheme import Scheme
from edgeq.core.target import ComputeUnit
from edgeq.core.tensor import QuantizedTensor
from edgeq.errors import UnsupportedModelError

TABLE_SUFFIX = "_table"
SMALLEST_INTEGER = 4
"""Bits of the smallest integers that Core ML has: codes of 2 and 3 bits are stored as int4 or uint4."""


class Constants:
    """Emits each quantized weight once per function and remembers where it is."""

    def __init__(self, compute_unit: ComputeUnit) -> None:
        self.compute_unit = compute_unit
        self.locations: dict[str, WeightLocation] = {}
        self.names: dict[str, str] = {}

    def emit(self, name: str, tensor: QuantizedTensor) -> Any:  # noqa: ANN401 - coremltools has no types
        """The weight as a value of the program, `[outputs, inputs]` with the inputs padded to whole groups.

        Raises UnsupportedModelError where Core ML cannot hold the scheme, or the compute unit cannot run it.
        """
        check(name, tensor, self.compute_unit)
        value = self.names.setdefault(name, f"edgeq_{len(self.names)}")
        self.locations[name] = _location(value, tensor)
        if tensor.codebook is not None:
            return _with_table(value, tensor, tensor.codebook)
        bits, zero = stored_bits(tensor.scheme), tensor.scheme.default_zero_point
        codes = _padded(tensor)
        if tensor.zero_points is None:
            kind = types.nptype_from_builtin(types.int4 if bits == SMALLEST_INTEGER else types.int8)
            data = (codes.astype(np.int16) - zero).astype(np.int8).astype(kind)
            return Builder.constexpr_blockwise_shift_scale(data=data, scale=tensor.scales, name=value)
        kind = _unsigned(bits)
        return Builder.constexpr_blockwise_shift_scale(
            data=codes.astype(kind), scale=tensor.scales, offset=tensor.zero_points.astype(kind), name=value
        )


def check(name: str, tensor: QuantizedTensor, compute_unit: ComputeUnit) -> None:
    """Raises UnsupportedModelError for scales that float16 does not hold, and blocks that the unit does not run."""
    scheme = tensor.scheme
    values = [tensor.scales] if tensor.codebook is None else [tensor.scales, tensor.codebook]
    if not all(_is_exact(value) for value in values):
        raise UnsupportedModelError(
            f"{name} has scales in {scheme.scale_dtype} that are not exact in float16, which Core ML computes in.",
            remedy="Quantize for --format coreml: it rounds the scales to float16 before it chooses the codes.",
        )
    if compute_unit == "neural_engine" and scheme.groups(tensor.shape[1]) > 1:
        raise UnsupportedModelError(
            f"{name} is {scheme.label()}, but the Neural Engine does not run blocks within a row.",
            remedy="Use one scale per output channel or a palette, or a target whose compute unit is the GPU.",
        )


def padded_inputs(scheme: Scheme, inputs: int) -> int:
    """Inputs in whole groups: a block must divide its axis."""
    return inputs if scheme.group_size is None else scheme.groups(inputs) * scheme.group_size


def stored_bits(scheme: Scheme) -> int:
    """Bits that a code takes: integers have 4 or 8, indices of a table as many as they need."""
    return scheme.bits if scheme.codebook is not None else max(scheme.bits, SMALLEST_INTEGER)


def table_rows(scheme: Scheme, outputs: int) -> int:
    """Rows that share a stored table. It must divide them all, so where a palette's rows do not, tables repeat."""
    return gcd(scheme.palette_rows or outputs, outputs)


def _with_table(value: str, tensor: QuantizedTensor, codebook: npt.NDArray[np.float32]) -> Any:  # noqa: ANN401 - as above
    """Indices into tables, and for NormalFloat scales over those."""
    scheme, outputs = tensor.scheme, tensor.shape[0]
    rows = table_rows(scheme, outputs)
    first_rows = np.arange(0, outputs, rows)
    tables = codebook[first_rows // (scheme.palette_rows or outputs)]
    dense = Builder.constexpr_lut_to_dense(
        indices=_padded(tensor).astype(_unsigned(scheme.bits)),
        lut=tables[:, None, :, None],
        name=value + TABLE_SUFFIX if scheme.has_scales else value,
    )
    if not scheme.has_scales:
        return dense
    return Builder.constexpr_blockwise_shift_scale(data=dense, scale=tensor.scales, name=value)


def _is_exact(values: npt.NDArray[np.float32]) -> bool:
    with np.errstate(over="ignore"):
        return np.array_equal(values.astype(np.float16).astype(np.float32), values)


def _unsigned(bits: int) -> Any:  # noqa: ANN401 - coremltools has no types
    return types.nptype_from_builtin(types.string_to_builtin(f"uint{bits}"))


def _padded(tensor: QuantizedTensor) -> npt.NDArray[np.uint8]:
    inputs = tensor.shape[1]
    return np.pad(tensor.codes, ((0, 0), (0, padded_inputs(tensor.scheme, inputs) - inputs)))


def _location(value: str, tensor: QuantizedTensor) -> WeightLocation:
    scheme, bits = tensor.scheme, stored_bits(tensor.scheme)
    table = value + TABLE_SUFFIX if scheme.has_scales else value
    return WeightLocation(
        bits=scheme.bits,
        group_size=scheme.group_size,
        symmetric=scheme.symmetric,
        scale_dtype=scheme.scale_dtype,
        shape=tensor.shape,
        codes=f"{value}.data" if scheme.codebook is None else f"{table}.indices",
        scales=f"{value}.scale",
        zero_points=None if scheme.symmetric else f"{value}.offset",
        rows=(0, tensor.shape[0]),
        codebook=None if scheme.codebook is None else f"{table}.lut",
        codebook_kind=scheme.codebook,
        palette_rows=scheme.palette_rows,
        container_bits=None if bits == scheme.bits else bits,
    )
