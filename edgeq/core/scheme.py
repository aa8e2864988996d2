"""Scheme: how the numbers of one weight tensor are represented."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeq.errors import UsageError

ScaleDtype = Literal["float32", "float16", "bfloat16"]
Codebook = Literal["nf4", "palette"]
"""Levels that are not equally spaced: the 16 of NormalFloat, or some that were fitted to the weights."""
QUANTIZED_BITS = (2, 3, 4, 8)
PALETTE_BITS = (2, 3, 4, 6, 8)
FLOAT_BITS = 16


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """A weight-only grid. `bits == 16` means float16 values, then the other fields say nothing.

    `group_size` counts consecutive inputs that share a scale; None is one scale per output channel.
    Symmetric grids have the zero point 2**(bits-1) and use the full range, so the value of largest magnitude
    in a group is stored as the code 0, that is -2**(bits-1); where that weight is positive its scale is negative,
    unless `signed_scales` is off, as for kernels that refuse such scales.

    With a `codebook` codes are indices into a table of 2**bits values, exact in `scale_dtype`. There are no zero
    points: `symmetric` must be set. "nf4" has one table and scales as above. "palette" has a table for every
    `palette_rows` outputs (None: one for the whole tensor; the last may have fewer rows) and no scales: `group_size`
    must be None.
    """

    bits: int
    group_size: int | None = 32
    symmetric: bool = False
    scale_dtype: ScaleDtype = "float32"
    codebook: Codebook | None = None
    palette_rows: int | None = None
    signed_scales: bool = True

    def __post_init__(self) -> None:
        check_bits(self.bits, PALETTE_BITS if self.codebook == "palette" else QUANTIZED_BITS)
        if self.group_size is not None and (self.group_size < 16 or self.group_size & (self.group_size - 1)):
            raise UsageError(
                f"A group size of {self.group_size} has no kernel.", remedy="Use a power of two from 16 up."
            )
        if self.codebook is not None:
            _check_codebook(self)
        if self.palette_rows is not None and (self.codebook != "palette" or self.palette_rows < 1):
            raise UsageError(
                f"{self.palette_rows} rows cannot share a table.",
                remedy='Give palette_rows a positive number with codebook="palette", None without.',
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

    @property
    def has_scales(self) -> bool:
        """A palette holds the weights themselves: its scales are all 1 and not stored."""
        return not self.is_float and self.codebook != "palette"

    def tables(self, outputs: int) -> int:
        """How many tables the codebook of `outputs` rows has, 0 without one."""
        if self.codebook is None:
            return 0
        return 1 if self.palette_rows is None else -(-outputs // self.palette_rows)

    def stored_bytes(self, outputs: int, inputs: int) -> int:
        """True bytes of codes, scales, zero points and codebook of an `[outputs, inputs]` weight."""
        if self.is_float:
            return outputs * inputs * 2
        groups = self.groups(inputs)
        value_bytes = 4 if self.scale_dtype == "float32" else 2
        packed = -(-inputs * self.bits // 8)
        scales = groups * value_bytes if self.has_scales else 0
        zero_points = 0 if self.symmetric else -(-groups * self.bits // 8)
        return outputs * (packed + scales + zero_points) + self.tables(outputs) * self.levels * value_bytes

    def label(self) -> str:
        """Short name for people: int4 g32 sym, nf4 g64, palette4 r16."""
        if self.is_float:
            return "float16"
        if self.codebook == "palette":
            return f"palette{self.bits} {'tensor' if self.palette_rows is None else f'r{self.palette_rows}'}"
        group = "channel" if self.group_size is None else f"g{self.group_size}"
        if self.codebook == "nf4":
            return f"nf4 {group}"
        return f"int{self.bits} {group} {'sym' if self.symmetric else 'asym'}"


def check_bits(bits: int, quantized: tuple[int, ...] = QUANTIZED_BITS) -> None:
    """Raises UsageError unless `bits` is one of `quantized`, or 16."""
    if bits not in (*quantized, FLOAT_BITS):
        choices = ", ".join(map(str, quantized))
        raise UsageError(f"{bits} bits cannot be stored.", remedy=f"Use {choices} or {FLOAT_BITS}.")


def _check_codebook(scheme: Scheme) -> None:
    """Raises UsageError for what a codebook cannot be combined with."""
    if scheme.is_float or (scheme.codebook == "nf4" and scheme.bits != 4):
        raise UsageError(f"There is no {scheme.codebook} with {scheme.bits} bits.", remedy="Use 4 bits.")
    if not scheme.symmetric:
        raise UsageError(f"{scheme.codebook} has no zero points.", remedy="Set symmetric=True.")
    if scheme.codebook == "palette" and scheme.group_size is not None:
        raise UsageError("A palette has no groups of inputs.", remedy="Set group_size=None; palette_rows groups rows.")
