"""Schemes: what exists, what it costs, what it is called."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeq.core.packing import pack_rows
from edgeq.core.scheme import Scheme
from edgeq.errors import UsageError
from tests.core.samples import schemes, tensors


@pytest.mark.parametrize("bits", [0, 1, 5, 6, 7, 32])
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
    values = tensor.scales.size if scheme.has_scales else 0
    values += 0 if tensor.codebook is None else tensor.codebook.size
    value_bytes = 4 if scheme.scale_dtype == "float32" else 2
    assert scheme.stored_bytes(*tensor.shape) == sum(array.nbytes for array in packed) + values * value_bytes


def test_float16_takes_two_bytes() -> None:
    assert Scheme(bits=16).stored_bytes(3, 5) == 30
    assert Scheme(bits=16).is_float


@pytest.mark.parametrize(
    ("scheme", "label"),
    [
        (Scheme(bits=4), "int4 g32 asym"),
        (Scheme(bits=3), "int3 g32 asym"),
        (Scheme(bits=2, symmetric=True), "int2 g32 sym"),
        (Scheme(bits=6, group_size=None, symmetric=True, codebook="palette", palette_rows=8), "palette6 r8"),
        (Scheme(bits=8, group_size=None, symmetric=True), "int8 channel sym"),
        (Scheme(bits=16), "float16"),
        (Scheme(bits=4, group_size=64, symmetric=True, codebook="nf4"), "nf4 g64"),
        (Scheme(bits=4, group_size=None, symmetric=True, codebook="nf4"), "nf4 channel"),
        (Scheme(bits=4, group_size=None, symmetric=True, codebook="palette", palette_rows=16), "palette4 r16"),
        (Scheme(bits=8, group_size=None, symmetric=True, codebook="palette"), "palette8 tensor"),
    ],
)
def test_labels(scheme: Scheme, label: str) -> None:
    assert scheme.label() == label


def test_levels_and_zero_point() -> None:
    assert (Scheme(bits=4).levels, Scheme(bits=4).default_zero_point) == (16, 8)
    assert (Scheme(bits=3).levels, Scheme(bits=3).default_zero_point) == (8, 4)
    assert (Scheme(bits=8).levels, Scheme(bits=8).default_zero_point) == (256, 128)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bits": 8, "codebook": "nf4"}, "no nf4 with 8 bits"),
        ({"bits": 16, "codebook": "palette", "group_size": None}, "no palette with 16 bits"),
        ({"codebook": "nf4", "symmetric": False}, "zero points"),
        ({"codebook": "palette"}, "groups of inputs"),
        ({"codebook": "palette", "group_size": None, "palette_rows": 0}, "0 rows"),
        ({"codebook": "nf4", "palette_rows": 16}, "16 rows"),
        ({"palette_rows": 16}, "16 rows"),
    ],
)
def test_codebooks_that_cannot_be_meant_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Scheme(**{"bits": 4, "symmetric": True, **fields})


def test_tables_cover_the_rows() -> None:
    palette = Scheme(bits=4, group_size=None, symmetric=True, codebook="palette", palette_rows=16)
    assert [palette.tables(rows) for rows in (1, 16, 17)] == [1, 1, 2]
    assert replace(palette, palette_rows=None).tables(17) == 1
    assert Scheme(bits=4, symmetric=True, codebook="nf4").tables(17) == 1
    assert Scheme(bits=4).tables(17) == 0
