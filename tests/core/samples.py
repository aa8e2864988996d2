"""Hypothesis strategies for schemes and quantized tensors."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from edgeq.core.scheme import Codebook, ScaleDtype, Scheme
from edgeq.core.tensor import QuantizedTensor

SCALE_DTYPES: tuple[ScaleDtype, ...] = ("float32", "float16", "bfloat16")


@st.composite
def schemes(draw: st.DrawFn) -> Scheme:
    codebook: Codebook | None = draw(st.sampled_from([None, None, "nf4", "palette"]))
    palette = codebook == "palette"
    return Scheme(
        bits=4 if codebook == "nf4" else draw(st.sampled_from([2, 3, 4, 6, 8] if palette else [2, 3, 4, 8])),
        group_size=None if palette else draw(st.sampled_from([16, 32, 64, None])),
        symmetric=codebook is not None or draw(st.booleans()),
        scale_dtype=draw(st.sampled_from(SCALE_DTYPES)),
        codebook=codebook,
        palette_rows=draw(st.sampled_from([None, 1, 2, 3])) if palette else None,
    )


@st.composite
def tensors(draw: st.DrawFn) -> QuantizedTensor:
    scheme = draw(schemes())
    outputs, inputs = draw(st.integers(1, 4)), draw(st.integers(1, 80))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    groups = (outputs, scheme.groups(inputs))
    tables = (scheme.tables(outputs), scheme.levels)
    return QuantizedTensor(
        scheme=scheme,
        codes=random.integers(0, scheme.levels, (outputs, inputs), dtype=np.uint8),
        scales=_powers(random, groups) if scheme.has_scales else np.ones(groups, np.float32),
        zero_points=None if scheme.symmetric else random.integers(0, scheme.levels, groups, dtype=np.uint8),
        codebook=None if scheme.codebook is None else _powers(random, tables),
    )


def _powers(random: np.random.Generator, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Powers of two, which are exact in every scale dtype."""
    values: npt.NDArray[np.float32] = 2.0 ** random.integers(-8, 4, shape) * random.choice([-1.0, 1.0], shape)
    return values.astype(np.float32)
