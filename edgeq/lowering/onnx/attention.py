"""Converters of attention, rotary positions and the key-value cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import fx

from edgeq.lowering import operators
from edgeq.lowering.onnx.graph import MICROSOFT
from edgeq.lowering.onnx.neural import packed_linear
from edgeq.lowering.onnx.translator import Converter, Translator, arguments, option, tensor
from edgeq.lowering.onnx.web import capped_attention

aten = torch.ops.aten
ROTARY_MULTIPLE = 16
"""GroupQueryAttention's own rotation wants head sizes that this divides."""


def _attention(t: Translator, node: fx.Node) -> ir.Value:
    *_, softcap, causal = arguments(node)
    if causal and softcap and t.graph.web:
        output = capped_attention(t, node)
    else:
        output = _group_query(t, node) if causal else _bidirectional(t, node)
    size = tensor(node).shape[2:]
    shape = tensor(node).shape
    output.shape = ir.Shape([None, None, int(size[0]) * int(size[1])])
    output.type = ir.TensorType(t.graph.float_type)
    heads = t.reshape(output, (shape[0], shape[1], 0), shape, ())
    t.flat[heads] = output
    return heads


def _group_query(t: Translator, node: fx.Node) -> ir.Value:
    """
    query key value, or query+key+value packed -> [GroupQueryAttention] -> output
    past_key past_value ----------------------^  \\--> present_key present_value
    """
    query, key, value, sinks, layer, scale, window, softcap, _ = arguments(node)
    heads, size = int(tensor(query).shape[1]), int(tensor(query).shape[3])
    kv_heads, value_size = int(tensor(value).shape[1]), int(tensor(value).shape[3])
    table = _shared_table(query, key)
    fold = table is not None and size % ROTARY_MULTIPLE == 0
    q, k = (x.args[0] if fold else x for x in (query, key))
    packed = packed_linear(t, tuple(_source(x) for x in (q, k, value)))
    if packed is not None:
        projections: list[ir.Value | None] = [packed, None, None]
    else:
        projections = [_flat(t, x) for x in (q, k, value)]
    cached = t.signature.is_language_model
    past = t.signature.cache(int(layer), kv_heads, size, value_size) if cached else (None, None)
    rotation = list(t.signature.rotary_table(table)) if fold and table is not None else [None, None]
    attributes: dict[str, int | float] = {"num_heads": heads, "kv_num_heads": kv_heads, "scale": float(scale)}
    attributes |= {"do_rotary": 1} if fold else {}
    attributes |= {"local_window_size": int(window)} if window else {}
    attributes |= {"softcap": float(softcap)} if softcap else {}
    sink_values = [] if sinks is None else [None, None, t.value(sinks)]
    output, *present = t.graph.multi_op(
        "GroupQueryAttention",
        *projections,
        *past,
        *t.signature.lengths(),
        *rotation,
        *sink_values,
        outputs=3,
        attributes=attributes,
        domain=MICROSOFT,
    )
    if cached:
        t.signature.present(int(layer), *present)
    return output


