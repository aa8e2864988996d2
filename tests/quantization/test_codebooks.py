"""NormalFloat and palettes: against the papers, against the best clusters, and what both promise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from edgeq.core.scheme import ScaleDtype, Scheme
from edgeq.core.tensor import QuantizedTensor
from edgeq.errors import CorruptInputError
from edgeq.quantization.nf4 import LEVELS, dynamic_levels, quantize_nf4, quantize_scales_again
from edgeq.quantization.palette import fit_palettes
from edgeq.quantization.rtn import round_to_nearest
from tests.oracles import clusters, nf4

Matrix = npt.NDArray[np.float32]
NF4 = Scheme(bits=4, group_size=32, symmetric=True, codebook="nf4")
PALETTE = Scheme(bits=4, group_size=None, symmetric=True, codebook="palette", palette_rows=8)
SCHEMES = [
    NF4,
    replace(NF4, group_size=None),
    PALETTE,
    replace(PALETTE, palette_rows=1),
    replace(PALETTE, palette_rows=None),
    replace(PALETTE, bits=8),
]
every_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=Scheme.label)
every_dtype = pytest.mark.parametrize("scale_dtype", ["float32", "float16", "bfloat16"])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def gaussian(outputs: int = 20, inputs: int = 90, seed: int = 0) -> Matrix:
    return (np.random.default_rng(seed).standard_normal((outputs, inputs)) * 0.05).astype(np.float32)


def quantize(weights: Matrix, scheme: Scheme) -> QuantizedTensor:
    return (quantize_nf4 if scheme.codebook == "nf4" else fit_palettes)(weights, scheme, "head")


def codebook(tensor: QuantizedTensor) -> Matrix:
    assert tensor.codebook is not None
    return tensor.codebook


def squared_error(weights: Matrix, tensor: QuantizedTensor) -> float:
    return float(np.square(tensor.dequantize().astype(np.float64) - weights).sum())


# -- NormalFloat ------------------------------------------------------------------------------------------------------


def test_the_levels_are_the_quantiles_of_the_paper() -> None:
    np.testing.assert_allclose(LEVELS, nf4.levels(), rtol=0, atol=4e-7)
    np.testing.assert_array_equal(codebook(quantize(gaussian(), NF4)), np.array([LEVELS], np.float32))


@pytest.mark.parametrize("shape", [(6, 96), (3, 33), (1, 1), (2, 5)])
def test_nf4_is_the_textbook(shape: tuple[int, int]) -> None:
    weights = gaussian(*shape)
    codes, scales = nf4.quantize(weights, np.array(LEVELS, np.float32), 32)
    tensor = quantize(weights, NF4)
    np.testing.assert_array_equal(tensor.codes, codes)
    np.testing.assert_array_equal(tensor.scales, scales)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_nf4_is_that_of_bitsandbytes(dtype: str) -> None:
    """Made once by bitsandbytes 0.50.2 on a CPU, from normal weights: `quantize_4bit(weights, blocksize=32,
    quant_type="nf4")`, and its scales again with `compress_statistics=True`."""
    with np.load(Path(__file__).with_name("bitsandbytes_nf4.npz")) as golden:
        bits = torch.from_numpy(golden[f"{dtype}.weights"])
        packed, scales, again = (golden[f"{dtype}.{part}"] for part in ("codes", "scales", "double_scales"))
    tensor = quantize(bits.view(getattr(torch, dtype)).float().numpy(), NF4)
    np.testing.assert_array_equal(tensor.codes[:, ::2], packed >> 4)
    np.testing.assert_array_equal(tensor.codes[:, 1::2], packed & 15)
    np.testing.assert_array_equal(tensor.scales, scales)
    twice = quantize_scales_again(tensor)
    np.testing.assert_array_equal(twice.scales, again)
    np.testing.assert_array_equal(twice.codes, tensor.codes)


def test_scales_quantized_again_stay_near() -> None:
    levels = dynamic_levels()
    assert len(levels) == 256
    assert bool((levels.diff() > 0).all())
    tensor = quantize(gaussian(40, 320), NF4)
    twice = quantize_scales_again(tensor).scales
    assert 0 < np.abs(twice - tensor.scales).max() < 0.02 * np.ptp(tensor.scales)
    same = replace(tensor, scales=np.full_like(tensor.scales, 0.25))
    np.testing.assert_array_equal(quantize_scales_again(same).scales, same.scales)


def test_nf4_suits_normal_weights_better_than_a_symmetric_grid() -> None:
    weights = gaussian(32, 256)
    grid = round_to_nearest(weights, Scheme(bits=4, group_size=64, symmetric=True), "w")
    assert squared_error(weights, quantize(weights, replace(NF4, group_size=64))) < squared_error(weights, grid)


@every_dtype
@pytest.mark.parametrize("factor", [1e-9, 1e-5, 1.0, 1e3])
def test_a_zero_weight_stays_zero_and_the_largest_is_the_scale(scale_dtype: ScaleDtype, factor: float) -> None:
    weights = gaussian() * np.float32(factor)
    weights[:, ::3] = 0.0
    weights[4] = 0.0
    tensor = quantize(weights, replace(NF4, group_size=None, scale_dtype=scale_dtype))
    assert (tensor.dequantize()[weights == 0] == 0).all()
    assert (tensor.scales > 0).all()
    if factor >= 1:  # float16 holds small numbers coarsely
        np.testing.assert_allclose(tensor.scales[5:, 0], np.abs(weights[5:]).max(axis=1), rtol=0.02)


# -- palettes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "weights",
    [
        np.random.default_rng(0).standard_normal((1, 1500)),
        np.random.default_rng(1).exponential(1.0, (1, 1500)),
        np.random.default_rng(2).standard_t(4, (1, 1500)),
        np.random.default_rng(3).random((1, 1500)),
        np.random.default_rng(4).standard_normal((1, 1500)) * (np.arange(1500) % 2),
    ],
    ids=["normal", "exponential", "student", "uniform", "half zeros"],
)
def test_a_palette_is_near_the_best_clusters(weights: Matrix) -> None:
    weights = weights.astype(np.float32)
    best = clusters.least_error(weights, 16)
    assert best * (1 - 1e-4) <= squared_error(weights, quantize(weights, PALETTE)) <= 1.06 * best


def test_a_palette_beats_normal_levels_over_the_same_rows() -> None:
    weights = np.random.default_rng(1).exponential(1.0, (16, 64)).astype(np.float32)
    per_channel = quantize(weights, replace(NF4, group_size=None))
    assert squared_error(weights, quantize(weights, PALETTE)) < 0.5 * squared_error(weights, per_channel)


def test_more_tables_fit_better() -> None:
    weights = gaussian(64, 64) * np.geomspace(1, 50, 64, dtype=np.float32)[:, None]
    errors = [squared_error(weights, quantize(weights, replace(PALETTE, palette_rows=r))) for r in (1, 4, 16, None)]
    assert errors == sorted(errors)


@pytest.mark.parametrize("rows", [1, 8, 16, 20, 50, None])
def test_every_group_of_rows_has_the_table_that_it_has_alone(rows: int | None) -> None:
    weights = gaussian()
    scheme = replace(PALETTE, palette_rows=rows)
    tensor = quantize(weights, scheme)
    together = rows or len(weights)
    assert len(codebook(tensor)) == scheme.tables(len(weights))
    for table, start in enumerate(range(0, len(weights), together)):
        alone = quantize(weights[start : start + together], scheme)
        np.testing.assert_array_equal(codebook(alone)[0], codebook(tensor)[table])
        np.testing.assert_array_equal(alone.codes, tensor.codes[start : start + together])


def test_the_order_of_the_weights_does_not_matter() -> None:
    weights = gaussian(8)
    shuffled = np.random.default_rng(5).permutation(weights.ravel()).reshape(weights.shape)
    np.testing.assert_array_equal(codebook(quantize(shuffled, PALETTE)), codebook(quantize(weights, PALETTE)))


@pytest.mark.parametrize("values", [[0.0], [-0.25], [0.5, -3.0], [1e-45, 2e38, 3e38], [float(v) for v in range(16)]])
@pytest.mark.parametrize("scheme", [PALETTE, replace(PALETTE, bits=8)], ids=Scheme.label)
def test_few_different_weights_are_kept(values: list[float], scheme: Scheme) -> None:
    random = np.random.default_rng(0)
    weights = random.choice(np.array(values, np.float32), (12, 30), p=random.dirichlet(np.ones(len(values))))
    np.testing.assert_array_equal(quantize(weights, scheme).dequantize(), weights)


@every_dtype
def test_palettes_stay_as_they_are(scale_dtype: ScaleDtype) -> None:
    scheme = replace(PALETTE, scale_dtype=scale_dtype)
    once = quantize(gaussian(), scheme).dequantize()
    np.testing.assert_array_equal(quantize(once, scheme).dequantize(), once)


# -- both -------------------------------------------------------------------------------------------------------------


@every_scheme
@every_dtype
def test_numbers_are_exact_in_their_dtype_and_codes_are_the_nearest(scheme: Scheme, scale_dtype: ScaleDtype) -> None:
    weights = gaussian()
    tensor = quantize(weights, replace(scheme, scale_dtype=scale_dtype))
    for values in (tensor.scales, codebook(tensor)):
        assert values.dtype == np.float32
        rounded = torch.from_numpy(values).to(getattr(torch, scale_dtype)).float().numpy()
        np.testing.assert_array_equal(rounded, values)
    assert tensor.codes.dtype == np.uint8
    tables = np.repeat(codebook(tensor), scheme.palette_rows or len(weights), axis=0)[: len(weights)]
    scales = np.repeat(tensor.scales, scheme.group_size or weights.shape[1], axis=1)[:, : weights.shape[1]]
    distances = np.abs(tables[:, None, :] * scales[:, :, None] - weights[:, :, None])
    np.testing.assert_allclose(np.abs(tensor.dequantize() - weights), distances.min(axis=2), rtol=0, atol=1e-8)
    if not scheme.palette_rows:
        assert len(codebook(tensor)) == 1


@every_scheme
@pytest.mark.parametrize("factor", [0.25, -1.0, 2.0])
def test_twice_the_weights_twice_the_values(scheme: Scheme, factor: float) -> None:
    weights, by = gaussian(), np.float32(factor)
    scaled = quantize(by * weights, scheme)
    if factor > 0:
        np.testing.assert_array_equal(scaled.dequantize(), by * quantize(weights, scheme).dequantize())
    elif scheme.codebook == "palette":  # the levels of NormalFloat are no mirror image of themselves
        ratio = squared_error(by * weights, scaled) / squared_error(weights, quantize(weights, scheme))
        assert ratio == pytest.approx(1.0, abs=0.02)


@every_scheme
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_weights_that_are_no_weights_are_refused(scheme: Scheme, bad: float) -> None:
    weights = gaussian()
    weights[7, 3] = bad
    weights[7, 4] = -3e38
    with pytest.raises(CorruptInputError, match="'head'"):
        quantize(weights, scheme)


@every_scheme
def test_weights_that_float16_cannot_hold_are_refused(scheme: Scheme) -> None:
    with pytest.raises(CorruptInputError, match="float16"):
        quantize(np.full((2, 40), 7e4, np.float32), replace(scheme, scale_dtype="float16"))


@every_scheme
def test_the_input_is_left_alone(scheme: Scheme) -> None:
    weights = gaussian()
    weights.flags.writeable = False
    quantize(weights, scheme)
    np.testing.assert_array_equal(weights, gaussian())
