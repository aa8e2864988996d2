"""edgeq's own torch operators: what capture leaves opaque, so that every format can lower it to its best kernel.

They have shapes but no implementation: they exist in captured graphs only.
"""

from __future__ import annotations

import torch
from torch.library import Library, impl

_LIBRARY = Library("edgeq", "DEF")
_LIBRARY.define(
    "attention(Tensor query, Tensor key, Tensor value, Tensor? sinks, int layer, float scale, "
    "int window, float softcap, bool causal) -> Tensor"
)
_LIBRARY.define("append_cache(Tensor key, Tensor value, Tensor mask, int layer) -> (Tensor, Tensor)")
_LIBRARY.define("rotary(Tensor x, Tensor cos, Tensor sin) -> Tensor")
_LIBRARY.define("rope_tables(Tensor position_ids, int table, int width) -> (Tensor, Tensor)")


@impl(_LIBRARY, "attention", "Meta")
def _attention(  # type: ignore[no-untyped-def]  # noqa: ANN202
    query: torch.Tensor,  # [batch, heads, sequence, size]
    key: torch.Tensor,  # [batch, key_value_heads, sequence, size]: new positions only, the cache is implicit
    value: torch.Tensor,
    sinks: torch.Tensor | None,
    layer: int,
    scale: float,
    window: int,
    softcap: float,
    causal: bool,
):
    batch, heads, sequence, _ = query.shape
    return query.new_empty((batch, sequence, heads, value.shape[3]))


@impl(_LIBRARY, "append_cache", "Meta")
def _append_cache(  # type: ignore[no-untyped-def]  # noqa: ANN202
    key: torch.Tensor,  # [batch, key_value_heads, sequence, size]
    value: torch.Tensor,
    mask: torch.Tensor,  # [batch, total]: only its length matters
    layer: int,
):
    total = mask.shape[1]
    return tuple(x.new_empty((x.shape[0], x.shape[1], total, x.shape[3])) for x in (key, value))


@impl(_LIBRARY, "rotary", "Meta")
def _rotary(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


@impl(_LIBRARY, "rope_tables", "Meta")
def _rope_tables(  # type: ignore[no-untyped-def]  # noqa: ANN202
    position_ids: torch.Tensor, table: int, width: int
):
    shape = (*position_ids.shape, width)
    return tuple(position_ids.new_empty(shape, dtype=torch.float32) for _ in range(2))


attention = torch.ops.edgeq.attention.default
append_cache = torch.ops.edgeq.append_cache.default
rotary = torch.ops.edgeq.rotary.default
rope_tables = torch.ops.edgeq.rope_tables.default
