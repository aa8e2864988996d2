"""The table of native kernels, and what is said of products that have none."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest

from edgeq.targets.kernels import FALLBACKS, KERNELS, Product, Runtime, native_kernel, remedy

PRODUCT = Product(bits=4, block_size=32, accuracy_level=4)


@pytest.mark.parametrize("block_size", [16, 32, 64, 128, 256, 1024])
@pytest.mark.parametrize("level", [0, 1, 4])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_table_is_what_was_measured(bits: int, level: int, block_size: int) -> None:
    product = Product(bits=bits, block_size=block_size, accuracy_level=level)
    expected = bits == 4 or (level == 4 and (bits == 8 or block_size in (32, 64, 128)))
    assert (native_kernel(product) is not None) == expected


@pytest.mark.parametrize("extra", ["float_zero_points", "column_order"])
def test_what_kernels_do_not_take_is_a_fallback(extra: str) -> None:
    product = replace(PRODUCT, **{extra: True})
    assert native_kernel(PRODUCT) is not None
    assert native_kernel(product) is None
    assert extra.replace("_", " ") in product.label()
    assert "quantize with edgeq" in remedy(product)


@pytest.mark.parametrize(
    ("product", "says"),
    [
        (replace(PRODUCT, bits=8, accuracy_level=1), "--accuracy-level 4"),
        (replace(PRODUCT, bits=2, block_size=256), "groups of 32, 64, 128"),
        (replace(PRODUCT, bits=3), "2, 4 or 8 bits"),
    ],
)
def test_the_remedy_makes_it_native(product: Product, says: str) -> None:
    assert native_kernel(product) is None
    assert says in remedy(product)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("level", [1, 4])
@pytest.mark.parametrize("block_size", [16, 32, 128])
def test_browsers_have_kernels_on_webgpu_alone(bits: int, level: int, block_size: int) -> None:
    product = Product(bits=bits, block_size=block_size, accuracy_level=level)
    assert native_kernel(product, "webgpu") is not None
    assert native_kernel(replace(product, float_zero_points=True), "webgpu") is None
    assert native_kernel(product, "wasm") is None
    assert "WebGPU" in remedy(product, "wasm")


def test_every_row_says_where_it_comes_from() -> None:
    rows = [kernel for kernels in KERNELS.values() for kernel in kernels]
    assert rows
    assert all("measured" in kernel.source and kernel.since for kernel in rows)
    assert KERNELS.keys() == FALLBACKS.keys() == set(get_args(Runtime))
