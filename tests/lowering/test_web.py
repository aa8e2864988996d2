"""Graphs for browsers and graphs in float16 say what torch says, of operators that the browsers' runtime has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from edgeq.core.scheme import Scheme
from edgeq.errors import UnsupportedModelError
from edgeq.lowering import operators
from edgeq.lowering.onnx.external_data import ExternalData
from edgeq.lowering.onnx.graph import halved
from edgeq.lowering.onnx.weights import Weights
from edgeq.lowering.transformersjs.providers import check_wasm
from edgeq.progress import SilentProgress
from tests.lowering import attention_cases, neural_cases
from tests.lowering.attention_cases import Attention
from tests.lowering.converting import OTHER, TRACED, Case, Converted, convert, floats, integers, make_inputs
from tests.lowering.memory_store import MemoryStore

CASES = (*attention_cases.CASES, *neural_cases.CASES)
HALF = 4e-3
"""Of the largest value: float16 keeps eleven binary digits, and sums of some dozens lose two or three."""


def error(converted: Converted, case: Case, sizes: dict[str, int]) -> float:
    """The largest distance to what torch gives, of the largest value."""
    tensors = make_inputs(case, sizes)
    worst = 0.0
    for found, wanted in zip(converted.run(tensors), converted.expected(tensors), strict=True):
        assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
        distance = np.abs(found.astype(np.float64) - wanted)
        worst = max(worst, float(distance.max(initial=0) / max(1.0, np.abs(wanted).max(initial=0))))
    return worst


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.name))
def test_a_graph_for_browsers_gives_what_torch_gives(case: Case, tmp_path: Path) -> None:
    converted = convert(case, tmp_path, web=True)
    for sizes in (TRACED, OTHER):
        assert error(converted, case, dict(sizes)) < 1e-5
    check_wasm(ir.load(tmp_path / "model.onnx").graph)


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.name))
def test_a_float16_graph_is_near_what_torch_gives(case: Case, tmp_path: Path) -> None:
    converted = convert(case, tmp_path, half=True, web=True)
    assert error(converted, case, dict(OTHER)) < HALF
    graph = ir.load(tmp_path / "model.onnx").graph
    stored = {value.name: value.dtype for value in graph.initializers.values()}
    assert ir.DataType.FLOAT not in [dtype for name, dtype in stored.items() if not str(name).startswith("constant")]
    check_wasm(graph)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group_size", [16, 32, None])
def test_a_table_is_expanded_to_the_very_values(
    bits: int, symmetric: bool, group_size: int | None, tmp_path: Path
) -> None:
    scheme = Scheme(bits=bits, group_size=group_size, symmetric=symmetric)
    case = Case(
        name="table",
        operators=(),
        module=nn.Sequential(nn.Embedding(24, 44)),
        inputs=(integers("b", "s", low=0, high=24),),
        schemes={"0.weight": scheme},
    )
    converted = convert(case, tmp_path, web=True)
    assert "GatherBlockQuantized" not in converted.op_types
    tensors = make_inputs(case, TRACED)
    assert np.array_equal(converted.run(tensors)[0], converted.expected(tensors)[0])


def test_sums_and_squares_of_a_float16_graph_do_not_overflow(tmp_path: Path) -> None:
    def normalised(x: torch.Tensor) -> torch.Tensor:
        large = x * 20000
        return large * torch.rsqrt(large.pow(2).mean(-1, keepdim=True) + 1e-12)

    case = Case(name="norm", operators=(), module=normalised, inputs=(floats("b", "s", 8, low=1),))
    converted = convert(case, tmp_path, half=True)
    assert error(converted, case, dict(TRACED)) < HALF
    assert converted.op_types.count("Cast") == 3  # into the square, out of the root, and the result


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("odd.weight",), "odd.weight has scales that float16 does not hold"),
        (("large.bias",), r"large.bias has values up to 6.55e\+04, and float16 ends at 65504"),
        (("odd.bias", "large.bias"), r"bias has values up to 6.55e\+04"),
    ],
)
def test_what_float16_does_not_hold_is_refused(names: tuple[str, ...], message: str, tmp_path: Path) -> None:
    large = nn.Linear(32, 4)
    nn.init.constant_(large.bias, 65505.0)
    store = MemoryStore(nn.ModuleDict({"odd": nn.Linear(32, 4), "large": large}), {"odd.weight": Scheme(bits=4)})
    weights = Weights(store.as_store, ExternalData(tmp_path), 1, half=True)
    if names[0].endswith("weight"):
        weights.matrix(names)
    else:
        weights.concatenated(names)
    with pytest.raises(UnsupportedModelError, match=message):
        weights.data.write(SilentProgress())
    assert list(tmp_path.iterdir()) == []


def test_constants_stay_finite_and_what_is_not_zero_stays_so() -> None:
    wide = np.array([np.finfo(np.float32).min, 1e-12, -1e-12, 0, 1.5, np.inf, -np.inf, 7e4], np.float32)
    tiny = 2.0**-24
    assert halved(wide).dtype == np.float16
    assert halved(wide).tolist() == [-65504, tiny, -tiny, 0, 1.5, np.inf, -np.inf, 65504]


def test_a_cap_together_with_sinks_is_refused(tmp_path: Path) -> None:
    module = Attention(softcap=1.5, sinks=True)
    case = Case(name="both", operators=(operators.attention,), module=module, inputs=attention_cases.HIDDEN)
    with pytest.raises(UnsupportedModelError, match="both sinks and a cap"):
        convert(case, tmp_path, web=True)
