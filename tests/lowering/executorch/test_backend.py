"""What ExecuTorch refuses is told from what is wrong in edgeq."""

from __future__ import annotations

import pytest

from edgeq.core.tensor import QuantizedTensor
from edgeq.lowering.executorch.backend import is_raised_by_edgeq


def test_errors_of_what_is_called_are_not_ours() -> None:
    with pytest.raises(ValueError, match="invalid literal") as caught:
        int("x")
    assert not is_raised_by_edgeq(caught.value)


def test_errors_of_our_own_lines_are() -> None:
    with pytest.raises(AttributeError) as caught:
        QuantizedTensor.dequantize(None)  # type: ignore[arg-type]
    assert is_raised_by_edgeq(caught.value)
