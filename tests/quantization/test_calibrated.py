"""Weighted scale search, GPTQ and refit: against the textbook, and what each promises."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from edgeq.core.scheme import Scheme
from edgeq.core.tensor import QuantizedTensor
from edgeq.errors import CorruptInputError, InternalError, UsageError
from edgeq.quantization.gptq import gptq
from edgeq.quantization.grid import assemble, by_group, by_input, disassemble, group, nearest
from edgeq.quantization.moments import Moments, MomentSums, corrected, loss
from edgeq.quantization.refit import refit
from edgeq.quantization.rtn import round_to_nearest
from edgeq.quantization.scale_search import search_scales, weighted_grid
from tests.oracles import gptq as oracle
from tests.quantization.calibration_data import activations, gaussian, moments

SCHEMES = [
    Scheme(bits=4),
    Scheme(bits=3, group_size=16),
    Scheme(bits=2),
    Scheme(bits=8),
    Scheme(bits=4, group_size=None),
    Scheme(bits=4, symmetric=True, scale_dtype="bfloat16"),
    Scheme(bits=2, symmetric=True, scale_dtype="float16"),
    Scheme(bits=4, symmetric=True, scale_dtype="bfloat16", signed_scales=False),
]
every_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=str)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def error(weights: Tensor, tensor: QuantizedTensor, given: Moments) -> float:
    return loss(weights, torch.from_numpy(tensor.dequantize()), given)


def assert_same(actual: QuantizedTensor, expected: QuantizedTensor) -> None:
    np.testing.assert_array_equal(actual.codes, expected.codes)
    np.testing.assert_array_equal(actual.scales, expected.scales)


def assert_in_domain(tensor: QuantizedTensor) -> None:
    assert tensor.codes.max(initial=0) < tensor.scheme.levels
    assert np.isfinite(tensor.scales).all()
    assert (tensor.scales != 0).all()
    if tensor.scheme.symmetric and not tensor.scheme.signed_scales:
        assert (tensor.scales > 0).all()
    if tensor.zero_points is not None:
        assert tensor.zero_points.max(initial=0) < tensor.scheme.levels
    exact = torch.from_numpy(tensor.scales).to(getattr(torch, tensor.scheme.scale_dtype)).float().numpy()
    np.testing.assert_array_equal(exact, tensor.scales)


# -- weighted scale search --------------------------------------------------------------------------------------------


@every_scheme
def test_no_group_is_worse_than_min_max_under_its_weights(scheme: Scheme) -> None:
    weights, importance = gaussian(), moments().hessian.diagonal()
    groups = group(weights.numpy(), scheme)
    grid = weighted_grid(groups, importance, "w")
    found = assemble(groups, grid, nearest(groups, grid))
    assert_in_domain(found)
    given = Moments(hessian=torch.diag(importance), cross=None, tokens=1)
    plain = round_to_nearest(weights.numpy(), scheme, "w")
    for row in range(len(weights)):
        values = weights[row : row + 1]
        of_row = [loss(values, torch.from_numpy(t.dequantize()[row : row + 1]), given) for t in (found, plain)]
        assert of_row[0] <= of_row[1] * (1 + 1e-5)
    if scheme.bits < 8:
        assert error(weights, found, given) < 0.95 * error(weights, search_scales(weights.numpy(), scheme, "w"), given)


def test_inputs_without_importance_do_not_count() -> None:
    weights = gaussian(4, 32)
    importance = torch.zeros(32)
    importance[:4] = 1.0
    groups = group(weights.numpy(), Scheme(bits=4))
    grid = weighted_grid(groups, importance, "w")
    found = assemble(groups, grid, nearest(groups, grid)).dequantize()
    plain = round_to_nearest(weights.numpy(), Scheme(bits=4), "w").dequantize()
    kept, lost = (np.abs(values - weights.numpy())[:, :4].mean() for values in (found, plain))
    assert kept < 0.6 * lost


# -- GPTQ -------------------------------------------------------------------------------------------------------------


@every_scheme
@pytest.mark.parametrize("inputs", [88, 160])  # one block, and more than one
def test_gptq_is_the_textbook(scheme: Scheme, inputs: int) -> None:
    weights, given = gaussian(6, inputs), moments(inputs)
    tensor = gptq(weights, given, scheme, "w")
    assert_in_domain(tensor)
    size = scheme.group_size or inputs
    zero = np.full(tensor.scales.shape, scheme.default_zero_point) if scheme.symmetric else tensor.zero_points
    assert zero is not None
    scales, zeros = (np.repeat(part.astype(np.float64), size, axis=1)[:, :inputs] for part in (tensor.scales, zero))
    codes = oracle.feed_back(weights.double().numpy(), given.hessian.double().numpy(), scales, zeros, scheme.levels - 1)
    # Ties in float32 fall otherwise in float64, and what follows in that row differs too.
    assert (codes == tensor.codes).all(axis=1).mean() >= (0.5 if scheme.bits == 8 else 0.8)
    expected = (codes - zeros) * scales
    assert error(weights, tensor, given) == pytest.approx(
        oracle.loss(weights.double().numpy(), expected, given.hessian.double().numpy()), rel=0.02
    )


@every_scheme
def test_gptq_beats_rounding_on_the_same_grid(scheme: Scheme) -> None:
    weights, given = gaussian(), moments()
    groups = group(weights.numpy(), scheme)
    grid = weighted_grid(groups, given.hessian.diagonal(), "w")
    rounded = assemble(groups, grid, nearest(groups, grid))
    assert error(weights, gptq(weights, given, scheme, "w"), given) < 0.7 * error(weights, rounded, given)


@every_scheme
def test_without_correlation_gptq_rounds(scheme: Scheme) -> None:
    weights = gaussian()
    given = Moments(hessian=torch.diag(torch.rand(88, generator=torch.manual_seed(0)) + 0.1), cross=None, tokens=1)
    tensor = gptq(weights, given, scheme, "w")
    groups = group(weights.numpy(), scheme)
    grid, _ = disassemble(tensor)
    assert_same(tensor, assemble(groups, grid, nearest(groups, grid)))


def test_gptq_with_a_cross_moment_quantizes_the_corrected_weights() -> None:
    x, weights, scheme = activations(32, 2000), gaussian(6, 32), Scheme(bits=4)
    sums = MomentSums(32)
    sums.add(x, x + 0.3 * activations(32, 2000, seed=5))
    given = sums.result()
    plain = replace(given, cross=None)
    assert_same(gptq(weights, given, scheme, "w"), gptq(corrected(weights, given), plain, scheme, "w"))
    assert_same(gptq(weights, given, scheme, "w", share=0.0), gptq(weights, plain, scheme, "w"))


# -- refit ------------------------------------------------------------------------------------------------------------


@every_scheme
@pytest.mark.parametrize("start", ["rtn", "gptq"])
def test_refit_improves_every_round(scheme: Scheme, start: str) -> None:
    weights, given = gaussian(), moments()
    tensor = round_to_nearest(weights.numpy(), scheme, "w")
    if start == "gptq":
        tensor = gptq(weights, given, scheme, "w")
    losses = [error(weights, tensor, given)]
    for _ in range(3):
        tensor = refit(weights, given, tensor, 1)
        assert_in_domain(tensor)
        losses.append(error(weights, tensor, given))
    assert losses[1] < losses[0] * (0.98 if start == "gptq" else 0.7)
    assert losses[2] <= losses[1] * (1 + 1e-5)
    assert losses[3] <= losses[2] * (1 + 1e-5)


def test_no_single_change_improves_what_refit_ends_with() -> None:
    weights, given, scheme = gaussian(3, 32), moments(32), Scheme(bits=3, group_size=16)
    tensor = refit(weights, given, gptq(weights, given, scheme, "w"), 12)
    hessian, found = given.hessian.double().numpy(), tensor.dequantize().astype(np.float64)
    least = oracle.loss(weights.double().numpy(), found, hessian)
    for (o, i), code in np.ndenumerate(tensor.codes):
        for moved in (int(code) - 1, int(code) + 1):
            if 0 <= moved < scheme.levels:
                other = found.copy()
                other[o, i] += float(tensor.scales[o, i // 16]) * (moved - int(code))
                assert oracle.loss(weights.double().numpy(), other, hessian) >= least * (1 - 1e-4)
    for o, g in np.ndindex(*tensor.scales.shape):
        for factor in (0.98, 0.995, 1.005, 1.02):
            other = found.copy()
            other[o, 16 * g : 16 * g + 16] *= factor
            assert oracle.loss(weights.double().numpy(), other, hessian) >= least * (1 - 1e-3)


def test_refit_finds_scales_that_were_spoilt() -> None:
    weights, given = gaussian(), moments()
    scheme = Scheme(bits=8, group_size=16)
    exact = round_to_nearest(weights.numpy(), scheme, "w")
    target = torch.from_numpy(exact.dequantize())
    spoilt = replace(exact, scales=exact.scales * np.float32(1.01))
    assert error(target, spoilt, given) > 1e-5
    assert error(target, refit(target, given, spoilt, 3), given) < 1e-7


def test_refit_changes_nothing_without_rounds() -> None:
    weights, given = gaussian(), moments()
    for scheme in SCHEMES:
        tensor = gptq(weights, given, scheme, "w")
        assert_same(refit(weights, given, tensor, 0), tensor)


# -- both -------------------------------------------------------------------------------------------------------------


def both(weights: Tensor, given: Moments, scheme: Scheme, name: str = "w") -> QuantizedTensor:
    return refit(weights, given, gptq(weights, given, scheme, name), 2, name=name)


@every_scheme
def test_groups_by_input_and_back(scheme: Scheme) -> None:
    groups = group(gaussian().numpy(), scheme)
    laid_out = by_input(groups, groups.values)
    torch.testing.assert_close(laid_out[:88].t(), gaussian())
    torch.testing.assert_close(by_group(groups, laid_out), groups.values)
    tensor = search_scales(gaussian().numpy(), scheme, "w")
    grid, integers = disassemble(tensor)
    padded = torch.nn.functional.pad(integers, (0, 0, 0, len(laid_out) - 88))
    assert_same(assemble(groups, grid, by_group(groups, padded)), tensor)


@every_scheme
def test_rows_may_come_in_any_order(scheme: Scheme) -> None:
    weights, given = gaussian(), moments()
    order = np.random.default_rng(3).permutation(len(weights))
    whole, permuted = both(weights, given, scheme), both(weights[torch.from_numpy(order)], given, scheme)
    assert_same(permuted, replace_rows(whole, order))


def replace_rows(tensor: QuantizedTensor, order: npt.NDArray[np.intp]) -> QuantizedTensor:
    zero_points = None if tensor.zero_points is None else tensor.zero_points[order]
    return replace(tensor, codes=tensor.codes[order], scales=tensor.scales[order], zero_points=zero_points)


@every_scheme
def test_twice_the_weights_and_other_units_of_the_inputs(scheme: Scheme) -> None:
    weights, given = gaussian(), moments()
    once, twice = both(weights, given, scheme), both(2 * weights, given, scheme)
    np.testing.assert_array_equal(twice.codes, once.codes)
    np.testing.assert_array_equal(twice.scales, 2 * once.scales)
    assert_same(both(weights, replace(given, hessian=4 * given.hessian), scheme), once)


def test_inputs_of_one_group_may_come_in_any_order() -> None:
    """Only to rounding: sums are added up in another order."""
    weights, given, scheme = gaussian(6, 64), moments(64), Scheme(bits=3)
    random = np.random.default_rng(3)
    order = torch.from_numpy(np.concatenate([random.permutation(32), 32 + random.permutation(32)]))
    permuted = both(weights[:, order], replace(given, hessian=given.hessian[order][:, order]), scheme)
    whole = both(weights, given, scheme)
    assert (permuted.codes == whole.codes[:, order.numpy()]).mean() > 0.9
    assert error(weights[:, order], permuted, replace(given, hessian=given.hessian[order][:, order])) == pytest.approx(
        error(weights, whole, given), rel=0.03
    )


@every_scheme
def test_inputs_that_no_token_used_are_rounded(scheme: Scheme) -> None:
    weights, given = gaussian(), moments()
    dead = torch.arange(88) % 3 == 0
    hessian = given.hessian.clone()
    hessian[dead], hessian[:, dead] = 0.0, 0.0
    tensor = both(weights, replace(given, hessian=hessian), scheme)
    assert_in_domain(tensor)
    assert np.isfinite(tensor.dequantize()).all()
    nothing = both(weights, replace(given, hessian=torch.zeros(88, 88)), scheme)
    groups = group(weights.numpy(), scheme)
    assert_same(nothing, assemble(groups, disassemble(nothing)[0], nearest(groups, disassemble(nothing)[0])))


@every_scheme
@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-30, -5.0, 1e30])
def test_constant_weights(scheme: Scheme, value: float) -> None:
    if scheme.scale_dtype == "float16" and value > 1e4:
        value = 1e4
    tensor = both(torch.full((3, 88), value), moments(), scheme)
    assert_in_domain(tensor)
    assert np.isfinite(tensor.dequantize()).all()


def test_a_single_token_is_enough() -> None:
    x = activations(88, 1)
    sums = MomentSums(88, cross=False)
    sums.add(x, x)
    tensor = both(gaussian(), sums.result(), Scheme(bits=2))
    assert_in_domain(tensor)
    assert error(gaussian(), tensor, sums.result()) < 0.01


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 3e38])
def test_weights_and_inputs_that_are_none_are_refused(bad: float) -> None:
    weights, given = gaussian(), moments()
    weights[3, 5], weights[3, 6] = bad, -3e38
    with pytest.raises(CorruptInputError, match="'head'"):
        gptq(weights, given, Scheme(bits=4), "head")
    if bad < 1e39:
        return
    given.hessian[2, 2] = bad
    with pytest.raises(CorruptInputError, match="inputs of 'head'"):
        gptq(gaussian(), given, Scheme(bits=4), "head")
    plain = round_to_nearest(gaussian().numpy(), Scheme(bits=4), "w")
    with pytest.raises(CorruptInputError, match="inputs of 'head'"):
        refit(gaussian(), given, plain, name="head")


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="gptq"):
        gptq(gaussian(), moments(), Scheme(bits=4, symmetric=True, codebook="nf4"), "w")
    with pytest.raises(InternalError, match=r"\(88, 88\)"):
        gptq(gaussian(), moments(40), Scheme(bits=4), "w")


def test_the_inputs_are_left_alone() -> None:
    weights, given = gaussian(), moments()
    tensor = gptq(weights, given, Scheme(bits=4), "w")
    kept = replace(tensor, codes=tensor.codes.copy(), scales=tensor.scales.copy())
    refit(weights, given, tensor)
    torch.testing.assert_close(weights, gaussian(), rtol=0, atol=0)
    torch.testing.assert_close(given.hessian, moments().hessian, rtol=0, atol=0)
    assert_same(tensor, kept)
