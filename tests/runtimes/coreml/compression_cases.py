"""Compressed weights, unpacked by the textbook."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.runtimes.coreml.programs import Array, Case, case

RNG = np.random.default_rng(3)


def _typed(values: Array, kind: str) -> Array:
    """Numbers of less than 8 bits, as coremltools wants them marked."""
    from coremltools.converters.mil.mil import types

    dtype: Any = types.nptype_from_builtin(getattr(types, kind))
    return values.astype(dtype)


CODES = RNG.integers(-8, 8, (4, 6))
UNSIGNED = RNG.integers(0, 16, (4, 6))
SCALES = (RNG.random((4, 3)) + 0.1).astype(np.float16)
OFFSETS = RNG.integers(0, 16, (4, 3))
WIDE = np.repeat(SCALES.astype(np.float32), 2, axis=1)
TABLES = RNG.normal(size=(2, 1, 4, 1)).astype(np.float16)
ENTRIES = RNG.integers(0, 4, (4, 6))
VECTORS = RNG.normal(size=(1, 1, 2, 3)).astype(np.float32)
PAIRS = RNG.integers(0, 2, (4, 6))
CASES: list[Case] = [
    case(
        "constexpr_blockwise_shift_scale",
        {},
        (CODES * WIDE).astype(np.float16),
        atol=0,
        data=_typed(CODES, "int4"),
        scale=SCALES,
    ),
    case(
        "constexpr_blockwise_shift_scale",
        {},
        ((UNSIGNED - np.repeat(OFFSETS, 2, axis=1)) * WIDE).astype(np.float16),
        atol=0,
        data=_typed(UNSIGNED, "uint4"),
        scale=SCALES,
        offset=_typed(OFFSETS, "uint4"),
    ),
    case(
        "constexpr_lut_to_dense",
        {},
        np.concatenate([TABLES[0, 0, :, 0][ENTRIES[:2]], TABLES[1, 0, :, 0][ENTRIES[2:]]]),
        atol=0,
        indices=_typed(ENTRIES, "uint2"),
        lut=TABLES,
    ),
    case(
        "constexpr_lut_to_dense",
        {},
        VECTORS[0, 0][PAIRS].transpose(0, 2, 1).reshape(12, 6),
        atol=0,
        indices=_typed(PAIRS, "uint1"),
        lut=VECTORS,
        vector_axis=0,
    ),
    case(
        "constexpr_affine_dequantize",
        {},
        ((CODES - np.arange(4)[:, None]) * SCALES[:, :1].astype(np.float32)).astype(np.float16),
        atol=0,
        quantized_data=CODES.astype(np.int8),
        zero_point=np.arange(4, dtype=np.int8),
        scale=SCALES[:, 0],
        axis=0,
    ),
    case("constexpr_cast", {}, TABLES[0, 0].astype(np.float32), atol=0, source_val=TABLES[0, 0], output_dtype="fp32"),
]
