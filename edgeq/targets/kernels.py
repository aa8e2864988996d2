"""Which products of quantized weights a runtime computes as they are; all others it rebuilds in float at each call."""

from __future__ import annotations

from dataclasses import dataclass

FALLBACK = "at each call it rebuilds the weights in float32, which takes 50 to 150 times as long"
"""Measured with ONNX Runtime 1.32.0, x86-64 with AVX-512 VNNI, one thread, one row, 1024 x 1024."""


@dataclass(frozen=True, kw_only=True)
class Product:
    """One node that multiplies with quantized weights, as ONNX' MatMulNBits describes it.

    float_zero_points, column_order: it has them (`g_idx`, which act-order GPTQ may leave behind).
    """

    bits: int
    block_size: int
    accuracy_level: int
    float_zero_points: bool = False
    column_order: bool = False

    def label(self) -> str:
        extras = [", float zero points"] * self.float_zero_points + [", a column order"] * self.column_order
        return f"{self.bits} bits, groups of {self.block_size}, accuracy level {self.accuracy_level}{''.join(extras)}"


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A native kernel of ONNX Runtime's CPU provider: what it takes, since which version, and who says so.

    block_sizes: None is every power of two from 16.
    """

    bits: int
    block_sizes: tuple[int, ...] | None
    accuracy_levels: tuple[int, ...]
    since: str
    source: str


ANY_LEVEL = (0, 1, 2, 3, 4)
MEASURED = "measured with 1.32.0 on x86-64, blocks of 16 to 1024, levels 1 and 4"
ONNXRUNTIME: tuple[Kernel, ...] = (
    Kernel(
        bits=4,
        block_sizes=None,
        accuracy_levels=ANY_LEVEL,
        since="1.17",
        source=f"{MEASURED}: 40 to 114 us in float32, 11 to 31 us with int8 activations",
    ),
    Kernel(
        bits=8,
        block_sizes=None,
        accuracy_levels=(4,),
        since="1.23",
        source=f"{MEASURED}: 16 to 28 us, else 898 to 2329 us; arm64 by microsoft/onnxruntime#25110",
    ),
    Kernel(
        bits=2,
        block_sizes=(32, 64, 128),
        accuracy_levels=(4,),
        since="1.29",
        source=f"{MEASURED}: 12 to 40 us, else 1577 to 3311 us; microsoft/onnxruntime#29064, #29619, arm64 #29466",
    ),
)


def native_kernel(product: Product) -> Kernel | None:
    """The kernel that takes a product as it is, None where there is none."""
    if product.float_zero_points or product.column_order:
        return None
    return next(
        (
            kernel
            for kernel in ONNXRUNTIME
            if kernel.bits == product.bits
            and (kernel.block_sizes is None or product.block_size in kernel.block_sizes)
            and product.accuracy_level in kernel.accuracy_levels
        ),
        None,
    )


def remedy(product: Product) -> str:
    """What makes a product one that a kernel takes."""
    if product.float_zero_points or product.column_order:
        return "quantize with edgeq: its zero points are integers and its columns stay in order"
    fitting = next((kernel for kernel in ONNXRUNTIME if kernel.bits == product.bits), None)
    if fitting is None:
        return "use 2, 4 or 8 bits"
    if product.accuracy_level not in fitting.accuracy_levels:
        return f"use 4 bits for it (--bits, --embedding-bits), or --accuracy-level {fitting.accuracy_levels[-1]}"
    return f"use groups of {', '.join(map(str, fitting.block_sizes or ()))}"
