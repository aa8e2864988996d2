"""Weights in training start as what is stored, have the textbook's gradients, and stay storable."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from edgeq.core.scheme import Scheme
from edgeq.core.tensor import QuantizedTensor
from edgeq.quantization.grid import storable
from edgeq.quantization.rtn import round_to_nearest
from edgeq.quantization.trainable import INSIDE, TrainedGrid

SCHEMES = [
    Scheme(bits=4, group_size=32),
    Scheme(bits=2, group_size=32, scale_dtype="float16"),
    Scheme(bits=3, group_size=64, symmetric=True),
    Scheme(bits=4, group_size=32, symmetric=True, scale_dtype="bfloat16", signed_scales=False),
    Scheme(bits=8, group_size=None),
]
IDS = [f"{s.bits}-{s.group_size}-{s.symmetric}-{s.scale_dtype}" for s in SCHEMES]
INPUTS = 80  # no multiple of a group


def case(scheme: Scheme, *, turned: bool = False) -> tuple[QuantizedTensor, TrainedGrid]:
    values = np.random.default_rng(0).standard_normal((12, INPUTS)).astype(np.float32)
    tensor = round_to_nearest(values, scheme, "w")
    return tensor, TrainedGrid.of(tensor, values.T if turned else values, turned=turned)


def straight_through(scheme: Scheme, codes: Tensor, growth: Tensor, tensor: QuantizedTensor) -> Tensor:
    """As the papers write it, a group at a time, all of it by autograd: `[out, in]`."""
    size = scheme.group_size or INPUTS
    columns = []
    for g in range(tensor.scales.shape[1]):
        wanted = torch.from_numpy(tensor.scales)[:, g : g + 1] * growth[:, g].exp()
        kept = storable(wanted.detach().abs(), scheme.scale_dtype) * wanted.detach().sign()
        scale = wanted + (kept - wanted).detach()
        middle = scheme.default_zero_point if tensor.zero_points is None else tensor.zero_points[:, g : g + 1]
        zero = torch.as_tensor(np.asarray(middle, dtype=np.float32))
        bounded = torch.minimum(torch.maximum(codes[:, g], -zero), scheme.levels - 1 - zero)
        columns.append((bounded + (bounded.round() - bounded).detach()) * scale)
    assert columns[0].shape[1] == size
    return torch.cat(columns, dim=1)[:, :INPUTS]


@pytest.mark.parametrize("scheme", SCHEMES, ids=IDS)
@pytest.mark.parametrize("turned", [False, True])
def test_it_starts_as_what_is_stored(scheme: Scheme, turned: bool) -> None:
    tensor, grid = case(scheme, turned=turned)
    expected = tensor.dequantize()
    np.testing.assert_array_equal(grid.weight().detach().numpy(), expected.T if turned else expected)
    found = grid.result()
    np.testing.assert_array_equal(found.codes, tensor.codes)
    np.testing.assert_array_equal(found.scales, tensor.scales)


@pytest.mark.parametrize("scheme", SCHEMES, ids=IDS)
def test_gradients_are_the_textbook_s(scheme: Scheme) -> None:
    tensor, grid = case(scheme)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # some beyond the grid, whose gradient is nothing
        grid.codes.add_(torch.randn(grid.codes.shape, generator=generator) * scheme.levels / 3)
        grid.growth.add_(torch.randn(grid.growth.shape, generator=generator) * 0.1)
    codes = grid.codes.detach().clone().requires_grad_()
    growth = grid.growth.detach().clone().requires_grad_()
    direction = torch.randn((12, INPUTS), generator=generator)
    expected = straight_through(scheme, codes, growth, tensor)
    (expected * direction).sum().backward()  # type: ignore[no-untyped-call]
    found = grid.weight()
    (found * direction).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(grid.codes.grad, codes.grad)
    torch.testing.assert_close(grid.growth.grad, growth.grad)
    assert grid.codes.grad is not None
    assert 0 < int((grid.codes.grad == 0).sum()) < grid.codes.numel()


@pytest.mark.parametrize("scheme", SCHEMES, ids=IDS)
def test_whatever_it_becomes_can_be_stored(scheme: Scheme) -> None:
    tensor, grid = case(scheme)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        grid.codes.add_(torch.randn(grid.codes.shape, generator=generator) * 3)
        grid.growth.add_(torch.randn(grid.growth.shape, generator=generator))
    found = grid.result()
    assert found.codes.max() < scheme.levels
    assert (found.codes != tensor.codes).any()
    scales = torch.from_numpy(found.scales)
    assert torch.equal(storable(scales.abs(), scheme.scale_dtype), scales.abs())
    assert torch.equal(scales.sign(), torch.from_numpy(tensor.scales).sign())
    np.testing.assert_array_equal(grid.weight().detach().numpy(), found.dequantize())


def test_codes_start_where_the_weights_are() -> None:
    values = np.full((1, 32), 0.3, dtype=np.float32)
    values[0, :2] = (0, 1.5)
    tensor = round_to_nearest(values, Scheme(bits=4, group_size=32), "w")
    grid = TrainedGrid.of(tensor, values, turned=False)
    np.testing.assert_allclose(grid.codes.detach().numpy()[0, 0, 2:], 3.0, atol=0.01)
    far = TrainedGrid.of(tensor, values + 10, turned=False)
    np.testing.assert_allclose(far.codes.detach().numpy()[0, 0, 2:], 3.0 + INSIDE[4], atol=1e-6)
