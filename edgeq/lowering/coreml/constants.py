"""Quantized weights as Core ML's constant expressions, and what those cannot hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from coremltools.converters.mil.mil import Builder, types

from edgeq.core.artifact import WeightLocation
from edgeq.core.scheme import Scheme
from edgeq.core.target import ComputeUnit
from edgeq.core.tensor import QuantizedTensor
from edgeq.errors import UnsupportedModelError

FLOAT16_MAX = 65504.0


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
        check(name, tensor.scheme, tensor.scales, tensor.shape[1], self.compute_unit)
        value = self.names.setdefault(name, f"edgeq_{len(self.names)}")
        self.locations[name] = _location(value, tensor)
        codes, scales, zero_points = _padded(tensor)
        bits, zero = tensor.scheme.bits, tensor.scheme.default_zero_point
        if zero_points is None:
            kind = types.nptype_from_builtin(types.int4 if bits == 4 else types.int8)
            data = (codes.astype(np.int16) - zero).astype(np.int8).astype(kind)
            return Builder.constexpr_blockwise_shift_scale(data=data, scale=scales, name=value)
        kind = types.nptype_from_builtin(types.uint4 if bits == 4 else types.uint8)
        return Builder.constexpr_blockwise_shift_scale(
            data=codes.astype(kind), scale=scales, offset=zero_points.astype(kind), name=value
        )


def check(name: str, scheme: Scheme, scales: npt.NDArray[np.float32], inputs: int, compute_unit: ComputeUnit) -> None:
    """Raises UnsupportedModelError for scales that float16 does not hold, and blocks that the unit does not run."""
    with np.errstate(over="ignore"):
        exact = np.array_equal(scales.astype(np.float16).astype(np.float32), scales)
    if not exact:
        raise UnsupportedModelError(
            f"{name} has scales in {scheme.scale_dtype} that are not exact in float16, which Core ML computes in.",
            remedy="Quantize for --format coreml: it rounds the scales to float16 before it chooses the codes.",
        )
    if compute_unit == "neural_engine" and scheme.groups(inputs) > 1:
        raise UnsupportedModelError(
            f"{name} is {scheme.label()}, but the Neural Engine does not run blocks within a row.",
            remedy="Use one scale per output channel or a palette, or a target whose compute unit is the GPU.",
        )


def padded_inputs(scheme: Scheme, inputs: int) -> int:
    """Inputs in whole groups: a block must divide its axis."""
    return inputs if scheme.group_size is None else scheme.groups(inputs) * scheme.group_size


def _padded(
    tensor: QuantizedTensor,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], npt.NDArray[np.uint8] | None]:
    inputs = tensor.shape[1]
    padding = padded_inputs(tensor.scheme, inputs) - inputs
    return np.pad(tensor.codes, ((0, 0), (0, padding))), tensor.scales, tensor.zero_points


def _location(value: str, tensor: QuantizedTensor) -> WeightLocation:
    scheme = tensor.scheme
    return WeightLocation(
        bits=scheme.bits,
        group_size=scheme.group_size,
        symmetric=scheme.symmetric,
        scale_dtype=scheme.scale_dtype,
        shape=tensor.shape,
        codes=f"{value}.data",
        scales=f"{value}.scale",
        zero_points=None if scheme.symmetric else f"{value}.offset",
        rows=(0, tensor.shape[0]),
    )
