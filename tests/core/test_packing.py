"""Codes to bytes and back."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeq.core.packing import pack_groups, pack_rows, unpack_groups, unpack_rows

Codes = npt.NDArray[np.uint8]


@st.composite
def codes(draw: st.DrawFn) -> tuple[Codes, int]:
    bits = draw(st.sampled_from([1, 2, 3, 4, 6, 8]))
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 70)))
    values = draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 2**bits - 1)))
    return values, bits


@given(codes())
def test_rows_come_back(case: tuple[Codes, int]) -> None:
    values, bits = case
    packed = pack_rows(values, bits)
    assert packed.shape == (values.shape[0], -(-values.shape[1] * bits // 8))
    np.testing.assert_array_equal(unpack_rows(packed, bits, values.shape[1]), values)


@given(codes(), st.sampled_from([16, 32, 64]))
def test_groups_come_back(case: tuple[Codes, int], group_size: int) -> None:
    values, bits = case
    outputs, inputs = values.shape
    packed = pack_groups(values, bits, group_size)
    assert packed.shape == (outputs, -(-inputs // group_size), group_size * bits // 8)
    np.testing.assert_array_equal(unpack_groups(packed, bits, inputs), values)


@given(codes())
def test_rows_are_the_textbook_bits(case: tuple[Codes, int]) -> None:
    values, bits = case
    for row, packed in zip(values, pack_rows(values, bits), strict=True):
        number = sum(int(code) << (bits * position) for position, code in enumerate(row))
        assert packed.tobytes() == number.to_bytes(len(packed), "little")


def test_even_inputs_sit_in_the_low_nibble() -> None:
    np.testing.assert_array_equal(pack_rows(np.array([[1, 2, 3]], np.uint8), 4), [[0x21, 0x03]])


def test_three_bits_run_on_over_the_ends_of_bytes() -> None:
    packed = pack_rows(np.array([[1, 2, 3, 4, 5, 6, 7, 0], [7, 0, 7, 0, 7, 0, 7, 0]], np.uint8), 3)
    np.testing.assert_array_equal(packed, [[0b11010001, 0b01011000, 0b00011111], [0b11000111, 0b01110001, 0b00011100]])


def test_padding_codes_are_zero() -> None:
    packed = pack_groups(np.full((1, 17), 15, np.uint8), 4, 16)
    np.testing.assert_array_equal(packed[0, 1], [15, 0, 0, 0, 0, 0, 0, 0])


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_packing_leaves_its_input_alone(bits: int) -> None:
    values = np.ones((3, 7), np.uint8)
    values.flags.writeable = False
    pack_rows(values, bits)
    assert (values == 1).all()
