"""What each format can hold: the grids that quantization optimises for, and what a matrix takes in its file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgeq.core.model import WeightInfo
from edgeq.core.scheme import ScaleDtype, Scheme
from edgeq.core.target import Format

SMALLEST_CONTAINER = 4
"""Bits that a code of fewer bits takes where the runtime has no kernel for so few."""
NATIVE_GROUPS = (32, 64, 128)
"""Groups for which ONNX Runtime has 2-bit kernels."""
INTEGER_ACTIVATIONS = 4
"""The accuracy level at which it uses them."""


@dataclass(frozen=True, kw_only=True)
class FormatGrid:
    """One format's grids.

    group_sizes: the default by bits; None is one scale per channel, and no other is possible.
    symmetric_from: the fewest bits at which zero points are not free.
    held_bytes: what a matrix takes in the format's file, with codes in the bits of its kernels, full groups, scales and
    zero points, from `(weight, scheme, accuracy_level, is_tied)`; is_tied: a table that is also the head. A close
    estimate: alignment comes on top.
    distributions: the packages of its optional dependencies.
    """

    scale_dtype: ScaleDtype
    group_sizes: dict[int, int | None]
    symmetric_from: int | None
    signed_scales: bool
    has_codebooks: bool
    held_bytes: Callable[[WeightInfo, Scheme, int, bool], int]
    distributions: tuple[str, ...]


def padded_inputs(scheme: Scheme, inputs: int) -> int:
    """Inputs with those that fill up the last group."""
    return inputs if scheme.group_size is None else scheme.groups(inputs) * scheme.group_size


def _zero_point_bytes(scheme: Scheme, groups: int, bits: int) -> int:
    return 0 if scheme.symmetric else -(-groups * bits // 8)


def _onnx_bytes(weight: WeightInfo, scheme: Scheme, accuracy_level: int, is_tied: bool) -> int:
    """A table that is also the head is held twice where it is float."""
    outputs, inputs = weight.outputs_inputs
    if scheme.is_float:
        return 2 * outputs * inputs * (2 if is_tied else 1)
    is_native = scheme.bits == 2 and accuracy_level == INTEGER_ACTIVATIONS and scheme.group_size in NATIVE_GROUPS
    bits = scheme.bits if is_native else max(scheme.bits, SMALLEST_CONTAINER)
    groups = scheme.groups(inputs)
    row = -(-padded_inputs(scheme, inputs) * bits // 8) + 4 * groups + _zero_point_bytes(scheme, groups, bits)
    return outputs * row


def _coreml_bytes(weight: WeightInfo, scheme: Scheme, accuracy_level: int, is_tied: bool) -> int:
    outputs, inputs = weight.outputs_inputs
    if scheme.is_float:
        return 2 * outputs * inputs
    if scheme.codebook is not None:
        return scheme.stored_bytes(outputs, inputs)
    bits, groups = max(scheme.bits, SMALLEST_CONTAINER), scheme.groups(inputs)
    row = padded_inputs(scheme, inputs) * bits // 8 + 2 * groups + _zero_point_bytes(scheme, groups, bits)
    return outputs * row


def _executorch_bytes(weight: WeightInfo, scheme: Scheme, accuracy_level: int, is_tied: bool) -> int:
    """XNNPACK multiplies with 4 or 8 bits and keeps no zero points; tables look up 2, 4 or 8. A table that is also the
    head is held twice, and float16 is widened."""
    outputs, inputs = weight.outputs_inputs
    if scheme.is_float:
        return 4 * outputs * inputs * (2 if is_tied else 1)
    padded, groups = padded_inputs(scheme, inputs), scheme.groups(inputs)
    product_bits = max(scheme.bits, SMALLEST_CONTAINER)
    product_bytes = outputs * (padded * product_bits // 8 + groups * (4 if scheme.bits == 8 else 2))
    if weight.role != "embedding":
        return product_bytes
    table_bits = 2 if scheme.bits == 2 and inputs % 4 == 0 else product_bits
    table_bytes = outputs * (padded * table_bits // 8 + groups * (4 if scheme.symmetric else 5))
    return table_bytes + (product_bytes if is_tied else 0)


FORMATS: dict[Format, FormatGrid] = {
    # A float32 graph stores float32 scales: halving a group costs up to a bit per weight. With 4 bits, groups of 32, 64
    # and 128 take 5.1, 4.6 and 4.3 bits and leave a mean cosine of .977, .971 and .964 on all-MiniLM-L6-v2; 64 decodes
    # a tenth faster than 32. With 8 bits all three are nearly exact, but the kernels round activations by the same
    # groups: 64 keeps .9995 in total, 128 only .9991, too near the gate of .999. Below 4 bits the grid is too coarse
    # for long groups, and 32 is the least that the 2-bit kernels take.
    "onnx": FormatGrid(
        scale_dtype="float32",
        group_sizes={2: 32, 3: 32, 4: 64, 8: 64},
        symmetric_from=None,
        signed_scales=True,
        has_codebooks=False,
        held_bytes=_onnx_bytes,
        distributions=(),
    ),
    # XNNPACK's 4-bit kernels take symmetric groups of at least 32 with bfloat16 scales, its 8-bit ones no groups. Zero
    # points would cost a second product; below 4 bits they are part of its 4-bit codes.
    "executorch": FormatGrid(
        scale_dtype="bfloat16",
        group_sizes={2: 32, 3: 32, 4: 32, 8: None},
        symmetric_from=4,
        signed_scales=False,
        has_codebooks=False,
        held_bytes=_executorch_bytes,
        distributions=("executorch", "torchao"),
    ),
    # One store serves a float32 and a float16 graph, so float32 scales too are numbers that float16 holds. WebGPU's
    # products of int8 activations take groups that 32 divides, its tiled ones of float activations 32 only.
    "transformersjs": FormatGrid(
        scale_dtype="float16",
        group_sizes={2: 32, 3: 32, 4: 32, 8: 32},
        symmetric_from=None,
        signed_scales=True,
        has_codebooks=False,
        held_bytes=_onnx_bytes,
        distributions=(),
    ),
    # Core ML computes in float16.
    "coreml": FormatGrid(
        scale_dtype="float16",
        group_sizes={2: 32, 3: 32, 4: 64, 8: 64},
        symmetric_from=None,
        signed_scales=True,
        has_codebooks=True,
        held_bytes=_coreml_bytes,
        distributions=("coremltools",),
    ),
}
