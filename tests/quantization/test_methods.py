"""The contract that every method keeps, and what each promises beyond it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch

from edgeq.core.scheme import Codebook, Scheme
from edgeq.core.tensor import QuantizedTensor
from edgeq.errors import CorruptInputError, UnknownNameError, UsageError
from edgeq.quantization.methods import CODEBOOKS, METHODS, function_for, resolve_method
from tests.oracles import grid_search, hqq, rtn

Matrix = npt.NDArray[np.float32]
SCHEMES = [
    Scheme(bits=bits, group_size=group_size, symmetric=symmetric)
    for bits in (2, 3, 4, 8)
    for group_size in (16, 32, None)
    for symmetric in (False, True)
]
every_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=Scheme.label)
every_method = pytest.mark.parametrize("method", [name for name in METHODS if name not in CODEBOOKS])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def gaussian(outputs: int = 24, inputs: int = 172, seed: int = 0) -> Matrix:
    return (np.random.default_rng(seed).standard_normal((outputs, inputs)) * 0.05).astype(np.float32)


def skewed(outputs: int = 24, inputs: int = 128) -> Matrix:
    return (np.random.default_rng(1).exponential(1.0, (outputs, inputs)) * 0.05 - 0.02).astype(np.float32)


def group_errors(weights: Matrix, tensor: QuantizedTensor) -> npt.NDArray[np.float64]:
    """Sum of squared errors per `[row, group]`."""
    errors = np.square(tensor.dequantize().astype(np.float64) - weights)
    size = tensor.scheme.group_size or weights.shape[1]
    padded = np.pad(errors, ((0, 0), (0, -weights.shape[1] % size)))
    return np.asarray(padded.reshape(len(weights), -1, size).sum(axis=2))


def assert_same(actual: QuantizedTensor, expected: QuantizedTensor) -> None:
    np.testing.assert_array_equal(actual.codes, expected.codes)
    np.testing.assert_array_equal(actual.scales, expected.scales)
    if expected.zero_points is None:
        assert actual.zero_points is None
    else:
        np.testing.assert_array_equal(actual.zero_points, expected.zero_points)


def assert_in_domain(tensor: QuantizedTensor) -> None:
    assert tensor.codes.dtype == np.uint8
    assert tensor.codes.max(initial=0) < tensor.scheme.levels
    assert tensor.scales.dtype == np.float32
    assert np.isfinite(tensor.scales).all()
    assert (tensor.scales != 0).all()
    if tensor.zero_points is not None:
        assert tensor.zero_points.dtype == np.uint8
        assert tensor.zero_points.max(initial=0) < tensor.scheme.levels


# -- against the oracles ----------------------------------------------------------------------------------------------


@every_scheme
@pytest.mark.parametrize("weights", [gaussian(), skewed(), gaussian(3, 1), gaussian(1, 33)], ids=lambda w: str(w.shape))
def test_rtn_is_the_textbook(weights: Matrix, scheme: Scheme) -> None:
    assert_same(METHODS["rtn"](weights, scheme, "w"), rtn.round_to_nearest(weights, scheme))


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("weights", "tolerance"), [(gaussian(12, 128), 1.02), (skewed(12, 128), 1.02)])
def test_mse_is_near_an_exhaustive_search(weights: Matrix, tolerance: float, symmetric: bool, bits: int) -> None:
    scheme = Scheme(bits=bits, group_size=32, symmetric=symmetric)
    found = group_errors(weights, METHODS["mse"](weights, scheme, "w")).sum()
    best = sum(grid_search.least_error(values, scheme) for values in weights.reshape(-1, 32))
    assert found <= tolerance * best


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("symmetric", [False, True])
def test_hqq_is_the_textbook(bits: int, symmetric: bool) -> None:
    weights = skewed(12, 128)
    scheme = Scheme(bits=bits, group_size=32, symmetric=symmetric)
    plain, found = METHODS["rtn"](weights, scheme, "w"), METHODS["hqq"](weights, scheme, "w")
    better = 0
    for at, (o, g) in enumerate(np.ndindex(*plain.scales.shape)):
        scale = float(plain.scales[o, g])
        zero = scheme.default_zero_point - (scale < 0) if plain.zero_points is None else int(plain.zero_points[o, g])
        values = weights.reshape(-1, 32)[at]
        best = hqq.least_error(values, abs(scale), zero, scheme.levels - 1, symmetric=symmetric)
        ours, of_rtn = (
            hqq.power((t.dequantize().reshape(-1, 32)[at] - values).astype(np.float64) / abs(scale))
            for t in (found, plain)
        )
        assert ours == pytest.approx(best, rel=0.01)  # scales are float32 here
        assert ours <= of_rtn * (1 + 1e-5)
        better += ours < 0.99 * of_rtn
    assert better > len(weights)


# -- not a no-op ------------------------------------------------------------------------------------------------------


@every_scheme
def test_mse_beats_rtn_on_skewed_weights(scheme: Scheme) -> None:
    weights = skewed()
    plain, searched = (group_errors(weights, METHODS[name](weights, scheme, "w")).sum() for name in ("rtn", "mse"))
    assert searched < (0.9999 if scheme.bits == 8 else 0.97) * plain


@every_scheme
@pytest.mark.parametrize("scale_dtype", ["float32", "float16", "bfloat16"])
def test_no_group_is_worse_than_with_rtn(scheme: Scheme, scale_dtype: str) -> None:
    scheme = Scheme(
        bits=scheme.bits,
        group_size=scheme.group_size,
        symmetric=scheme.symmetric,
        scale_dtype=scale_dtype,  # type: ignore[arg-type]
    )
    weights = np.concatenate([gaussian(inputs=128), skewed(), 30 * gaussian(inputs=128, seed=4) ** 3])
    plain, searched = (group_errors(weights, METHODS[name](weights, scheme, "w")) for name in ("rtn", "mse"))
    assert (searched <= plain * (1 + 1e-5)).all()


def test_symmetric_grids_put_the_extreme_weight_on_the_lowest_level() -> None:
    weights = gaussian(inputs=32)
    tensor = METHODS["rtn"](weights, Scheme(bits=4, symmetric=True), "w")
    extremes = np.argmax(np.abs(weights), axis=1)
    rows = np.arange(len(weights))
    assert (tensor.codes[rows, extremes] == 0).all()
    np.testing.assert_allclose(tensor.dequantize()[rows, extremes], weights[rows, extremes], rtol=1e-6)
    assert (tensor.scales < 0).any()
    assert (tensor.scales > 0).any()


# -- metamorphic ------------------------------------------------------------------------------------------------------


@every_method
@every_scheme
def test_rows_do_not_influence_one_another(method: str, scheme: Scheme) -> None:
    weights = gaussian()
    order = np.random.default_rng(2).permutation(len(weights))
    whole = METHODS[method](weights, scheme, "w")
    permuted = METHODS[method](np.ascontiguousarray(weights[order]), scheme, "w")
    alone = METHODS[method](weights[5:6], scheme, "w")
    np.testing.assert_array_equal(permuted.codes, whole.codes[order])
    np.testing.assert_array_equal(permuted.scales, whole.scales[order])
    np.testing.assert_array_equal(alone.codes, whole.codes[5:6])
    np.testing.assert_array_equal(alone.scales, whole.scales[5:6])


@every_method
@every_scheme
def test_twice_the_weights_twice_the_scales(method: str, scheme: Scheme) -> None:
    weights = gaussian()
    once, twice = METHODS[method](weights, scheme, "w"), METHODS[method](2 * weights, scheme, "w")
    np.testing.assert_array_equal(twice.codes, once.codes)
    np.testing.assert_array_equal(twice.scales, 2 * once.scales)


@every_method
@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if scheme.group_size], ids=Scheme.label)
def test_padding_a_short_group_with_zeros_changes_nothing(method: str, scheme: Scheme) -> None:
    weights = gaussian()
    assert scheme.group_size is not None
    padded = np.pad(weights, ((0, 0), (0, -weights.shape[1] % scheme.group_size)))
    short, full = METHODS[method](weights, scheme, "w"), METHODS[method](padded, scheme, "w")
    np.testing.assert_array_equal(full.codes[:, : weights.shape[1]], short.codes)
    np.testing.assert_array_equal(full.scales, short.scales)


# -- domain -----------------------------------------------------------------------------------------------------------


@every_method
@every_scheme
@pytest.mark.parametrize(
    "values",
    [0.0, 1e-45, -1e-45, 3e-39, 1e-30, -0.0, 5.0, -5.0, 1e30, -1e37],
    ids=str,
)
def test_constant_groups(method: str, scheme: Scheme, values: float) -> None:
    weights = np.full((3, 40), values, np.float32)
    tensor = METHODS[method](weights, scheme, "w")
    assert_in_domain(tensor)
    tolerance = 1e-6 * abs(values) + 2.4e-38  # denormal weights may become zero
    np.testing.assert_allclose(tensor.dequantize(), weights, rtol=0, atol=tolerance)


@every_method
@every_scheme
def test_weights_of_every_magnitude(method: str, scheme: Scheme) -> None:
    random = np.random.default_rng(3)
    weights = (random.standard_normal((16, 96)) * 10.0 ** random.uniform(-44, 30, (16, 96))).astype(np.float32)
    weights[random.random(weights.shape) < 0.2] = 0.0
    assert_in_domain(METHODS[method](weights, scheme, "w"))


@every_method
@every_scheme
def test_one_weight_is_kept(method: str, scheme: Scheme) -> None:
    weights = np.array([[0.3], [-0.7], [0.0]], np.float32)
    tensor = METHODS[method](weights, scheme, "w")
    assert_in_domain(tensor)
    np.testing.assert_allclose(tensor.dequantize(), weights, rtol=1e-6)


@every_method
def test_a_zero_weight_stays_zero(method: str) -> None:
    weights = np.where(np.random.default_rng(0).random((8, 64)) < 0.5, 0, gaussian(8, 64)).astype(np.float32)
    for scheme in SCHEMES:
        assert (METHODS[method](weights, scheme, "w").dequantize()[weights == 0] == 0).all()


@every_method
@pytest.mark.parametrize("scale_dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("factor", [1e-9, 1e-5, 1.0, 1e3])
def test_scales_are_exact_in_their_dtype(method: str, scale_dtype: str, factor: float) -> None:
    scheme = Scheme(bits=4, scale_dtype=scale_dtype)  # type: ignore[arg-type]
    tensor = METHODS[method](gaussian() * np.float32(factor), scheme, "w")
    assert_in_domain(tensor)
    rounded = torch.from_numpy(tensor.scales).to(getattr(torch, scale_dtype)).float().numpy()
    np.testing.assert_array_equal(rounded, tensor.scales)


@every_method
@every_scheme
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_weights_that_are_no_weights_are_refused(method: str, scheme: Scheme, bad: float) -> None:
    weights = gaussian()
    weights[7, 3] = bad
    weights[7, 4] = -3e38  # with 3e38, a range that float32 cannot hold
    with pytest.raises(CorruptInputError, match="'head'"):
        METHODS[method](weights, scheme, "head")


def test_the_input_is_left_alone() -> None:
    weights = gaussian(inputs=128)
    weights.flags.writeable = False
    for name in ("rtn", "mse"):
        METHODS[name](weights, Scheme(bits=4), "w")
    np.testing.assert_array_equal(weights, gaussian(inputs=128))


# -- names ------------------------------------------------------------------------------------------------------------


def test_auto_is_a_method() -> None:
    assert resolve_method("auto") in METHODS
    assert resolve_method("rtn") == "rtn"


@pytest.mark.parametrize(("name", "hint"), [("mes", "'mse'"), ("quip", "rtn")])
def test_an_unknown_method_is_told(name: str, hint: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        resolve_method(name)
    assert hint in caught.value.remedy


@pytest.mark.parametrize(
    ("method", "codebook", "remedy"),
    [("nf4", None, 'codebook="nf4"'), ("kmeans", "nf4", '"nf4"'), ("mse", "palette", '"kmeans"')],
)
def test_a_method_that_does_not_make_the_scheme_is_refused(method: str, codebook: Codebook | None, remedy: str) -> None:
    scheme = Scheme(bits=4, group_size=None, symmetric=True, codebook=codebook)
    with pytest.raises(UsageError, match=method) as caught:
        function_for(method, scheme)
    assert remedy in caught.value.remedy


def test_a_method_is_found_for_its_schemes() -> None:
    assert function_for("mse", Scheme(bits=8)) is METHODS["mse"]
    for name, codebook in CODEBOOKS.items():
        scheme = Scheme(bits=4, group_size=None, symmetric=True, codebook=codebook)
        assert function_for(name, scheme) is METHODS[name]
