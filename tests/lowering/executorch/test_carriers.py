"""Codes in torchao's tensors say what the store says, and what XNNPACK cannot hold is refused by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgeq.core.scheme import Scheme
from edgeq.core.tensor import QuantizedTensor
from edgeq.errors import UnsupportedModelError
from edgeq.lowering.executorch.carriers import QuantizedLinear, carrier, check_table, in_product, in_table, padded
from tests.lowering.executorch.samples import random_tensor, scheme

OUTPUTS, INPUTS = 6, 96
TABLES = [
    scheme(bits, group, symmetric=symmetric)
    for bits in (2, 3, 4, 8)
    for group in (None, 16)
    for symmetric in (True, False)
]
LINEARS = [
    scheme(bits, group, symmetric=symmetric)
    for bits in (2, 3, 4)
    for group in (None, 32, 64)
    for symmetric in (True, False)
]
LINEARS += [scheme(8, None, symmetric=symmetric) for symmetric in (True, False)]


@pytest.mark.parametrize("chosen", TABLES, ids=Scheme.label)
def test_rows_of_a_table_are_the_dequantized_ones(chosen: Scheme) -> None:
    tensor = random_tensor(chosen, OUTPUTS, INPUTS)
    table = carrier(in_table(tensor), zero_points=True, int8_activations=False)
    rows = torch.nn.functional.embedding(torch.tensor([4, 0, 4]), table)
    np.testing.assert_array_equal(rows.numpy(), tensor.dequantize()[[4, 0, 4]])


@pytest.mark.parametrize("chosen", LINEARS, ids=Scheme.label)
def test_products_differ_from_exact_ones_by_the_rounding_of_activations_only(chosen: Scheme) -> None:
    tensor = random_tensor(chosen, OUTPUTS, INPUTS)
    x = torch.randn(3, INPUTS, generator=torch.Generator().manual_seed(0))
    found = QuantizedLinear("w", tensor)(x, None)
    weights = torch.from_numpy(tensor.dequantize())
    # A token's activations are rounded to 255 steps between their smallest and their largest: each is off by half a
    # step at most. What zero points are multiplied with is not rounded, so the codes carry the error alone.
    steps = (x.amax(-1).clamp(min=0) - x.amin(-1).clamp(max=0)) / 255
    signed = torch.from_numpy(in_product(tensor).integers().astype(np.float32))
    per_input = torch.from_numpy(np.repeat(tensor.scales, padded(tensor).shape[1] // tensor.scales.shape[1], 1))
    largest = (signed.abs() * per_input[:, :INPUTS].abs()).sum(1)
    assert ((found - x @ weights.T).abs() <= 0.51 * steps[:, None] * largest[None] + 1e-4).all()


@pytest.mark.parametrize("bits", [2, 3])
def test_zero_points_of_few_bits_cost_no_second_product(bits: int) -> None:
    tensor = random_tensor(scheme(bits, 32, symmetric=False), OUTPUTS, INPUTS)
    held = in_product(tensor)
    np.testing.assert_array_equal(held.dequantize(), tensor.dequantize())
    assert (held.scheme.bits, held.scheme.symmetric) == (4, True)
    assert QuantizedLinear("w", tensor).correction is None


def test_tables_of_two_bits_stay_where_rows_are_whole_bytes() -> None:
    tensor = random_tensor(scheme(2, None, symmetric=False), OUTPUTS, INPUTS)
    assert in_table(tensor) is tensor
    odd = random_tensor(scheme(2, None, symmetric=False), OUTPUTS, 30)
    assert in_table(odd).scheme.bits == 4
    np.testing.assert_array_equal(in_table(odd).dequantize(), odd.dequantize())


def test_a_bias_is_added() -> None:
    tensor = random_tensor(scheme(4, 32, symmetric=False), OUTPUTS, INPUTS)
    linear, x, bias = QuantizedLinear("w", tensor), torch.randn(2, 3, INPUTS), torch.randn(OUTPUTS)
    torch.testing.assert_close(linear(x, bias), linear(x, None) + bias)


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_short_last_group_is_filled_with_zeros(symmetric: bool) -> None:
    tensor = random_tensor(scheme(4, 32, symmetric=symmetric), OUTPUTS, 80)
    full = padded(tensor)
    assert full.shape == (OUTPUTS, 96)
    np.testing.assert_array_equal(full.codes[:, :80], tensor.codes)
    x = torch.randn(4, 80)
    exact = x @ torch.from_numpy(tensor.dequantize()).T
    found = QuantizedLinear("w", tensor)(x, None)
    assert (found - exact).norm() < 0.02 * exact.norm()


def unpositive(tensor: QuantizedTensor) -> QuantizedTensor:
    return replace(tensor, scales=-tensor.scales)


def unrounded(tensor: QuantizedTensor) -> QuantizedTensor:
    return replace(tensor, scales=tensor.scales * np.float32(1 + 2**-12))


def random_palette() -> QuantizedTensor:
    chosen = Scheme(bits=4, group_size=32, symmetric=True, codebook="nf4")
    plain = random_tensor(scheme(4, 32, symmetric=True), OUTPUTS, INPUTS)
    return replace(plain, scheme=chosen, codebook=np.linspace(-1, 1, 16, dtype=np.float32)[None])


@pytest.mark.parametrize(
    ("tensor", "why"),
    [
        (random_tensor(scheme(8, 32, symmetric=True), OUTPUTS, INPUTS), "8-bit groups of 32"),
        (random_tensor(scheme(4, 16, symmetric=True), OUTPUTS, INPUTS), "groups of 16: only multiples of 32"),
        (random_tensor(scheme(4, None, symmetric=True), OUTPUTS, 80), "groups of 80: only multiples of 32"),
        (unrounded(random_tensor(scheme(4, 32, symmetric=True), OUTPUTS, INPUTS)), "not exact in bfloat16"),
        (unpositive(random_tensor(scheme(4, 32, symmetric=True), OUTPUTS, INPUTS)), "not positive"),
        (unpositive(random_tensor(scheme(8, None, symmetric=True), OUTPUTS, INPUTS)), "not positive"),
        (random_palette(), "codebooks"),
    ],
)
def test_what_xnnpack_cannot_multiply_is_refused_by_name(tensor: QuantizedTensor, why: str) -> None:
    with pytest.raises(UnsupportedModelError, match=rf"layers\.3\.weight.*{why}.*--format executorch"):
        QuantizedLinear("layers.3.weight", tensor)


def test_float32_scales_of_8_bits_are_kept() -> None:
    tensor = unrounded(random_tensor(scheme(8, None, symmetric=True), OUTPUTS, INPUTS))
    QuantizedLinear("w", tensor)


@pytest.mark.parametrize("tensor", [random_tensor(scheme(4, 32, symmetric=True), 4, 80), random_palette()])
def test_tables_that_the_embedding_cannot_hold_are_refused_by_name(tensor: QuantizedTensor) -> None:
    with pytest.raises(UnsupportedModelError, match=r"tokens\.weight.*--format executorch"):
        check_table("tokens.weight", tensor)
