"""Which products of quantized weights a runtime computes as they are; all others it rebuilds in float at each call.

Core ML decides on the device: what is known beforehand is what its Neural Engine does not take.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Runtime = Literal["onnxruntime", "wasm", "webgpu"]
"""What computes an ONNX graph: ONNX Runtime's CPU provider, or a provider of onnxruntime-web."""
FALLBACKS: dict[Runtime, str] = {
    # Measured with ONNX Runtime 1.32.0, x86-64 with AVX-512 VNNI, one thread, one row, 1024 x 1024.
    "onnxruntime": "at each call it rebuilds the weights in float32, which takes 50 to 150 times as long",
    # Measured with onnxruntime-web 1.31.0-dev.20260914 in Node 24, x86-64, one thread, 1024 x 1024, groups of 32 and
    # 128, levels 1 and 4: one row 1472 to 2239 us with 2, 4 and 8 bits, 89 us as a float32 product; 32 rows 4009 to
    # 5135 us and 2215 us. MLAS' products of packed weights are not built for WebAssembly.
    "wasm": "WebAssembly rebuilds the weights in float32 at each call, which takes 17 to 25 times as long as a float "
    "product for one token and twice as long for 32",
    "webgpu": "the CPU computes it, and what it takes and gives is copied from and to the GPU",
}


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
    """A native kernel of a runtime: what it takes, since which of its versions, and who says so.

    block_sizes: None is every power of two from 16.
    """

    bits: int
    block_sizes: tuple[int, ...] | None
    accuracy_levels: tuple[int, ...]
    since: str
    source: str


ANY_LEVEL = (0, 1, 2, 3, 4)
MEASURED = "measured with 1.32.0 on x86-64, blocks of 16 to 1024, levels 1 and 4"
_ONNXRUNTIME = (
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


_ON_WEBGPU = (
    "measured with onnxruntime-web 1.31.0-dev.20260914 in Chromium 156: blocks of 16 to 128, levels 1 and 4, with and "
    "without zero points are the GPU's and right; float zero points have no kernel, a column order does not run"
)
_WEBGPU = tuple(
    Kernel(bits=bits, block_sizes=None, accuracy_levels=ANY_LEVEL, since="1.31", source=f"{_ON_WEBGPU}; {more}")
    for bits, more in (
        (4, "levels matter to speed only"),
        (8, "microsoft/onnxruntime#24546"),
        (2, "microsoft/onnxruntime#25763, zero points #27285, #27325"),
    )
)
KERNELS: dict[Runtime, tuple[Kernel, ...]] = {"onnxruntime": _ONNXRUNTIME, "wasm": (), "webgpu": _WEBGPU}

PORTABLE = ("aten::addmm", "aten::bmm", "aten::convolution", "aten::linear", "aten::matmul", "aten::mm")
"""ExecuTorch's operators that multiply; XNNPACK's are within delegates."""
REBUILDING = ("dequantize", "torchao::", "mixed_linear", "mixed_mm")
"""Parts of names of ExecuTorch's operators that widen stored weights."""
PORTABLE_FALLBACK = "it runs apart from XNNPACK, which takes about 100 times as long"
"""Measured with ExecuTorch 1.5.0, x86-64, one thread, one row, four products of 4096 x 4096: 1.2 ms in XNNPACK's 4-bit
kernels, 130 to 137 ms where the weights are widened first."""


NEURAL_ENGINE_FALLBACK = "the Neural Engine takes one scale per channel, or palettes; the CPU computes what has groups"
"""Documented, not measured: Apple's guide to quantization's performance (coremltools 9.0) and apple/coremltools#2510.
The GPU and the CPU take groups of integers and palettes alike."""


def native_kernel(product: Product, runtime: Runtime = "onnxruntime") -> Kernel | None:
    """The kernel that takes a product as it is, None where there is none."""
    if product.float_zero_points or product.column_order:
        return None
    return next(
        (
            kernel
            for kernel in KERNELS[runtime]
            if kernel.bits == product.bits
            and (kernel.block_sizes is None or product.block_size in kernel.block_sizes)
            and product.accuracy_level in kernel.accuracy_levels
        ),
        None,
    )


def remedy(product: Product, runtime: Runtime = "onnxruntime") -> str:
    """What makes a product one that a kernel takes, or what else to do where the runtime has none at all."""
    if not KERNELS[runtime]:
        return "open it with WebGPU where the browser has it; WebAssembly has no such kernels for any bits"
    if product.float_zero_points or product.column_order:
        return "quantize with edgeq: its zero points are integers and its columns stay in order"
    fitting = next((kernel for kernel in KERNELS[runtime] if kernel.bits == product.bits), None)
    if fitting is None:
        return "use 2, 4 or 8 bits"
    if product.accuracy_level not in fitting.accuracy_levels:
        return f"use 4 bits for it (--bits, --embedding-bits), or --accuracy-level {fitting.accuracy_levels[-1]}"
    return f"use groups of {', '.join(map(str, fitting.block_sizes or ()))}"
