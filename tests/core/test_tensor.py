"""Quantized tensors, their digest, and their way through the store's packing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given

from edgeq.core.digest import tensor_digest, weights_digest
from edgeq.core.scheme import Scheme
from edgeq.core.tensor import QuantizedTensor
from edgeq.errors import InternalError
from edgeq.store.encode import decode_quantized, encode_quantized
from tests.core.samples import tensors


@given(tensors())
def test_dequantize_is_the_formula(tensor: QuantizedTensor) -> None:
    size = tensor.scheme.group_size or tensor.shape[1]
    weights = tensor.dequantize()
    assert weights.dtype == np.float32
    for (o, i), code in np.ndenumerate(tensor.codes):
        if tensor.codebook is not None:
            level = tensor.codebook[o // (tensor.scheme.palette_rows or tensor.shape[0]), code]
        else:
            zero = tensor.scheme.default_zero_point if tensor.zero_points is None else tensor.zero_points[o, i // size]
            level = np.float32(int(code) - int(zero))
        assert weights[o, i] == tensor.scales[o, i // size] * level


@given(tensors())
def test_the_store_keeps_every_bit(tensor: QuantizedTensor) -> None:
    encoded = encode_quantized("w", tensor)
    assert ("w.scales" in encoded.arrays) == tensor.scheme.has_scales
    back = decode_quantized(
        tensor.scheme,
        tensor.shape,
        encoded.arrays["w.codes"],
        encoded.arrays.get("w.scales", np.ones((tensor.shape[0], 1), np.float32)),
        encoded.arrays.get("w.zero_points"),
        codebook=encoded.arrays.get("w.codebook"),
    )
    assert tensor_digest("w", back) == tensor_digest("w", tensor) == encoded.record.digest
    np.testing.assert_array_equal(back.dequantize(), tensor.dequantize())


@given(tensors())
def test_the_digest_sees_every_part(tensor: QuantizedTensor) -> None:
    digest = tensor_digest("w", tensor)
    changed = [tensor_digest("v", tensor)]
    for field in ("codes", "scales", "zero_points", "codebook"):
        if (values := getattr(tensor, field)) is not None:
            other = values.copy()
            other.flat[-1] = (other.flat[-1] + 1) % 16
            changed.append(tensor_digest("w", dataclasses.replace(tensor, **{field: other})))
    assert digest not in changed
    assert len(set(changed)) == len(changed)


@given(tensors().filter(lambda tensor: tensor.codebook is None))
def test_codes_of_more_bits_say_the_same(tensor: QuantizedTensor) -> None:
    wide = tensor.widened(8)
    np.testing.assert_array_equal(wide.dequantize(), tensor.dequantize())
    back = wide.narrowed(tensor.scheme.bits)
    np.testing.assert_array_equal(back.codes, tensor.codes)
    assert tensor_digest("w", back) == tensor_digest("w", tensor)
    np.testing.assert_array_equal(wide.integers(), tensor.integers())


@pytest.mark.parametrize(("symmetric", "code"), [(True, 3), (True, 12), (False, 8)])
def test_codes_that_do_not_fit_are_not_narrowed(symmetric: bool, code: int) -> None:
    shape = (2, 32)
    zero_points = None if symmetric else np.zeros((2, 1), np.uint8)
    tensor = QuantizedTensor(
        scheme=Scheme(bits=4, symmetric=symmetric),
        codes=np.full(shape, 7, np.uint8),
        scales=np.ones((2, 1), np.float32),
        zero_points=zero_points,
    )
    assert tensor.narrowed(3).codes.max() == (3 if symmetric else 7)
    wrong = dataclasses.replace(tensor, codes=np.full(shape, code, np.uint8))
    for narrower, wider in ((3, wrong), (8, tensor)):
        with pytest.raises(ValueError, match=f"{narrower} bits"):
            wider.narrowed(narrower)


def test_few_bits_count_as_differences_to_their_zero_points() -> None:
    """Zero points that move with their codes change no weight; formats that store the difference cannot tell."""
    for bits, same in ((2, True), (3, True), (4, False), (8, False)):
        one = QuantizedTensor(
            scheme=Scheme(bits=bits),
            codes=np.ones((2, 32), np.uint8),
            scales=np.ones((2, 1), np.float32),
            zero_points=np.ones((2, 1), np.uint8),
        )
        moved = dataclasses.replace(one, codes=one.codes + np.uint8(1), zero_points=np.full((2, 1), 2, np.uint8))
        assert (tensor_digest("w", one) == tensor_digest("w", moved)) is same


def test_the_digest_does_not_see_how_memory_lies() -> None:
    codes = np.arange(64, dtype=np.uint8).reshape(2, 32) % 16
    scales = np.ones((2, 1), np.float32)
    straight = QuantizedTensor(scheme=Scheme(bits=4, symmetric=True), codes=codes, scales=scales, zero_points=None)
    turned = dataclasses.replace(straight, codes=np.asfortranarray(codes), scales=np.asfortranarray(scales))
    assert tensor_digest("w", turned) == tensor_digest("w", straight)


def test_the_weights_digest_does_not_see_the_order() -> None:
    pairs = [("a", "1"), ("b", "2")]
    assert weights_digest(pairs) == weights_digest(reversed(pairs))
    assert weights_digest(pairs) != weights_digest([("a", "2"), ("b", "1")])


def test_shapes_that_do_not_fit_are_a_defect() -> None:
    codes, scales = np.zeros((2, 48), np.uint8), np.ones((2, 2), np.float32)
    scheme = Scheme(bits=4)
    zero_points = np.zeros((2, 2), np.uint8)
    QuantizedTensor(scheme=scheme, codes=codes, scales=scales, zero_points=zero_points)
    for bad_scales, bad_zeros in ((scales[:, :1], zero_points), (scales, zero_points[:1]), (scales, None)):
        with pytest.raises(InternalError):
            QuantizedTensor(scheme=scheme, codes=codes, scales=bad_scales, zero_points=bad_zeros)
    with pytest.raises(InternalError):
        QuantizedTensor(scheme=Scheme(bits=4, symmetric=True), codes=codes, scales=scales, zero_points=zero_points)


def test_a_codebook_that_does_not_fit_is_a_defect() -> None:
    scheme = Scheme(bits=4, group_size=None, symmetric=True, codebook="palette", palette_rows=2)
    fitting = QuantizedTensor(
        scheme=scheme,
        codes=np.zeros((3, 8), np.uint8),
        scales=np.ones((3, 1), np.float32),
        zero_points=None,
        codebook=np.zeros((2, 16), np.float32),
    )
    for codebook in (None, np.zeros((1, 16), np.float32), np.zeros((2, 8), np.float32)):
        with pytest.raises(InternalError, match="codebook"):
            dataclasses.replace(fitting, codebook=codebook)
    with pytest.raises(InternalError, match="codebook"):
        dataclasses.replace(fitting, scheme=Scheme(bits=4, group_size=None, symmetric=True))


def test_digests_are_those_of_earlier_versions() -> None:
    codes = (np.arange(80, dtype=np.uint8) % 16).reshape(2, 40)
    scales = np.array([[0.5, -2.0], [1.0, 0.25]], np.float32)
    zero_points = np.array([[1, 2], [3, 4]], np.uint8)
    tensor = QuantizedTensor(scheme=Scheme(bits=4), codes=codes, scales=scales, zero_points=zero_points)
    assert tensor_digest("w", tensor) == "452aa6e0d473e9470e681dfb8a95163f620c55832a4b08f47b78fb97a835bd9c"


def test_the_digest_sees_which_codebook_it_is() -> None:
    scheme = Scheme(bits=4, group_size=None, symmetric=True, codebook="palette")
    palette = QuantizedTensor(
        scheme=scheme,
        codes=np.zeros((2, 8), np.uint8),
        scales=np.ones((2, 1), np.float32),
        zero_points=None,
        codebook=np.zeros((1, 16), np.float32),
    )
    schemes = (scheme, dataclasses.replace(scheme, codebook="nf4"), dataclasses.replace(scheme, palette_rows=2))
    assert len({tensor_digest("w", dataclasses.replace(palette, scheme=other)) for other in schemes}) == 3
