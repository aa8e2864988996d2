"""Scheme: how the numbers of one weight tensor are represented."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeq.errors import UsageError

ScaleDtype = Literal["float32", "float16", "bfloat16"]
QUANTIZED_BITS = (4, 8)
FLOAT_BITS = 16


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """A weight-only grid. `bits == 16` means float16 values, then the other fields say nothing.

    `group_size` counts consecutive inputs that share a scale; None is one scale per output channel.
    Symmetric grids have the zero point 2**(bits-1) and use the full range, so the value of largest magnitude
    in a group is stored as the code 0, that is -2**(bits-1).
    """

    bits: int
    group_size: int | None = 32
    symmetric: bool = False
    scale_dtype: ScaleDtype = "float32"

    def __post_init__(self) -> None:
        if self.bits not in (*QUANTIZED_BITS, FLOAT_BITS):
            raise UsageError(f"{self.bits} bits cannot be stored.", remedy="Use 4, 8 or 16.")
        if self.group_size is not None and (self.group_size < 16 or self.group_size & (self.group_size - 1)):
            raise UsageError(
                f"A group size of {self.group_size} has no kernel.", remedy="Use a power of two from 16 up."
            )

    @property
    def is_float(self) -> bool:
        return self.bits == FLOAT_BITS

    @property
    def levels(self) -> int:
        return 1 << self.bits

    @property
    def default_zero_point(self) -> int:
        """The zero point of a symmetric grid."""
        return 1 << (self.bits - 1)

    def groups(self, inputs: int) -> int:
        """How many scales a row of `inputs` weights has; the last group may be shorter than the others."""
        return 1 if self.group_size is None else -(-inputs // self.group_size)

    def stored_bytes(self, outputs: int, inputs: int) -> int:
        """True bytes of codes, scales and zero points of an `[outputs, inputs]` weight."""
        if self.is_float:
            return outputs * inputs * 2
        groups = self.groups(inputs)
        scale_bytes = 4 if self.scale_dtype == "float32" else 2
        packed = -(-inputs * self.bits // 8)
        zero_points = 0 if self.symmetric else -(-groups * self.bits // 8)
        return outputs * (packed + groups * scale_bytes + zero_points)

    def label(self) -> str:
        """Short name for people: int4 g32 sym."""
        if self.is_float:
            return "float16"
        group = "channel" if self.group_size is None else f"g{self.group_size}"
        return f"int{self.bits} {group} {'sym' if self.symmetric else 'asym'}"
