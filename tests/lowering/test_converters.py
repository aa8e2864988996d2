"""Every converter against torch: values, shapes and dtypes, at the traced sizes and at others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeq.lowering import operators
from edgeq.lowering.onnx.model import CONVERTERS
from tests.lowering import attention_cases, elementwise_cases, neural_cases, reduction_cases, shape_cases, vision_cases
from tests.lowering.converting import OTHER, TRACED, Case, convert, make_inputs

CASES = (
    *elementwise_cases.CASES,
    *reduction_cases.CASES,
    *shape_cases.CASES,
    *neural_cases.CASES,
    *attention_cases.CASES,
    *vision_cases.CASES,
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.name))
def test_onnx_runtime_gives_what_torch_gives(case: Case, tmp_path: Path) -> None:
    converted = convert(case, tmp_path)
    assert set(case.operators) <= converted.graph_targets
    for sizes in (TRACED, OTHER):
        tensors = make_inputs(case, sizes)
        for found, wanted in zip(converted.run(tensors), converted.expected(tensors), strict=True):
            assert found.dtype == wanted.dtype
            assert found.shape == wanted.shape
            # float32 sums in another order: a few rounding errors of the largest value
            scale = max(1.0, float(np.abs(wanted[np.isfinite(wanted)]).max(initial=0)))
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6 * scale)


def test_every_converter_has_a_case() -> None:
    covered = {operator for case in CASES for operator in case.operators}
    # the cache exists in a language model only: test_signature.py
    assert set(CONVERTERS) - covered == {operators.append_cache}


def test_names_tell_the_cases_apart() -> None:
    names = [case.name for case in CASES]
    assert [name for name in set(names) if names.count(name) > 1] == []
