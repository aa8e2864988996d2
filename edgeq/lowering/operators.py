"""edgeq's own torch operators: what capture leaves opaque, so that every format can lower it to its best kernel.

They have shapes but no implementation: they exist in captured graphs only. Sizes are in the order `[batch, heads,
sequence, size]`; keys and values hold the new positions only, the cache is implicit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.library import Library, impl

_LIBRARY: Any = Library("edgeq", "DEF")  # type: ignore[no-untyped-call]
_LIBRARY.define(
    "attention(Tensor query, Tensor key, Tensor value, Tensor? sinks, int layer, float scale, int window, "
    "float softcap, bool causal) -> Tensor"
)
_LIBRARY.define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
_LIBRARY.define("rms_norm(Tensor x, Tensor weight, float eps) -> Tensor")
_LIBRARY.define("append_cache(Tensor key, Tensor value, Tensor mask, int layer) -> (Tensor, Tensor)")
_LIBRARY.define("rotary(Tensor x, Tensor cos, Tensor sin) -> Tensor")
_LIBRARY.define("rope_tables(Tensor position_ids, int table, int width) -> (Tensor, Tensor)")


@impl(_LIBRARY, "attention", "Meta")
def _attention(query: torch.Tensor, _key: torch.Tensor, value: torch.Tensor, *_: object) -> torch.Tensor:
    batch, heads, sequence, _size = query.shape
    return query.new_empty((batch, sequence, heads, value.shape[3]))


@impl(_LIBRARY, "linear", "Meta")
def _linear(x: torch.Tensor, weight: torch.Tensor, _bias: torch.Tensor | None) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


@impl(_LIBRARY, "rms_norm", "Meta")
def _rms_norm(x: torch.Tensor, _weight: torch.Tensor, _eps: float) -> torch.Tensor:
    return torch.empty_like(x)


@impl(_LIBRARY, "append_cache", "Meta")
def _append_cache(
    key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, _layer: int
) -> tuple[torch.Tensor, torch.Tensor]:
    total = mask.shape[1]
    appended = [x.new_empty((x.shape[0], x.shape[1], total, x.shape[3])) for x in (key, value)]
    return appended[0], appended[1]


@impl(_LIBRARY, "rotary", "Meta")
def _rotary(x: torch.Tensor, _cos: torch.Tensor, _sin: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


@impl(_LIBRARY, "rope_tables", "Meta")
def _rope_tables(position_ids: torch.Tensor, _table: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (*position_ids.shape, width)
    return position_ids.new_empty(shape, dtype=torch.float32), position_ids.new_empty(shape, dtype=torch.float32)


linear = torch.ops.edgeq.linear.default
rms_norm = torch.ops.edgeq.rms_norm.default
attention = torch.ops.edgeq.attention.default
append_cache = torch.ops.edgeq.append_cache.default
rotary = torch.ops.edgeq.rotary.default
rope_tables = torch.ops.edgeq.rope_tables.default
