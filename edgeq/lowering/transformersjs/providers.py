"""Which kernels onnxruntime-web has: what no browser computes is refused, what WebGPU leaves to the CPU is said.

The tables are measured, with onnxruntime-web 1.31.0-dev.20260914 (its build with WebGPU, which transformers.js 4.3.1
loads for both providers) in Chromium 156: every graph of the converters' tests and 45 architectures in both
precisions, from the session's own log ("webgpu kernel not found", "Node(s) placed on"). A kernel counts by operator,
version 23 of the operator set, and type, so that operators of older kernels are among those that are missing.
"""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir

from edgeq.errors import UnsupportedModelError
from edgeq.lowering.onnx.types import element_types, kernel_type

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16})
WASM_TYPES = FLOATS | {ir.DataType.INT64, ir.DataType.INT32, ir.DataType.UINT8, ir.DataType.BOOL}
_WASM = """
    Abs Add And ArgMax ArgMin BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast Ceil Concat Cos CumSum Div Equal Erf Exp
    Expand Floor Gather GatherElements GatherND Gelu Greater GreaterOrEqual GroupQueryAttention Identity IsNaN
    LayerNormalization LeakyRelu Less LessOrEqual Log MatMul MatMulNBits Max Min Mod Mul MultiHeadAttention Neg Not Or
    Pow RMSNormalization Range Reciprocal ReduceL1 ReduceL2 ReduceMax ReduceMean ReduceMin ReduceSum Relu Reshape
    RotaryEmbedding Round Shape Sigmoid Sign Sin SkipLayerNormalization SkipSimplifiedLayerNormalization Slice Softmax
    Softplus Split Sqrt Squeeze Sub Tanh Tile Transpose Trilu Unsqueeze Where Xor
"""
WASM = frozenset(_WASM.split())
"""Operators that the CPU's kernels in WebAssembly have for WASM_TYPES. GatherBlockQuantized is none of them."""
_NO_WEBGPU = "And BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cos IsNaN Mod Not Or Round Sign Sin Xor"
WEBGPU_FLOATS = WASM - frozenset(_NO_WEBGPU.split())
"""Operators that WebGPU has for float32 and float16."""
WEBGPU_OTHERS: dict[ir.DataType, frozenset[str]] = {
    ir.DataType.INT32: frozenset(
        {"Cast", "CumSum", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Mul", "Range"}
    ),
    ir.DataType.UINT8: frozenset({"Cast", "Gather"}),
    ir.DataType.BOOL: frozenset({"And", "Cast", "Expand", "Not", "Unsqueeze"}),
}
"""What it has for other types; for int64 nothing, so that sizes and positions are the CPU's."""


def check_wasm(graph: ir.Graph) -> None:
    """Raise UnsupportedModelError naming the nodes that ONNX Runtime's build for browsers has no kernel for."""
    types = element_types(graph)
    missing = Counter(
        f"{node.op_type} of {kernel_type(node, types).name}"
        for node in graph
        if node.op_type not in WASM or not _known(node, types)
    )
    if missing:
        named = ", ".join(f"{name} ({count})" for name, count in sorted(missing.items()))
        raise UnsupportedModelError(
            f"ONNX Runtime for browsers has no kernel for {named}.",
            remedy="Use another target, or report the architecture.",
        )


def fallback_notes(graph: ir.Graph) -> tuple[str, ...]:
    """For the report: which nodes WebGPU has no kernel for, with how many of each there are."""
    types = element_types(graph)
    missing = Counter(node.op_type for node in graph if not has_webgpu_kernel(node.op_type, kernel_type(node, types)))
    if not missing:
        return ()
    named = ", ".join(f"{count} {name}" for name, count in sorted(missing.items()))
    return (f"WebGPU has no kernel for {named}: they run on the CPU",)


def has_webgpu_kernel(op_type: str, dtype: ir.DataType) -> bool:
    """Whether WebGPU computes an operator, looked up by the type as `kernel_type` gives it."""
    return op_type in (WEBGPU_FLOATS if dtype in FLOATS else WEBGPU_OTHERS.get(dtype, frozenset()))


def _known(node: ir.Node, types: dict[ir.Value, ir.DataType]) -> bool:
    values = [value for value in (*node.inputs, *node.outputs) if value is not None and value.name]
    return all(types[value] in WASM_TYPES for value in values)