def _bidirectional(t: Translator, node: fx.Node) -> ir.Value:
    """An encoder's attention: every position sees every position that the mask keeps."""
    query, key, value, _, _, scale, *_ = arguments(node)
    heads, kv_heads = int(tensor(query).shape[1]), int(tensor(key).shape[1])
    flat = [_flat(t, x) for x in (query, key, value)]
    if kv_heads != heads:
        flat[1:] = [_repeated_heads(t, x, f, heads // kv_heads) for x, f in zip((key, value), flat[1:], strict=True)]
    mask = [None, t.signature.attention_bias()] if t.graph.web else [t.signature.key_padding_mask()]
    return t.graph.op(
        "MultiHeadAttention",
        *flat,
        None,
        *mask,
        attributes={"num_heads": heads, "scale": float(scale)},
        domain=MICROSOFT,
    )


def _repeated_heads(t: Translator, node: Any, flat: ir.Value, times: int) -> ir.Value:  # noqa: ANN401
    """`[batch, sequence, kv_heads * size]` to `[batch, sequence, kv_heads * times * size]`, each head repeated."""
    kv_heads, size = int(tensor(node).shape[1]), int(tensor(node).shape[3])
    split = t.graph.op("Reshape", flat, t.graph.int64(0, 0, kv_heads, 1, size))
    tiled = t.graph.op("Expand", split, t.graph.int64(1, 1, kv_heads, times, size))
    return t.graph.op("Reshape", tiled, t.graph.int64(0, 0, kv_heads * times * size))


def _source(node: Any) -> fx.Node | None:  # noqa: ANN401
    """The `[batch, sequence, heads * size]` node behind `transpose(view(x), 1, 2)`, or None."""
    if not isinstance(node, fx.Node) or node.target != aten.transpose.int or set(arguments(node)[1:3]) != {1, 2}:
        return None
    view: Any = arguments(node)[0]
    if not isinstance(view, fx.Node) or view.target not in (aten.view.default, aten.reshape.default):
        return None
    source: Any = view.args[0]
    _, heads, _, size = tensor(node).shape
    shape = tensor(source).shape
    return source if len(shape) == 3 and shape[2] == heads * size else None


def _flat(t: Translator, node: Any) -> ir.Value:  # noqa: ANN401
    """`[batch, heads, sequence, size]` as `[batch, sequence, heads * size]`."""
    source = _source(node)
    if source is not None:
        return t.value(source)
    _, heads, _, size = tensor(node).shape
    turned = t.graph.op("Transpose", t.value(node), attributes={"perm": [0, 2, 1, 3]})
    return t.graph.op("Reshape", turned, t.graph.int64(0, 0, int(heads) * int(size)))


def _shared_table(query: Any, key: Any) -> int | None:  # noqa: ANN401
    """The rotary table that rotates both query and key last, by the model's own positions, or None."""
    tables = [_table(x) for x in (query, key)]
    return tables[0] if tables[0] == tables[1] else None


def _table(node: Any) -> int | None:  # noqa: ANN401
    if not isinstance(node, fx.Node) or node.target != operators.rotary:
        return None
    cos: Any = arguments(node)[1]
    tables: Any = cos.args[0] if cos.op == "call_function" and cos.target.__name__ == "getitem" else None
    if tables is None or tables.target != operators.rope_tables:
        return None
    positions, index, _ = arguments(tables)
    return int(index) if positions.name == "position_ids" else None


def _rotary(t: Translator, node: fx.Node) -> ir.Value:
    x = arguments(node)[0]
    cos, sin = (_halved(t, table, t.value(x)) for table in arguments(node)[1:3])
    return t.graph.op("RotaryEmbedding", t.value(x), cos, sin)


def _halved(t: Translator, node: Any, x: ir.Value) -> ir.Value:  # noqa: ANN401
    """Both halves of a rotary table's width are equal: the operator takes the first, `[batch, sequence, size / 2]`."""
    if node not in t.halved:
        batch, _, size = tensor(node).shape
        numbers = (t.graph.int64(n) for n in (0, int(size) // 2, -1))
        half = t.graph.op("Slice", t.value(node), *numbers)
        if isinstance(batch, int) and batch == 1:
            rows = t.graph.op("Concat", t.graph.dimension(x, 0), t.graph.int64(1, 1), attributes={"axis": 0})
            half = t.graph.op("Expand", half, rows)
        t.halved[node] = half
    return t.halved[node]


def _rope_tables(t: Translator, node: fx.Node) -> tuple[ir.Value, ...]:
    """The rows of the table at the positions, doubled to full width."""
    positions, index, _ = arguments(node)
    halves = [t.graph.op("Gather", table, t.value(positions)) for table in t.signature.rotary_table(int(index))]
    return tuple(t.graph.op("Concat", half, half, attributes={"axis": -1}) for half in halves)


def _append_cache(t: Translator, node: fx.Node) -> tuple[ir.Value, ...]:
    """Plain capture: past and new keys and values in one, which is also what comes out as present."""
    key, value, _, layer = arguments(node)
    sizes = [(int(tensor(x).shape[1]), int(tensor(x).shape[3])) for x in (key, value)]
    past = t.signature.cache(int(layer), sizes[0][0], sizes[0][1], sizes[1][1])
    present = tuple(
        t.graph.op("Concat", before, t.value(new), attributes={"axis": 2})
        for before, new in zip(past, (key, value), strict=True)
    )
    t.signature.present(int(layer), *present)
    return present


def _scaled_dot_product(t: Translator, node: fx.Node) -> ir.Value:
    """
    softmax(query @ key^T * scale + mask) @ value
    """
    query, key, value = (t.value(x) for x in arguments(node)[:3])
    mask, causal = option(node, 3, "attn_mask", None), option(node, 5, "is_causal", False)
    shape, key_shape = tensor(arguments(node)[0]).shape, tensor(arguments(node)[1]).shape
    scale = float(option(node, 6, "scale", None) or int(shape[-1]) ** -0.5)
    if len(shape) == 4 and key_shape[1] != shape[1]:
        times = int(shape[1]) // int(key_shape[1])
        key, value = (_grouped(t, x, n, times) for x, n in zip((key, value), arguments(node)[1:3], strict=True))
    rank = len(shape)
    turned = t.graph.op("Transpose", key, attributes={"perm": [*range(rank - 2), rank - 1, rank - 2]})
    scaled = t.graph.op("Mul", query, t.graph.scalar(scale, torch.float32))
    scores = t.graph.op("MatMul", scaled, turned)
    if mask is not None:
        scores = t.graph.op("Add", scores, _additive(t, mask))
    if causal:
        scores = t.graph.op("Add", scores, _causal_bias(t, scores))
    return t.graph.op("MatMul", t.graph.op("Softmax", scores, attributes={"axis": -1}), value)


def _grouped(t: Translator, value: ir.Value, node: Any, times: int) -> ir.Value:  # noqa: ANN401
    kv_heads, size = int(tensor(node).shape[1]), int(tensor(node).shape[3])
    raised = t.graph.op("Unsqueeze", value, t.graph.int64(2))
    tiled = t.graph.op("Expand", raised, t.graph.int64(1, 1, times, 1, 1))
    return t.graph.op("Reshape", tiled, t.graph.int64(0, kv_heads * times, -1, size))


def _additive(t: Translator, mask: Any) -> ir.Value:  # noqa: ANN401
    if tensor(mask).dtype != torch.bool:
        return t.value(mask, torch.float32)
    lowest = float(np.finfo(np.float32).min)
    return t.graph.op("Where", t.value(mask), t.graph.scalar(0.0, torch.float32), t.graph.scalar(lowest, torch.float32))


def _causal_bias(t: Translator, scores: ir.Value) -> ir.Value:
    shape = t.graph.op("Shape", scores, attributes={"start": -2})
    lowest = t.graph.op("Expand", t.graph.scalar(float(np.finfo(np.float32).min), torch.float32), shape)
    return t.graph.op("Trilu", lowest, t.graph.scalar(1, torch.int64), attributes={"upper": 1})


ATTENTION: dict[Any, Converter] = {
    operators.attention: _attention,
    operators.append_cache: _append_cache,
    operators.rotary: _rotary,
    operators.rope_tables: _rope_tables,
    aten.scaled_dot_product_attention.default: _scaled_dot_product,
}
