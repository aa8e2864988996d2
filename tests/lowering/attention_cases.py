"""Cases of attention, rotary positions and plain attention."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from edgeq.core.scheme import Scheme
from edgeq.lowering import operators
from edgeq.lowering.patches import Table
from tests.lowering.converting import Case, attention_mask, booleans, floats, integers

aten: Any = torch.ops.aten


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    allowed: torch.Tensor,
    *,
    scale: float,
    softcap: float = 0.0,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention as the papers write it. q, k and v are `[batch, heads, sequence, size]`, `allowed` is
    `[batch, queries, keys]`; the result is `[batch, sequence, heads, size]`."""
    times = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
    scores = query @ key.transpose(-1, -2) * scale
    scores = softcap * torch.tanh(scores / softcap) if softcap else scores
    scores = scores.masked_fill(~allowed[:, None], -torch.inf)
    if sinks is not None:
        column = sinks[None, :, None, None].expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, column], -1)
    weights = scores.softmax(-1)[..., : key.shape[2]]
    return (weights @ value).transpose(1, 2)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotation of halves; cos and sin are `[batch, sequence, size / 2]`."""
    first, second = x.chunk(2, -1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def table(size: int, base: float = 100.0) -> Table:
    angles = np.arange(16)[:, None] / base ** (np.arange(size // 2) * 2 / size)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


class Attention(nn.Module):
    """Projections into edgeq's attention operator. Outputs at padding are zeroed: they mean nothing."""

    def __init__(
        self,
        *,
        heads: int = 4,
        kv_heads: int = 4,
        size: int = 8,
        window: int = 0,
        softcap: float = 0.0,
        causal: bool = True,
        sinks: bool = False,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.size = heads, kv_heads, size
        self.window, self.softcap, self.causal = window, softcap, causal
        self.q, self.k = nn.Linear(24, heads * size, bias=bias), nn.Linear(24, kv_heads * size, bias=bias)
        self.v = nn.Linear(24, kv_heads * size, bias=bias)
        self.sinks = nn.Parameter(torch.empty(heads)) if sinks else None

    def projected(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(part(x).view(*x.shape[:2], -1, self.size).transpose(1, 2) for part in (self.q, self.k, self.v))

    def forward(self, hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        query, key, value = self.projected(hidden)
        output = operators.attention(query, key, value, self.sinks, 0, 0.3, self.window, self.softcap, self.causal)
        return torch.where(attention_mask[:, :, None] > 0, output.reshape(*hidden.shape[:2], -1), 0.0)

    def reference(self, hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        rows = torch.arange(hidden.shape[1])
        distance = rows[:, None] - rows[None]
        allowed = (attention_mask[:, None] > 0).expand(-1, hidden.shape[1], -1)
        if self.causal:
            allowed = allowed & (distance >= 0)
        if self.window:
            allowed = allowed & (distance < self.window)
        query, key, value = self.projected(hidden)
        output = attend(query, key, value, allowed, scale=0.3, softcap=self.softcap, sinks=self.sinks)
        return torch.where(attention_mask[:, :, None] > 0, output.reshape(*hidden.shape[:2], -1), 0.0)


class Rotary(nn.Module):
    """Rotated by a table, with the positions of each row or with one row of positions for all."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.cos, self.sin = (torch.from_numpy(part) for part in table(size))

    def forward(self, x: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, ...]:
        cos, sin = operators.rope_tables(positions, 0, self.size)
        shared = operators.rope_tables(positions[:1], 0, self.size)
        return operators.rotary(x, cos, sin), operators.rotary(x * 2, *shared), cos * 2

    def reference(self, x: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, ...]:
        cos, sin = self.cos[positions], self.sin[positions]
        return rotate(x, cos, sin), rotate(x * 2, cos[:1], sin[:1]), torch.cat([cos, cos], -1) * 2


HIDDEN = (floats("b", "s", 24), attention_mask())
ATTENTION = {
    "causal": Attention(),
    "grouped": Attention(kv_heads=2, bias=True),
    "one key-value head": Attention(kv_heads=1, size=16),
    "window": Attention(kv_heads=2, window=3),
    "softcap": Attention(softcap=1.5),
    "sinks": Attention(kv_heads=2, sinks=True),
    "bidirectional": Attention(causal=False, bias=True),
    "bidirectional grouped": Attention(causal=False, kv_heads=2),
}
WHOLE = tuple(
    Case(name=f"attention, {name}", operators=(operators.attention,), module=module, inputs=HIDDEN)
    for name, module in ATTENTION.items()
)
PACKED = Case(
    name="attention, packed 4-bit projections",
    operators=(operators.attention,),
    module=Attention(kv_heads=2, bias=True),
    inputs=HIDDEN,
    schemes=dict.fromkeys(("q.weight", "k.weight", "v.weight"), Scheme(bits=4)),
)
POSITIONS = tuple(
    Case(
        name=f"rotary positions, size {size}",
        operators=(operators.rotary, operators.rope_tables),
        module=Rotary(size),
        inputs=(floats("b", 3, "s", size), integers("b", "s", low=0, high=16)),
        tables=(table(size),),
    )
    for size in (8, 16)
)

QUERY, KEY = floats("b", 4, "s", 8), floats("b", 4, "t", 8)
GROUPED = floats("b", 2, "t", 8)
plain = functional.scaled_dot_product_attention


def _plain(name: str, module: Any, *inputs: Any) -> Case:  # noqa: ANN401
    operator = aten.scaled_dot_product_attention.default
    return Case(name=f"plain attention, {name}", operators=(operator,), module=module, inputs=inputs)


def _masked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Every query sees the first key at least."""
    return plain(q, k, v, mask | (torch.arange(k.shape[2]) == 0))


PLAIN = (
    _plain("no mask", plain, QUERY, KEY, KEY),
    _plain("float mask", plain, QUERY, KEY, KEY, floats("b", 1, "s", "t")),
    _plain("bool mask", _masked, QUERY, KEY, KEY, booleans("b", 1, "s", "t")),
    _plain("causal", lambda q, k, v: plain(q, k, v, is_causal=True), QUERY, QUERY, QUERY),
    _plain("causal with more keys", lambda q, k, v: plain(q, k, v, is_causal=True), QUERY, KEY, KEY),
    _plain("scale", lambda q, k, v: plain(q, k, v, scale=0.1), QUERY, KEY, KEY),
    _plain("grouped", lambda q, k, v: plain(q, k, v, enable_gqa=True), QUERY, GROUPED, GROUPED),
    _plain("one head for all", plain, QUERY, floats("b", 1, "t", 8), floats("b", 1, "t", 8)),
    _plain("three axes", plain, floats("b", "s", 8), floats("b", "t", 8), floats("b", "t", 6)),
)

CASES = (*WHOLE, PACKED, *POSITIONS, *PLAIN)
