"""Every converter against torch: values, shapes and dtypes, at the traced sizes and at others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.lowering import elementwise_cases
from tests.lowering.converting import OTHER, TRACED, Case, convert, make_inputs

CASES = (*elementwise_cases.CASES,)


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.name))
def test_onnx_runtime_gives_what_torch_gives(case: Case, tmp_path: Path) -> None:
    converted = convert(case, tmp_path)
    assert set(case.operators) <= converted.graph_targets
    for sizes in (TRACED, OTHER):
        tensors = make_inputs(case, sizes)
        with torch.no_grad():
            expected = (case.oracle or case.module)(*[tensor.clone() for tensor in tensors])
        expected = [expected] if isinstance(expected, torch.Tensor) else expected
        for found, wanted in zip(converted.run(tensors), expected, strict=True):
            assert found.dtype == wanted.numpy().dtype
            assert found.shape == tuple(wanted.shape)
            np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-5, atol=1e-6)
