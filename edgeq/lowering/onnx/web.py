"""What ONNX Runtime's build for browsers cannot do as the other converters write it, in operators that it has.

Found by running every converter's graphs in it (onnxruntime-web 1.31, the build that has WebGPU), not by reading.
"""

from __future__ import annotations

import onnx_ir as ir
import torch
from torch import fx

from edgeq.errors import UnsupportedModelError
from edgeq.lowering.onnx.translator import Translator, arguments, tensor
from edgeq.lowering.onnx.weights import Matrix


def look_up(t: Translator, matrix: Matrix, ids: fx.Node) -> ir.Value:
    """Rows `[..., groups * block]` of a quantized table: its CPU kernels have no GatherBlockQuantized.

    The codes are those of a product with the same matrix, `[rows, groups, bytes]`.
    """
    groups, rank = -(-matrix.inputs // matrix.block), tensor(ids).dim()
    codes, scales, zero_points = (
        None if part is None else t.graph.op("Gather", part, t.value(ids))
        for part in (matrix.codes, matrix.scales, matrix.zero_points)
    )
    assert codes is not None and scales is not None  # noqa: S101, PT018 - every matrix has both
    values = _unpacked(t, codes, matrix.bits, [*[0] * rank, groups, matrix.block])
    if zero_points is None:
        zero = t.graph.scalar(1 << (matrix.bits - 1), torch.float32)
    else:
        zero = _unpacked(t, zero_points, matrix.bits, [*[0] * rank, -1, 1])
        if groups * matrix.bits % 8:
            zero = t.graph.op("Slice", zero, t.graph.int64(0), t.graph.int64(groups), t.graph.int64(rank))
    distances = t.graph.op("Sub", values, zero)
    rows = t.graph.op("Mul", distances, t.graph.op("Unsqueeze", scales, t.graph.int64(-1)))
    return t.graph.op("Reshape", rows, t.graph.int64(*[0] * rank, groups * matrix.block))


def _unpacked(t: Translator, packed: ir.Value, bits: int, shape: list[int]) -> ir.Value:
    """uint8 `[..., bytes]` to floats of `shape`: a byte holds its first code in its lowest bits.

    In float arithmetic, which is exact here: on WebGPU bytes have kernels for look-ups and casts only, and each trip
    to the CPU waits for the GPU.
    """
    rest = t.graph.cast(packed, torch.float32)
    parts = []
    for _ in range(8 // bits - 1):
        above = t.graph.op("Floor", t.graph.op("Mul", rest, t.graph.scalar(2.0**-bits, torch.float32)))
        lowest = t.graph.op("Sub", rest, t.graph.op("Mul", above, t.graph.scalar(2.0**bits, torch.float32)))
        parts.append(lowest)
        rest = above
    if parts:
        raised = [t.graph.op("Unsqueeze", part, t.graph.int64(-1)) for part in (*parts, rest)]
        rest = t.graph.op("Concat", *raised, attributes={"axis": -1})
    return t.graph.op("Reshape", rest, t.graph.int64(*shape))


def capped_attention(t: Translator, node: fx.Node) -> ir.Value:
    """`softmax(cap * tanh(query @ key^T * scale / cap) + mask) @ value`: its GroupQueryAttention ignores the cap.

    The result is `[batch, sequence, heads * size]`.
    """
    query, key, value, sinks, layer, scale, window, cap, _ = arguments(node)
    if sinks is not None:
        raise UnsupportedModelError(
            "The model's attention has both sinks and a cap on its scores, for which browsers have no kernel.",
            remedy="Use another target, or report the architecture.",
        )
    heads, size = int(tensor(query).shape[1]), int(tensor(query).shape[3])
    kv_heads, value_size = int(tensor(value).shape[1]), int(tensor(value).shape[3])
    keys, values = t.value(key), t.value(value)
    if t.signature.is_language_model:
        past = t.signature.cache(int(layer), kv_heads, size, value_size)
        keys, values = (
            t.graph.op("Concat", old, new, attributes={"axis": 2})
            for old, new in zip(past, (keys, values), strict=True)
        )
        t.signature.present(int(layer), keys, values)
    if kv_heads != heads:
        keys, values = (_repeated(t, x, kv_heads, heads, n) for x, n in ((keys, size), (values, value_size)))
    scaled = t.graph.op("Mul", t.value(query), t.graph.scalar(float(scale) / float(cap), torch.float32))
    turned = t.graph.op("Transpose", keys, attributes={"perm": [0, 1, 3, 2]})
    bounded = t.graph.op("Tanh", t.graph.op("MatMul", scaled, turned))
    scores = t.graph.op("Mul", bounded, t.graph.scalar(float(cap), torch.float32))
    masked = t.graph.op("Add", scores, t.signature.causal_bias(int(window)))
    mixed = t.graph.op("MatMul", t.graph.op("Softmax", masked, attributes={"axis": -1}), values)
    turned = t.graph.op("Transpose", mixed, attributes={"perm": [0, 2, 1, 3]})
    return t.graph.op("Reshape", turned, t.graph.int64(0, 0, heads * value_size))


def _repeated(t: Translator, x: ir.Value, kv_heads: int, heads: int, size: int) -> ir.Value:
    """`[batch, kv_heads, total, size]` to `[batch, heads, total, size]`, each head repeated."""
    raised = t.graph.op("Unsqueeze", x, t.graph.int64(2))
    tiled = t.graph.op("Expand", raised, t.graph.int64(1, 1, heads // kv_heads, 1, 1))
    return t.graph.op("Reshape", tiled, t.graph.int64(0, heads, -1, size))
