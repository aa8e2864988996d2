"""What the translator refuses, and what it asks torch to rewrite first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from edgeq.core.scheme import Scheme
from edgeq.errors import UnsupportedModelError
from tests.lowering.converting import OTHER, TRACED, Case, convert, floats, make_inputs

X = floats("b", "s")


def case_of(module: nn.Module | Callable[..., object], **schemes: Scheme) -> Case:
    return Case(name="case", operators=(), module=module, inputs=(X,), schemes=schemes)


def _fourier(x: torch.Tensor) -> torch.Tensor:
    spectrum: torch.Tensor = torch.fft.rfft(x, n=8).real
    return spectrum


def _sorted(x: torch.Tensor) -> torch.Tensor:
    return x.sort(-1).values


def _scattered(x: torch.Tensor) -> torch.Tensor:
    doubled = x * 2
    doubled[:, ::2].add_(1)
    return doubled


@pytest.mark.parametrize(
    ("function", "name"),
    [(_fourier, "aten._fft_r2c.default"), (_sorted, "aten.sort.default"), (torch.erfinv, "aten.erfinv.default")],
)
def test_an_operator_without_converter_is_named(
    function: Callable[..., torch.Tensor], name: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedModelError, match=name) as caught:
        convert(case_of(function), tmp_path)
    assert "\n" not in str(caught.value)
    assert caught.value.remedy


def test_a_selection_by_a_mask_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="depends on the values"):
        convert(case_of(lambda x: x[x > 0]), tmp_path)


def test_writing_to_every_second_entry_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="every n-th entry"):
        convert(case_of(_scattered), tmp_path)


def test_a_split_into_an_unknown_number_of_parts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="dynamic length"):
        convert(case_of(lambda x: x.split((x.shape[1] + 1) // 2, 1)), tmp_path)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: functional.cosine_similarity(x, x * x, dim=-1),  # two rounds of rewriting
        lambda x: functional.mish(x) + functional.hardswish(x) + functional.glu(torch.cat([x, x], -1)),
        lambda x: x.logsumexp(0) + torch.outer(x[:, 0], x[:, 1]).sum() + torch.einsum("ij,kj->ik", x, x).sum(),
    ],
    ids=["twice", "activations", "products"],
)
def test_torch_rewrites_what_has_no_converter(function: Callable[..., torch.Tensor], tmp_path: Path) -> None:
    case = case_of(function)
    converted = convert(case, tmp_path)
    for sizes in (TRACED, OTHER):
        tensors = make_inputs(case, sizes)
        np.testing.assert_allclose(converted.run(tensors)[0], converted.expected(tensors)[0], rtol=1e-5, atol=1e-6)


class Scaled(nn.Module):
    """Uses its weight in another way than a linear does."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :4] @ (self.linear.weight * 2)


class Untransposed(Scaled):
    """Multiplies by a linear's weight the wrong way round, so that groups would run along the outputs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :4] @ self.linear.weight


@pytest.mark.parametrize("module", [Scaled(), Untransposed()], ids=["scaled", "untransposed"])
def test_a_quantized_weight_that_is_no_linear_is_refused(module: nn.Module, tmp_path: Path) -> None:
    scheme = Scheme(bits=8, group_size=16)
    with pytest.raises(UnsupportedModelError, match=r"linear\.weight is used otherwise"):
        convert(Case(name="c", operators=(), module=module, inputs=(X,), schemes={"linear.weight": scheme}), tmp_path)


def test_node_names_follow_the_modules(tmp_path: Path) -> None:
    module = nn.Sequential()
    module.add_module("first", nn.Linear(8, 8))
    converted = convert(Case(name="c", operators=(), module=module, inputs=(floats("b", "s", 8),)), tmp_path)
    assert converted.op_types == ["MatMul", "Add", "Identity"]
