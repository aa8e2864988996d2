"""The store's tensors as ONNX initializers, each in the layout of the kernel that reads it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import zip_longest

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeq.core.artifact import WeightLocation
from edgeq.core.packing import pack_rows
from edgeq.core.scheme import Scheme
from edgeq.errors import UnsupportedModelError
from edgeq.lowering.onnx.external_data import ExternalData
from edgeq.lowering.onnx.graph import LARGEST_HALF, halved
from edgeq.store import QuantizedModel

Array = npt.NDArray[np.generic]
NATIVE_TWO_BIT_BLOCKS = (32, 64, 128)
"""What the 2-bit kernels take, with int8 activations. For other blocks, and with float32 activations, the runtime
expands the whole matrix at each call: 1024 x 1024 take 3 to 9 ms instead of 0.03, where 4-bit codes take 0.08."""
SMALLEST_CONTAINER = 4
FILTER_BITS = 8


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """A quantized `[outputs, inputs]` weight as MatMulNBits takes it: codes, scales and perhaps zero points, in `bits`
    each, which may be more than the scheme's."""

    scheme: Scheme
    bits: int
    block: int
    outputs: int
    inputs: int
    codes: ir.Value
    scales: ir.Value
    zero_points: ir.Value | None


class Weights:
    """Hands out initializers; each tensor is stored once, whoever asks for it.

    accuracy_level: 4 where products round activations to int8, 1 where they keep float32. half: for a float16 graph.
    """

    def __init__(self, store: QuantizedModel, data: ExternalData, accuracy_level: int, *, half: bool = False) -> None:
        self.store = store
        self.data = data
        self.accuracy_level = accuracy_level
        self.float_type = ir.DataType.FLOAT16 if half else ir.DataType.FLOAT
        self.locations: dict[str, WeightLocation] = {}
        self._matrices: dict[tuple[str, ...], Matrix] = {}
        self._floating: dict[str, ir.Value] = {}
        self._filters: dict[str, tuple[ir.Value, ir.Value]] = {}

    def stored_name(self, name: str) -> str:
        """The name under which a tied copy is stored."""
        return self.store.info.tied.get(name, name)

    def scheme(self, name: str) -> Scheme | None:
        """The grid of a quantized weight, None for one that is stored as float."""
        stored = self.stored_name(name)
        return self.store.scheme(stored)

    def shape(self, name: str) -> tuple[int, int]:
        """`(outputs, inputs)`."""
        return self.store.info.weights[self.stored_name(name)].outputs_inputs

    def input_axis(self, name: str) -> int:
        """The axis of the module's own parameter that a linear contracts."""
        return self.store.info.weights[self.stored_name(name)].input_axis

    def floating(self, name: str, *, transposed: bool = False) -> ir.Value:
        """A float weight; with `transposed`, the last two axes swapped for the right side of a MatMul.

        float16 weights keep their 16 bits in the file: a float32 graph casts them, once, when the session loads. A
        float16 graph has them all in float16.
        """
        stored = self.stored_name(name)
        key = f"{stored}.transposed" if transposed else stored
        if key not in self._floating:
            self._floating[key] = self._reserve_floating(stored, key, transposed=transposed)
        return self._floating[key]

    def _reserve_floating(self, stored: str, key: str, *, transposed: bool) -> ir.Value:
        shape = self.store.info.weights[stored].shape
        if transposed:
            shape = (*shape[:-2], shape[-1], shape[-2])
        dtype = ir.DataType.from_numpy(self.store.floating_dtype(stored))
        dtype = self.float_type if dtype == ir.DataType.FLOAT else dtype

        def produce() -> Array:
            values = self._narrowed(stored, self.store.floating(stored), dtype)
            return values.swapaxes(-1, -2) if transposed else values

        return self.data.reserve(key, dtype, shape, produce)

    def _narrowed(self, name: str, values: Array, dtype: ir.DataType) -> Array:
        """`values` as they are stored, rounded to float16 where the graph is. Raises UnsupportedModelError."""
        if dtype != ir.DataType.FLOAT16 or values.dtype == np.float16:
            return values
        if np.abs(values).max(initial=0) > LARGEST_HALF:
            raise UnsupportedModelError(
                f"{name} has values up to {np.abs(values).max():.3g}, and float16 ends at {LARGEST_HALF:.0f}.",
                remedy="This model cannot compute in float16: report the architecture.",
            )
        return halved(values)

    def placed(self) -> dict[str, WeightLocation]:
        """Where each weight is, by an initializer that the graph uses: a table that is no head lives on as its rows."""
        return {
            name: location
            if self.data.values[location.codes].uses() or rows_name(location.codes) not in self.data.values
            else replace(location, codes=rows_name(location.codes))
            for name, location in self.locations.items()
        }

    def unread(self) -> list[ir.Value]:
        """Codes, scales and zero points of weights that nothing in the graph reads: they belong to what a task leaves
        out of its answer. The artifact holds them all the same, as the store does."""
        names = [
            name
            for location in self.placed().values()
            if rows_name(location.codes) not in self.data.values and not self.data.values[location.codes].uses()
            for name in (location.codes, location.scales, location.zero_points)
            if name is not None
        ]
        return [self.data.values[name] for name in dict.fromkeys(names)]

    def concatenated(self, names: tuple[str, ...]) -> ir.Value:
        """Float vectors end to end: the bias of fused linears."""
        if len(names) == 1:
            return self.floating(names[0])
        key = _common_label(names)
        if key not in self._floating:
            length = sum(self.store.info.weights[name].shape[0] for name in names)

            def produce() -> Array:
                values = [self.store.floating(name) for name in names]
                return self._narrowed(key, np.concatenate(values), self.float_type)

            self._floating[key] = self.data.reserve(key, self.float_type, (length,), produce)
        return self._floating[key]

    def matrix(self, names: tuple[str, ...]) -> Matrix:
        """One MatMulNBits weight: the rows of `names`, which share inputs and scheme, one below the other."""
        stored = tuple(self.stored_name(name) for name in names)
        if stored not in self._matrices:
            self._matrices[stored] = self._reserve_matrix(stored)
        return self._matrices[stored]

    def _reserve_matrix(self, names: tuple[str, ...]) -> Matrix:
        scheme = self.store.quantization(names[0])
        if scheme.codebook is not None:
            raise UnsupportedModelError(
                f"{names[0]} is {scheme.label()}, which ONNX Runtime's kernels do not hold.",
                remedy="Use --format coreml, or the method mse.",
            )
        rows = [self.shape(name)[0] for name in names]
        outputs, inputs = sum(rows), self.shape(names[0])[1]
        block = kernel_block(scheme, inputs)
        bits = container_bits(scheme, block, self.accuracy_level)
        groups, width = -(-inputs // block), block * bits // 8
        label = names[0] if len(names) == 1 else _common_label(names)

        def stacked(part: int) -> Array:
            parts = [self._packed(name, bits)[part] for name in names]
            return parts[0] if len(parts) == 1 else np.concatenate(parts)  # type: ignore[arg-type,return-value]

        codes = self.data.reserve(
            f"{label}.codes",
            ir.DataType.UINT8,
            (outputs, groups, width),
            lambda: _padded(stacked(0), groups * width),
        )
        scales = self.data.reserve(
            f"{label}.scales", self.float_type, (outputs, groups), lambda: self._exact(label, stacked(1))
        )
        zero_points = None
        if not scheme.symmetric:
            zero_shape = (outputs, -(-groups * bits // 8))
            zero_points = self.data.reserve(f"{label}.zero_points", ir.DataType.UINT8, zero_shape, lambda: stacked(2))
        matrix = Matrix(
            scheme=scheme,
            bits=bits,
            block=block,
            outputs=outputs,
            inputs=inputs,
            codes=codes,
            scales=scales,
            zero_points=zero_points,
        )
        start = 0
        for name, count in zip(names, rows, strict=True):
            self.locations[name] = _location(matrix, (start, start + count))
            start += count
        return matrix

    def filters(self, name: str) -> tuple[ir.Value, ir.Value, int]:
        """A quantized convolution: codes uint8 `[out, in / groups, height, width]`, scales `[out, 1, 1, 1]`, and the
        code that stands for 0. Raises UnsupportedModelError for other grids than 8 bits per filter."""
        stored = self.stored_name(name)
        scheme, shape = self.store.quantization(stored), self.store.info.weights[stored].shape
        if scheme.bits != FILTER_BITS or scheme.group_size is not None or not scheme.symmetric:
            raise UnsupportedModelError(
                f"{stored} is a convolution in {scheme.label()}.", remedy="Give it 8 bits per filter, or 16."
            )
        if stored not in self._filters:
            codes = self.data.reserve(
                f"{stored}.codes", ir.DataType.UINT8, shape, lambda: self.store.packed(stored)[0].reshape(shape)
            )
            ones = (shape[0], *(1 for _ in shape[1:]))
            scales = self.data.reserve(
                f"{stored}.scales",
                self.float_type,
                ones,
                lambda: self._exact(stored, self.store.packed(stored)[1].reshape(ones)),
            )
            self._filters[stored] = (codes, scales)
            self.locations[stored] = WeightLocation(
                bits=scheme.bits,
                group_size=None,
                symmetric=True,
                scale_dtype=scheme.scale_dtype,
                shape=self.store.info.weights[stored].outputs_inputs,
                codes=str(codes.name),
                scales=str(scales.name),
                zero_points=None,
                rows=(0, shape[0]),
                is_unpacked=True,
            )
        return (*self._filters[stored], scheme.default_zero_point)

    def _exact(self, label: str, scales: Array) -> Array:
        """Scales in the graph's own type. Raises UnsupportedModelError where that would change them."""
        stored = scales.astype(self.float_type.numpy())
        if not np.array_equal(stored.astype(scales.dtype), scales):
            raise UnsupportedModelError(
                f"{label} has scales that float16 does not hold.",
                remedy="Quantize again for this format: it keeps scales in float16.",
            )
        return stored

    def _packed(self, name: str, bits: int) -> tuple[Array | None, ...]:
        """Codes, scales and zero points with `bits` a code."""
        if bits == self.store.quantization(name).bits:
            return self.store.packed(name)
        tensor = self.store.quantized(name).widened(bits)
        zero_points = None if tensor.zero_points is None else pack_rows(tensor.zero_points, bits)
        return pack_rows(tensor.codes, bits), tensor.scales, zero_points


def _padded(packed: Array, width: int) -> Array:
    """Rows of bytes up to `width`: a short last group is filled with zero codes."""
    return packed if packed.shape[1] == width else np.pad(packed, ((0, 0), (0, width - packed.shape[1])))


def rows_name(codes: str) -> str:
    """The name of the same codes as plain rows, for an embedding."""
    return f"{codes}.rows"


def kernel_block(scheme: Scheme, inputs: int) -> int:
    """The kernel's block size: the group size, or for one scale per channel the power of two that spans the row."""
    if scheme.group_size is not None:
        return scheme.group_size
    return max(16, 1 << (inputs - 1).bit_length())


def container_bits(scheme: Scheme, block: int, accuracy_level: int) -> int:
    """Bits that a code takes in the file: the scheme's, or those of the next kernel that is not many times slower."""
    is_native_two = scheme.bits == 2 and accuracy_level == 4 and block in NATIVE_TWO_BIT_BLOCKS
    return scheme.bits if is_native_two else max(scheme.bits, SMALLEST_CONTAINER)


def _location(matrix: Matrix, rows: tuple[int, int]) -> WeightLocation:
    scheme = matrix.scheme
    return WeightLocation(
        bits=scheme.bits,
        group_size=scheme.group_size,
        symmetric=scheme.symmetric,
        scale_dtype=scheme.scale_dtype,
        shape=(rows[1] - rows[0], matrix.inputs),
        codes=str(matrix.codes.name),
        scales=str(matrix.scales.name),
        zero_points=None if matrix.zero_points is None else str(matrix.zero_points.name),
        rows=rows,
        container_bits=None if matrix.bits == scheme.bits else matrix.bits,
    )


def _common_label(names: tuple[str, ...]) -> str:
    """`layers.0.attn.q_proj.weight`, `...k_proj.weight` -> `layers.0.attn.q_proj+k_proj.weight`."""
    columns = zip_longest(*(name.split(".") for name in names), fillvalue="")
    return ".".join(column[0] if len(set(column)) == 1 else "+".join(column) for column in columns)
