"""QuantizedTensor: codes, scales and zero points; its `dequantize()` is the truth that every artifact must hold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeq.core.scheme import Scheme
from edgeq.errors import InternalError


@dataclass(frozen=True, kw_only=True, eq=False)
class QuantizedTensor:
    """One weight matrix on a grid: `w[o, i] = scales[o, g] * (codes[o, i] - zero_points[o, g])`, `g = i // group_size`.

    codes: uint8 `[out, in]`, each below 2**bits. scales: float32 `[out, groups]` whose values are exact in
    `scheme.scale_dtype`. zero_points: uint8 `[out, groups]`, or None where the scheme is symmetric.
    """

    scheme: Scheme
    codes: npt.NDArray[np.uint8]
    scales: npt.NDArray[np.float32]
    zero_points: npt.NDArray[np.uint8] | None

    def __post_init__(self) -> None:
        outputs, inputs = self.codes.shape
        expected = (outputs, self.scheme.groups(inputs))
        zero_shape = None if self.zero_points is None else self.zero_points.shape
        if self.scales.shape != expected or zero_shape not in (None, expected):
            raise InternalError(
                f"Codes {self.codes.shape} need scales {expected}, not {self.scales.shape} and {zero_shape}.",
                remedy="Report this: a quantizer returned the wrong shape.",
            )
        if self.scheme.symmetric != (self.zero_points is None):
            raise InternalError(
                "Zero points and a symmetric scheme exclude each other.",
                remedy="Report this: a quantizer disagrees with its scheme.",
            )

    @property
    def shape(self) -> tuple[int, int]:
        """`(outputs, inputs)`."""
        outputs, inputs = self.codes.shape
        return outputs, inputs

    def dequantize(self) -> npt.NDArray[np.float32]:
        """The weights, float32 `[out, in]`; one multiplication in float32, as the runtimes do it."""
        inputs = self.codes.shape[1]
        group_size = self.scheme.group_size or inputs
        if self.zero_points is None:
            zero: npt.NDArray[np.float32] | float = float(self.scheme.default_zero_point)
        else:
            zero = _per_input(self.zero_points, group_size, inputs).astype(np.float32)
        return (self.codes.astype(np.float32) - zero) * _per_input(self.scales, group_size, inputs)


def _per_input(per_group: npt.NDArray[np.generic], group_size: int, inputs: int) -> npt.NDArray[np.float32]:
    """Repeat `[out, groups]` along the input axis to `[out, inputs]`."""
    repeated: npt.NDArray[np.float32] = np.repeat(per_group, group_size, axis=1)[:, :inputs]
    return repeated
