"""Schemes: what exists, what it costs, what it is called."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeq.core.packing import pack_rows
from edgeq.core.scheme import Scheme
from edgeq.errors import UsageError
from tests.core.samples import schemes, tensors


@pytest.mark.parametrize("bits", [0, 1, 3, 5, 6, 32])
def test_bits_that_cannot_be_stored_are_refused(bits: int) -> None:
    with pytest.raises(UsageError, match=str(bits)):
        Scheme(bits=bits)


@pytest.mark.parametrize("group_size", [-16, 0, 1, 8, 24, 33, 100])
def test_group_sizes_without_a_kernel_are_refused(group_size: int) -> None:
    with pytest.raises(UsageError, match=str(group_size)):
        Scheme(bits=4, group_size=group_size)


@given(schemes(), st.integers(1, 300))
def test_groups_cover_the_inputs(scheme: Scheme, inputs: int) -> None:
    groups = scheme.groups(inputs)
    size = scheme.group_size or inputs
    assert (groups - 1) * size < inputs <= groups * size


@given(st.data())
def test_stored_bytes_are_the_bytes_that_are_stored(data: st.DataObject) -> None:
    tensor = data.draw(tensors())
    scheme = tensor.scheme
    packed = [pack_rows(tensor.codes, scheme.bits)]
    if tensor.zero_points is not None:
        packed.append(pack_rows(tensor.zero_points, scheme.bits))
    scales = tensor.scales.size * (4 if scheme.scale_dtype == "float32" else 2)
    assert scheme.stored_bytes(*tensor.shape) == sum(array.nbytes for array in packed) + scales


def test_float16_takes_two_bytes() -> None:
    assert Scheme(bits=16).stored_bytes(3, 5) == 30
    assert Scheme(bits=16).is_float


@pytest.mark.parametrize(
    ("scheme", "label"),
    [
        (Scheme(bits=4), "int4 g32 asym"),
        (Scheme(bits=8, group_size=None, symmetric=True), "int8 channel sym"),
        (Scheme(bits=16), "float16"),
    ],
)
def test_labels(scheme: Scheme, label: str) -> None:
    assert scheme.label() == label


def test_levels_and_zero_point() -> None:
    assert (Scheme(bits=4).levels, Scheme(bits=4).default_zero_point) == (16, 8)
    assert (Scheme(bits=8).levels, Scheme(bits=8).default_zero_point) == (256, 128)
