"""QuantizedTensor: codes, scales, zero points, codebook; its `dequantize()` is the truth that artifacts must hold."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edgeq.core.scheme import Scheme
from edgeq.errors import InternalError


@dataclass(frozen=True, kw_only=True, eq=False)
class QuantizedTensor:
    """One weight matrix on a grid: `w[o, i] = scales[o, g] * (codes[o, i] - zero_points[o, g])`, `g = i // group_size`.

    codes: uint8 `[out, in]`, each below 2**bits. scales: float32 `[out, groups]` whose values are exact in
    `scheme.scale_dtype`. zero_points: uint8 `[out, groups]`, or None where the scheme is symmetric.

    Where the scheme has a codebook, `w[o, i] = scales[o, g] * codebook[t, codes[o, i]]`, `t = o // palette_rows` or 0.
    codebook: float32 `[tables, 2**bits]`, exact in `scheme.scale_dtype`, else None. Scales of a palette are all 1.
    """

    scheme: Scheme
    codes: npt.NDArray[np.uint8]
    scales: npt.NDArray[np.float32]
    zero_points: npt.NDArray[np.uint8] | None
    codebook: npt.NDArray[np.float32] | None = None

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
        table_shape = None if self.scheme.codebook is None else (self.scheme.tables(outputs), self.scheme.levels)
        found = None if self.codebook is None else self.codebook.shape
        if found != table_shape:
            raise InternalError(
                f"{self.scheme.label()} with {outputs} rows needs a codebook {table_shape}, not {found}.",
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
        if self.codebook is not None:
            return self._looked_up(self.codebook) * _per_input(self.scales, group_size, inputs)
        if self.zero_points is None:
            zero: npt.NDArray[np.float32] | float = float(self.scheme.default_zero_point)
        else:
            zero = _per_input(self.zero_points, group_size, inputs).astype(np.float32)
        return (self.codes.astype(np.float32) - zero) * _per_input(self.scales, group_size, inputs)

    def widened(self, bits: int) -> QuantizedTensor:
        """The same weights in codes of more bits, for kernels that have none of so few: what is stored is the same
        integers, and the middle of a symmetric grid moves."""
        scheme = replace(self.scheme, bits=bits)
        if self.zero_points is not None:
            return replace(self, scheme=scheme)
        shift = scheme.default_zero_point - self.scheme.default_zero_point
        return replace(self, scheme=scheme, codes=self.codes + np.uint8(shift))

    def narrowed(self, bits: int) -> QuantizedTensor:
        """The inverse of `widened`. Raises ValueError where a code or a zero point does not fit `bits`."""
        scheme = replace(self.scheme, bits=bits)
        if bits > self.scheme.bits:
            msg = f"{bits} bits do not fit {self.scheme.bits}"
            raise ValueError(msg)
        shift = 0 if self.zero_points is not None else self.scheme.default_zero_point - scheme.default_zero_point
        codes = self.codes - np.uint8(shift)  # what is too small wraps round and is too large
        for part in (codes, self.zero_points):
            if part is not None and part.max(initial=0) >= scheme.levels:
                msg = f"codes or zero points up to {part.max()} in {bits} bits"
                raise ValueError(msg)
        return replace(self, scheme=scheme, codes=codes)

    def integers(self) -> npt.NDArray[np.int16]:
        """Codes less their zero points, int16 `[out, in]`: what the scales are multiplied with."""
        if self.zero_points is None:
            return self.codes.astype(np.int16) - np.int16(self.scheme.default_zero_point)
        inputs = self.codes.shape[1]
        zeros = np.repeat(self.zero_points, self.scheme.group_size or inputs, axis=1)[:, :inputs]
        return self.codes.astype(np.int16) - zeros

    def _looked_up(self, codebook: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The entry of every code `[out, in]`; a few rows at a time, as numpy's indices take eight bytes each."""
        shared = self.scheme.palette_rows
        rows = shared or 64
        values = np.empty(self.codes.shape, np.float32)
        for start in range(0, len(values), rows):
            table = codebook[0 if shared is None else start // rows]
            values[start : start + rows] = table[self.codes[start : start + rows]]
        return values


def _per_input(per_group: npt.NDArray[np.generic], group_size: int, inputs: int) -> npt.NDArray[np.float32]:
    """Repeat `[out, groups]` along the input axis to `[out, inputs]`."""
    repeated: npt.NDArray[np.float32] = np.repeat(per_group, group_size, axis=1)[:, :inputs]
    return repeated
