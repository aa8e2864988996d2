"""GPTQ and refit of palettes and NormalFloat: against the textbook, and what each promises."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from edgeq.core.scheme import ScaleDtype, Scheme
from edgeq.core.tensor import QuantizedTensor
from edgeq.errors import CorruptInputError, InternalError, UsageError
from edgeq.quantization import codebook_grid
from edgeq.quantization.codebook_gptq import gptq_codebook
from edgeq.quantization.codebook_refit import calibrated_codebook, refit_codebook
from edgeq.quantization.grid import stack
from edgeq.quantization.moments import Moments, MomentSums, corrected, loss
from edgeq.quantization.nf4 import quantize_nf4, search_nf4
from edgeq.quantization.palette import fit_palettes
from edgeq.quantization.rtn import round_to_nearest
from tests.oracles import clusters
from tests.oracles import codebooks as oracle
from tests.quantization.calibration_data import activations, gaussian, moments

PALETTE = Scheme(bits=4, group_size=None, symmetric=True, codebook="palette", palette_rows=4)
NF4 = Scheme(bits=4, group_size=32, symmetric=True, codebook="nf4")
SCHEMES = [
    PALETTE,
    replace(PALETTE, bits=3, palette_rows=None),
    replace(PALETTE, bits=2, palette_rows=5, scale_dtype="float16"),
    replace(PALETTE, bits=2, palette_rows=1),
    replace(PALETTE, bits=8, palette_rows=None, scale_dtype="bfloat16"),
    NF4,
    replace(NF4, group_size=None, scale_dtype="float16"),
]
every_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=Scheme.label)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def plain(weights: Tensor, scheme: Scheme) -> QuantizedTensor:
    return (quantize_nf4 if scheme.codebook == "nf4" else fit_palettes)(weights.numpy(), scheme, "w")


def error(weights: Tensor, tensor: QuantizedTensor, given: Moments) -> float:
    return loss(weights, torch.from_numpy(tensor.dequantize()), given)


def codebook(tensor: QuantizedTensor) -> oracle.Doubles:
    """A table for each row."""
    assert tensor.codebook is not None
    shared = tensor.scheme.palette_rows or len(tensor.codes)
    return np.repeat(tensor.codebook, shared, axis=0)[: len(tensor.codes)].astype(np.float64)


def assert_same(actual: QuantizedTensor, expected: QuantizedTensor) -> None:
    np.testing.assert_array_equal(actual.codes, expected.codes)
    np.testing.assert_array_equal(actual.scales, expected.scales)
    np.testing.assert_array_equal(codebook(actual), codebook(expected))


def assert_in_domain(tensor: QuantizedTensor) -> None:
    assert tensor.codes.max(initial=0) < tensor.scheme.levels
    assert tensor.codebook is not None
    assert (np.diff(tensor.codebook, axis=1) >= 0).all()
    for values in (tensor.scales, tensor.codebook):
        assert np.isfinite(values).all()
        exact = torch.from_numpy(values).to(getattr(torch, tensor.scheme.scale_dtype)).float().numpy()
        np.testing.assert_array_equal(exact, values)
    if tensor.scheme.codebook == "palette":
        assert (tensor.scales == 1).all()
    else:
        assert (tensor.scales > 0).all()
        assert tensor.codebook.shape == (1, 16)


# -- where both start -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_weighted_palettes_are_near_the_best_clusters(bits: int) -> None:
    weights = np.random.default_rng(2).standard_t(4, (1, 1200)).astype(np.float32)
    importance = np.exp(np.random.default_rng(3).standard_normal(1200)).astype(np.float32)
    scheme = replace(PALETTE, bits=bits)
    best = clusters.least_error(weights, 2**bits, importance)

    def weighted(tensor: QuantizedTensor) -> float:
        return float((np.square(tensor.dequantize().astype(np.float64) - weights) * importance).sum())

    found = weighted(fit_palettes(weights, scheme, "w", importance))
    assert best * (1 - 1e-4) <= found <= 1.01 * best
    assert found < 0.98 * weighted(fit_palettes(weights, scheme, "w"))


def test_equal_importance_is_none() -> None:
    weights = gaussian().numpy()
    same = fit_palettes(weights, PALETTE, "w", np.full(88, 0.25, np.float32))
    assert_same(same, fit_palettes(weights, PALETTE, "w"))


def test_no_group_of_nf4_is_worse_than_with_its_largest_weight_as_scale() -> None:
    weights, importance = gaussian(), moments().hessian.diagonal()
    found, before = search_nf4(weights.numpy(), importance, NF4, "w"), plain(weights, NF4)
    assert_in_domain(found)
    for start in range(0, 88, 32):
        part = slice(start, start + 32)
        losses = [
            (np.square(tensor.dequantize() - weights.numpy())[:, part] * importance.numpy()[part]).sum(axis=1)
            for tensor in (found, before)
        ]
        assert (losses[0] <= losses[1] * (1 + 1e-5)).all()
    diagonal = Moments(hessian=torch.diag(importance), cross=None, tokens=1)
    assert error(weights, found, diagonal) < 0.8 * error(weights, before, diagonal)


# -- GPTQ -------------------------------------------------------------------------------------------------------------


@every_scheme
@pytest.mark.parametrize("inputs", [88, 160])  # one block, and more than one
def test_gptq_is_the_textbook(scheme: Scheme, inputs: int) -> None:
    weights, given = gaussian(6, inputs), moments(inputs)
    tensor = gptq_codebook(weights, given, scheme, "w")
    assert_in_domain(tensor)
    scales = np.repeat(tensor.scales.astype(np.float64), scheme.group_size or inputs, axis=1)[:, :inputs]
    tables = codebook(tensor)
    codes = oracle.feed_back(weights.double().numpy(), given.hessian.double().numpy(), tables, scales)
    # Ties in float32 fall otherwise in float64, and what follows in that row differs too.
    assert (codes == tensor.codes).all(axis=1).mean() >= (0.3 if scheme.bits == 8 else 0.8)
    expected = torch.from_numpy(np.take_along_axis(tables, codes, axis=1) * scales)
    assert error(weights, tensor, given) == pytest.approx(loss(weights, expected, given), rel=0.02)


@every_scheme
def test_gptq_beats_the_nearest_entries_of_its_own_tables(scheme: Scheme) -> None:
    weights, given = gaussian(), moments()
    tensor = gptq_codebook(weights, given, scheme, "w")
    scales = np.repeat(tensor.scales, scheme.group_size or 88, axis=1)[:, :88]
    distances = np.abs(codebook(tensor)[:, None, :] * scales[:, :, None] - weights.numpy()[:, :, None])
    nearest = replace(tensor, codes=distances.argmin(axis=2).astype(np.uint8))
    assert error(weights, tensor, given) < 0.7 * error(weights, nearest, given)
    assert error(weights, tensor, given) < 0.7 * error(weights, plain(weights, scheme), given)


@every_scheme
def test_without_correlation_gptq_rounds(scheme: Scheme) -> None:
    weights = gaussian()
    given = Moments(hessian=torch.diag(torch.rand(88, generator=torch.manual_seed(0)) + 0.1), cross=None, tokens=1)
    tensor = gptq_codebook(weights, given, scheme, "w")
    scales = np.repeat(tensor.scales, scheme.group_size or 88, axis=1)[:, :88]
    distances = np.abs(codebook(tensor)[:, None, :] * scales[:, :, None] - weights.numpy()[:, :, None])
    found = np.abs(tensor.dequantize() - weights.numpy())
    np.testing.assert_allclose(found, distances.min(axis=2), rtol=0, atol=1e-8)


def test_a_cross_moment_corrects_the_weights() -> None:
    x, weights = activations(32, 2000), gaussian(6, 32)
    sums = MomentSums(32)
    sums.add(x, x + 0.3 * activations(32, 2000, seed=5))
    given = sums.result()
    corrections = corrected(weights, given)
    expected = calibrated_codebook(corrections, replace(given, cross=None), PALETTE, "w")
    assert_same(calibrated_codebook(weights, given, PALETTE, "w"), expected)


# -- refit ------------------------------------------------------------------------------------------------------------


@every_scheme
@pytest.mark.parametrize("start", ["plain", "gptq"])
def test_refit_improves_every_round(scheme: Scheme, start: str) -> None:
    weights, given = gaussian(), moments()
    tensor = plain(weights, scheme) if start == "plain" else gptq_codebook(weights, given, scheme, "w")
    losses = [error(weights, tensor, given)]
    for _ in range(3):
        tensor = refit_codebook(weights, given, tensor, 1)
        assert_in_domain(tensor)
        losses.append(error(weights, tensor, given))
    assert losses[1] < losses[0] * (0.98 if start == "gptq" else 0.7)
    assert losses[2] <= losses[1] * (1 + 1e-5)
    assert losses[3] <= losses[2] * (1 + 1e-5)


@pytest.mark.parametrize("scheme", [replace(PALETTE, bits=2, palette_rows=2), replace(NF4, group_size=16)])
def test_no_single_change_improves_what_refit_ends_with(scheme: Scheme) -> None:
    weights, given = gaussian(4, 32), moments(32)
    tensor = calibrated_codebook(weights, given, scheme, "w")
    tensor = refit_codebook(weights, given, tensor, 20)
    wanted, hessian, codes = weights.double().numpy(), given.hessian.double().numpy(), tensor.codes.astype(np.int64)
    tables, scales = codebook(tensor), np.repeat(tensor.scales.astype(np.float64), scheme.group_size or 32, axis=1)
    found = np.take_along_axis(tables, codes, axis=1) * scales
    rows = wanted - found
    least = np.einsum("oi,ij,oj->o", rows, hessian, rows)
    for (o, i), code in np.ndenumerate(codes):
        for other in range(scheme.levels):
            row = rows[o].copy()
            row[i] -= (tables[o, other] - tables[o, code]) * scales[o, i]
            assert row @ hessian @ row >= least[o] * (1 - 1e-4)
    best = np.empty_like(found)
    for start in range(0, 4, 2):
        part = slice(start, start + 2)
        if scheme.codebook == "palette":
            best[part] = oracle.best_table(wanted[part], hessian, codes[part], scheme.levels)[codes[part]]
        else:
            for o in (start, start + 1):
                levels = tables[o][codes[o]]
                best[o] = levels * np.repeat(oracle.best_scales(wanted[o], hessian, levels, 16), 16)
    bound = np.einsum("oi,ij,oj->", wanted - best, hessian, wanted - best)
    assert bound * (1 - 1e-6) <= least.sum() <= bound * (1 + 1e-4)


@every_scheme
def test_refit_finds_tables_and_scales_that_were_spoilt(scheme: Scheme) -> None:
    weights, given = gaussian(), moments()
    exact = plain(weights, replace(scheme, scale_dtype="float32"))
    target = torch.from_numpy(exact.dequantize())
    factor = np.float32(1.03)
    spoilt = replace(exact, scales=exact.scales * factor)
    if scheme.codebook == "palette":
        assert exact.codebook is not None
        spoilt = replace(exact, codebook=exact.codebook * factor)
    found = refit_codebook(target, given, spoilt)
    assert error(target, found, given) < 0.02 * error(target, spoilt, given)


@every_scheme
def test_refit_changes_nothing_without_rounds(scheme: Scheme) -> None:
    tensor = gptq_codebook(gaussian(), moments(), scheme, "w")
    assert_same(refit_codebook(gaussian(), moments(), tensor, 0), tensor)


def test_a_refit_too_large_for_its_dtype_is_not_taken() -> None:
    weights = torch.full((4, 88), 6e4)
    weights[:, ::2] = -6e4
    scheme = replace(PALETTE, bits=2, scale_dtype="float16")
    tensor = fit_palettes((weights / 2).numpy(), scheme, "w")
    assert_in_domain(refit_codebook(weights * 3, moments(), tensor))


# -- both -------------------------------------------------------------------------------------------------------------


@every_scheme
def test_every_group_of_rows_has_the_table_that_it_has_alone(scheme: Scheme, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, given = gaussian(13), moments()
    whole = calibrated_codebook(weights, given, scheme, "w")
    together = 1 if scheme.codebook == "nf4" else scheme.palette_rows or 13
    alone = [calibrated_codebook(part, given, scheme, "w") for part in torch.split(weights, together)]
    assert scheme.codebook == "nf4" or sum(len(part.codebook) for part in alone if part.codebook is not None) == (
        scheme.tables(13)
    )
    losses = [sum(error_of(weights, start, tensors, given) for start, tensors in pieces(alone)), 0.0]
    losses[1] = error_of(weights, 0, whole, given)
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)  # products of other shapes round otherwise
    monkeypatch.setattr(codebook_grid, "ROWS", 6)
    in_parts = calibrated_codebook(weights, given, scheme, "w")
    assert (in_parts.codes == whole.codes).mean() > 0.95
    assert error_of(weights, 0, in_parts, given) == pytest.approx(losses[1], rel=2e-3)


def pieces(tensors: list[QuantizedTensor]) -> Iterator[tuple[int, QuantizedTensor]]:
    start = 0
    for tensor in tensors:
        yield start, tensor
        start += len(tensor.codes)


def error_of(weights: Tensor, start: int, tensor: QuantizedTensor, given: Moments) -> float:
    """Absolute, of the rows from `start` on."""
    missed = weights[start : start + len(tensor.codes)].double() - torch.from_numpy(tensor.dequantize())
    return float(((missed @ given.hessian.double()) * missed).sum())


@every_scheme
def test_twice_the_weights_and_other_units_of_the_inputs(scheme: Scheme) -> None:
    weights, given = gaussian(), moments()
    once, twice = (calibrated_codebook(factor * weights, given, scheme, "w") for factor in (1, 2))
    np.testing.assert_array_equal(twice.codes, once.codes)
    np.testing.assert_array_equal(twice.dequantize(), 2 * once.dequantize())
    assert_same(calibrated_codebook(weights, replace(given, hessian=4 * given.hessian), scheme, "w"), once)


@every_scheme
@pytest.mark.parametrize("scale_dtype", ["float32", "float16", "bfloat16"])
def test_every_number_is_exact_in_its_dtype(scheme: Scheme, scale_dtype: ScaleDtype) -> None:
    assert_in_domain(calibrated_codebook(gaussian(), moments(), replace(scheme, scale_dtype=scale_dtype), "w"))


@every_scheme
def test_inputs_that_no_token_used(scheme: Scheme) -> None:
    weights, given = gaussian(), moments()
    dead = torch.arange(88) % 3 == 0
    hessian = given.hessian.clone()
    hessian[dead], hessian[:, dead] = 0.0, 0.0
    for factor in (1e-6, 1.0):
        tensor = calibrated_codebook(weights, replace(given, hessian=factor * hessian), scheme, "w")
        assert_in_domain(tensor)
        without = replace(given, hessian=factor * hessian[~dead][:, ~dead])
        used = loss(weights[:, ~dead], torch.from_numpy(tensor.dequantize())[:, ~dead], without)
        assert used < 0.7 * error(weights, plain(weights, scheme), replace(given, hessian=hessian))
        missed = np.abs(tensor.dequantize() - weights.numpy())[:, dead.numpy()]
        assert missed.mean() < np.abs(weights.numpy()).mean()
    assert_in_domain(calibrated_codebook(weights, replace(given, hessian=torch.zeros(88, 88)), scheme, "w"))


@every_scheme
@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-30, -5.0, 1e4])
def test_constant_weights(scheme: Scheme, value: float) -> None:
    weights = torch.full((3, 88), value)
    tensor = calibrated_codebook(weights, moments(), scheme, "w")
    assert_in_domain(tensor)
    np.testing.assert_allclose(tensor.dequantize(), weights.numpy(), rtol=1e-2, atol=1e-6)


def test_a_single_token_and_a_single_weight_are_enough() -> None:
    x = activations(88, 1)
    sums = MomentSums(88, cross=False)
    sums.add(x, x)
    tensor = calibrated_codebook(gaussian(), sums.result(), replace(PALETTE, bits=2), "w")
    assert error(gaussian(), tensor, sums.result()) < 0.01
    for scheme in (PALETTE, NF4):
        one = calibrated_codebook(
            torch.tensor([[0.25]]), Moments(hessian=torch.ones(1, 1), cross=None, tokens=1), scheme, "w"
        )
        np.testing.assert_allclose(one.dequantize(), [[0.25]], rtol=1e-6)


@every_scheme
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 3e38])
def test_weights_that_are_none_are_refused(scheme: Scheme, bad: float) -> None:
    weights = gaussian()
    weights[3, 5], weights[3, 6] = bad, -3e38
    with pytest.raises(CorruptInputError, match="'head'"):
        calibrated_codebook(weights, moments(), scheme, "head")


def test_inputs_that_are_none_are_refused() -> None:
    given = moments()
    given.hessian[2, 2] = float("nan")
    with pytest.raises(CorruptInputError, match="inputs of 'head'"):
        gptq_codebook(gaussian(), given, PALETTE, "head")
    with pytest.raises(CorruptInputError, match="inputs of 'head'"):
        refit_codebook(gaussian(), given, plain(gaussian(), PALETTE), name="head")
    with pytest.raises(InternalError, match=r"\(88, 88\)"):
        gptq_codebook(gaussian(), moments(40), PALETTE, "w")


def test_schemes_without_a_codebook_are_refused() -> None:
    with pytest.raises(UsageError, match="no codebook"):
        gptq_codebook(gaussian(), moments(), Scheme(bits=4), "w")
    with pytest.raises(UsageError, match="no codebook"):
        refit_codebook(gaussian(), moments(), round_to_nearest(gaussian().numpy(), Scheme(bits=4), "w"))


@every_scheme
def test_the_inputs_are_left_alone(scheme: Scheme) -> None:
    weights, given = gaussian(), moments()
    tensor = gptq_codebook(weights, given, scheme, "w")
    kept = stack([replace(tensor, codes=tensor.codes.copy(), scales=tensor.scales.copy())])
    refit_codebook(weights, given, tensor)
    torch.testing.assert_close(weights, gaussian(), rtol=0, atol=0)
    torch.testing.assert_close(given.hessian, moments().hessian, rtol=0, atol=0)
    assert_same(tensor, kept)
