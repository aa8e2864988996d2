"""Hypothesis strategies for schemes and quantized tensors."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from edgeq.core.scheme import ScaleDtype, Scheme
from edgeq.core.tensor import QuantizedTensor

SCALE_DTYPES: tuple[ScaleDtype, ...] = ("float32", "float16", "bfloat16")


@st.composite
def schemes(draw: st.DrawFn) -> Scheme:
    return Scheme(
        bits=draw(st.sampled_from([4, 8])),
        group_size=draw(st.sampled_from([16, 32, 64, None])),
        symmetric=draw(st.booleans()),
        scale_dtype=draw(st.sampled_from(SCALE_DTYPES)),
    )


@st.composite
def tensors(draw: st.DrawFn) -> QuantizedTensor:
    scheme = draw(schemes())
    outputs, inputs = draw(st.integers(1, 4)), draw(st.integers(1, 80))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    groups = (outputs, scheme.groups(inputs))
    # A power of two is exact in every scale dtype.
    scales = (2.0 ** random.integers(-8, 4, groups) * random.choice([-1.0, 1.0], groups)).astype(np.float32)
    return QuantizedTensor(
        scheme=scheme,
        codes=random.integers(0, scheme.levels, (outputs, inputs), dtype=np.uint8),
        scales=scales,
        zero_points=None if scheme.symmetric else random.integers(0, scheme.levels, groups, dtype=np.uint8),
    )
