"""Activations in two parts are finer where few values stick out, and as few linears as needed have them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgeq.lowering.executorch.activations import LARGEST_ERROR, split_where_needed
from edgeq.lowering.executorch.carriers import SPLIT_AT, QuantizedLinear
from edgeq.lowering.executorch.kernels import ExecuTorchKernels
from tests.lowering.executorch.samples import random_tensor, scheme

INPUTS = 96


def linear(outputs: int = INPUTS) -> QuantizedLinear:
    return QuantizedLinear("w", random_tensor(scheme(4, 32, symmetric=True), outputs, INPUTS))


def with_outliers(size: float) -> torch.Tensor:
    x = torch.randn(5, INPUTS, generator=torch.Generator().manual_seed(1))
    x[:, 7] *= size
    return x


def rounded(x: torch.Tensor) -> torch.Tensor:
    """The textbook: 255 equal steps from the smallest to the largest value of each token, zero among them."""
    low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
    step = (high - low) / 255
    zero = torch.round(-128 - low / step)
    return ((torch.round(x / step) + zero).clamp(-128, 127) - zero) * step


def test_the_parts_are_rounded_one_by_one() -> None:
    layer, x, bias = linear(8), with_outliers(30.0), torch.randn(8)
    layer.split_activations()
    bound = SPLIT_AT * x.square().mean(-1, keepdim=True).sqrt()
    bulk = x.clamp(-bound, bound)
    expected = (rounded(bulk) + rounded(x - bulk)) @ layer.weight.dequantize().T + bias
    torch.testing.assert_close(layer(x, bias), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("outlier", [10.0, 30.0])
def test_splitting_takes_most_of_the_error_away(outlier: float) -> None:
    layer, x = linear(), with_outliers(outlier)
    plain = layer(x, None)
    layer.split_activations()
    split = layer(x, None)
    layer.activations = "float32"
    exact = layer(x, None)
    torch.testing.assert_close(exact, x @ layer.weight.dequantize().T)
    assert (split - exact).norm() < 0.5 * (plain - exact).norm()


class Chain(nn.Module):
    """Two blocks of two linears: `calm` sees normal values, `wild` an outlying channel."""

    def __init__(self, kernels: ExecuTorchKernels, wild: float) -> None:
        super().__init__()
        for block in range(2):
            for kind in ("calm", "wild"):
                kernels.linears[f"block__{block}__{kind}"] = linear()
        self.parts, self.wild = dict(kernels.quantized_linears()), wild

    def outputs(self) -> torch.Tensor:
        """What the outlier itself gives is taken away, as biases and later norms do: the others' rounding remains."""
        x = with_outliers(self.wild)
        result = torch.zeros(len(x), INPUTS)
        for block in range(2):
            wild = self.parts[f"block__{block}__wild"]
            result += self.parts[f"block__{block}__calm"](with_outliers(1.0), None)
            result += wild(x, None) - x[:, 7:8] * wild.weight.dequantize()[:, 7]
        return result


def empty_kernels() -> ExecuTorchKernels:
    kernels = ExecuTorchKernels.__new__(ExecuTorchKernels)
    nn.Module.__init__(kernels)
    kernels.linears = nn.ModuleDict()
    return kernels


def test_the_kind_that_causes_the_error_is_split_in_every_block() -> None:
    kernels = empty_kernels()
    chain = Chain(kernels, wild=40.0)
    assert split_where_needed(kernels, chain.outputs) == 2
    assert {name: part.activations for name, part in chain.parts.items()} == {
        "block__0__calm": "int8",
        "block__0__wild": "split",
        "block__1__calm": "int8",
        "block__1__wild": "split",
    }


def test_nothing_is_split_where_the_error_is_small() -> None:
    kernels = empty_kernels()
    chain = Chain(kernels, wild=1.0)
    assert split_where_needed(kernels, chain.outputs) == 0
    assert {part.activations for part in chain.parts.values()} == {"int8"}


def test_the_error_ends_below_the_limit() -> None:
    kernels = empty_kernels()
    chain = Chain(kernels, wild=40.0)
    split_where_needed(kernels, chain.outputs)
    found = chain.outputs()
    for part in chain.parts.values():
        part.activations = "float32"
    exact = chain.outputs()
    assert (found - exact).norm() / exact.norm() <= LARGEST_ERROR


def test_a_model_without_quantized_linears_is_left_alone() -> None:
    assert split_where_needed(empty_kernels(), lambda: torch.ones(3)) == 0
