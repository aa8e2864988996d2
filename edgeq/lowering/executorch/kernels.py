"""What a captured graph calls for ExecuTorch: quantized linears and tables, attention over a cache that it owns."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn

from edgeq.errors import UnsupportedModelError
from edgeq.lowering import operators
from edgeq.lowering.executorch.carriers import QuantizedLinear, carrier, check_table, in_table
from edgeq.lowering.stateful import AttentionCall, quantized_weight
from edgeq.store import QuantizedModel

MASKED = -1e9
"""Added to the scores of positions that do not count; finite, as infinities become NaN in some kernels."""


@functools.cache
def llama_ops() -> Any:  # noqa: ANN401 - torch's own namespace
    """ExecuTorch's custom operators, registered with torch when they are first asked for."""
    from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401 - importing it registers them

    return torch.ops.llama


class ExecuTorchKernels(nn.Module):
    """Weights are made when a graph first asks for them, so that only those that a kernel reads are kept."""

    def __init__(self, store: QuantizedModel, context_length: int) -> None:
        super().__init__()
        self.store, self.context_length = store, context_length
        self.linears = nn.ModuleDict()
        self.tables = nn.ParameterDict()
        self.cache_shapes: dict[int, tuple[int, int]] = {}

    def add_linear(self, name: str) -> None:
        """Raises UnsupportedModelError where XNNPACK cannot hold the weight."""
        if key(name) not in self.linears:
            self.linears[key(name)] = QuantizedLinear(name, quantized_weight(self.store, name))

    def quantized_linears(self) -> dict[str, QuantizedLinear]:
        """The linears by `key`."""
        return {name: part for name, part in self.linears.items() if isinstance(part, QuantizedLinear)}

    def add_table(self, name: str) -> None:
        """An embedding; any group size, with zero points or without."""
        if key(name) not in self.tables:
            tensor = quantized_weight(self.store, name)
            check_table(name, tensor)
            self.tables[key(name)] = carrier(in_table(tensor), zero_points=True, int8_activations=False)

    def add_cache(self, layer: int, heads: int, key_size: int, value_size: int) -> None:
        """Keys and values of a layer, float32 `[1, context, heads, size]`."""
        if layer in self.cache_shapes:
            return
        self.cache_shapes[layer] = (heads, key_size)
        for part, size in (("key", key_size), ("value", value_size)):
            self.register_buffer(f"{part}_cache_{layer}", torch.zeros(1, self.context_length, heads, size))

    def add_functions(self, graph: fx.Graph) -> dict[Any, Callable[..., Any]]:
        """The operators of `graph` that XNNPACK takes whole only as products with constant matrices.

        It has no mean over the last axis, and no slices of a rotary embedding; each operator that it lacks ends a
        delegate, lowering time grows with the number of delegates, and so does what is copied between them.
        """
        for node in graph.nodes:
            arguments: Any = node.args
            if node.target is operators.rms_norm:
                width = arguments[1].meta["val"].shape[0]
                self.register_buffer(f"mean_{width}", torch.full((1, width), 1.0 / width), persistent=False)
            elif node.target is operators.rotary:
                width = arguments[0].meta["val"].shape[-1]
                self.register_buffer(f"turn_{width}", _half_turn(width), persistent=False)
        return {operators.rms_norm: self._rms_norm, operators.rotary: self._rotary}

    def _rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        mean = nn.functional.linear(x * x, getattr(self, f"mean_{x.shape[-1]}"))
        return x * torch.rsqrt(mean + eps) * weight

    def _rotary(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        turned = nn.functional.linear(x, getattr(self, f"turn_{x.shape[-1]}"))
        return x * cos[:, None] + turned * sin[:, None]

    def linear(self, name: str, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        output: torch.Tensor = self.linears[key(name)](x, bias)
        return output

    def embedding(self, name: str, ids: torch.Tensor) -> torch.Tensor:
        return nn.functional.embedding(ids, self.tables[key(name)])

    def attention(  # noqa: PLR0917 - the protocol's
        self,
        call: AttentionCall,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        sinks: torch.Tensor | None,
        inputs: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        if "position_ids" not in inputs:
            return _encoder_attention(call, query, keys, values, inputs["attention_mask"])
        start = inputs["position_ids"][0, 0].item()
        torch._check_is_size(start)  # type: ignore[no-untyped-call]
        torch._check(start < self.context_length)  # type: ignore[no-untyped-call]
        whole_keys, whole_values = self._updated(call.layer, keys, values, start)
        if sinks is None and not call.window and not call.softcap:
            output: torch.Tensor = llama_ops().custom_sdpa(
                query.transpose(1, 2), whole_keys, whole_values, start, None, 0.0, True, call.scale
            )
            return output
        distance = inputs["position_ids"][0][:, None] - torch.arange(self.context_length)[None]
        allowed = distance >= 0
        if call.window:
            allowed = allowed & (distance < call.window)
        keys_first, values_first = whole_keys.transpose(1, 2), whole_values.transpose(1, 2)
        return _attend(call, query, keys_first, values_first, allowed[None, None], sinks)

    def append_cache(
        self, layer: int, key: torch.Tensor, value: torch.Tensor, inputs: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        raise UnsupportedModelError(
            "The model's attention could not be captured whole, and ExecuTorch's cache needs that.",
            remedy="Use --format onnx for it, or report the architecture.",
        )

    def _updated(
        self,
        layer: int,
        keys: torch.Tensor,
        values: torch.Tensor,
        start: Any,  # noqa: ANN401 - a symbolic integer
    ) -> tuple[torch.Tensor, torch.Tensor]:
        caches = []
        for part, new in (("key", keys), ("value", values)):
            cache = getattr(self, f"{part}_cache_{layer}")
            llama_ops().update_cache(new.transpose(1, 2), cache, start)
            caches.append(cache)
        return caches[0], caches[1]


def _half_turn(width: int) -> torch.Tensor:
    """`[width, width]` that takes the halves `(a, b)` to `(-b, a)`, the rotation that rotary embeddings are made of."""
    half = width // 2
    turn = torch.zeros(width, width)
    turn[:half, half:] = -torch.eye(half)
    turn[half:, :half] = torch.eye(half)
    return turn


def key(name: str) -> str:
    """A weight's name as torch allows it for a module."""
    return name.replace(".", "__")


def _encoder_attention(
    call: AttentionCall, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    allowed = mask[:, None, None].to(torch.bool)
    if call.causal:
        length = mask.shape[1]
        positions = torch.arange(length)
        allowed = allowed & (positions[:, None] >= positions[None])
    return _attend(call, query, keys, values, allowed, None)


def _attend(  # noqa: PLR0917 - what attention is made of
    call: AttentionCall,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    allowed: torch.Tensor,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """The textbook: `softmax(q k^T * scale) v`. `sinks` `[heads]` take part in the softmax and have no value."""
    batch, kv_heads, total, size = keys.shape
    repeats = query.shape[1] // kv_heads
    if repeats > 1:
        keys = keys[:, :, None].expand(batch, kv_heads, repeats, total, size).flatten(1, 2)
        values = values[:, :, None].expand(batch, kv_heads, repeats, total, values.shape[-1]).flatten(1, 2)
    scores = torch.matmul(query, keys.transpose(2, 3)) * call.scale
    if call.softcap:
        scores = torch.tanh(scores / call.softcap) * call.softcap
    scores = torch.where(allowed, scores, torch.tensor(MASKED))
    if sinks is not None:
        column = sinks.reshape(1, -1, 1, 1).expand(batch, -1, scores.shape[2], 1)
        weights = torch.cat((scores, column), dim=-1).softmax(-1)[..., :-1]
    else:
        weights = scores.softmax(-1)
    return torch.matmul(weights, values).transpose(1, 2)
