"""The model as torch modules that Core ML's converter reads: caches are buffers, and masks are finite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import fx, nn

from edgeq.errors import UnsupportedModelError
from edgeq.lowering import operators as captured_operators
from edgeq.lowering.capture import CapturedModel
from edgeq.lowering.coreml import operators
from edgeq.lowering.stateful import AttentionCall, Replay, quantized_uses
from edgeq.store import QuantizedModel

LARGEST = 65504.0
MASKED = -3e4
"""What is added to the score of a hidden position: finite in float16, and e to its power is zero."""


class _Masks:
    """Masks by window and causality; not a plain dict, which torch.export would take for state of the module."""

    def __init__(self) -> None:
        self.known: dict[tuple[int, bool], torch.Tensor] = {}


class Kernels(nn.Module):
    """Quantized weights by number, in the order of first use; the key-value caches, float16 at run time."""

    def __init__(self, store: QuantizedModel, context_length: int, weights: Iterable[str]) -> None:
        super().__init__()
        self.store, self.context_length = store, context_length
        self.numbers = {name: number for number, name in enumerate(dict.fromkeys(weights))}
        self.cache_shapes: dict[int, tuple[int, int]] = {}
        self._masks = _Masks()

    def begin(self) -> None:
        """Forget the masks of the last call."""
        self._masks.known.clear()

    def add_cache(self, layer: int, heads: int, size: int) -> None:
        self.cache_shapes[layer] = (heads, size)
        for part in ("key", "value"):
            zeros = torch.zeros(1, heads, self.context_length, size)
            self.register_buffer(f"{part}_{layer}", zeros, persistent=True)

    def linear(self, name: str, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        outputs, _ = self.store.info.weights[name].outputs_inputs
        result: torch.Tensor = operators.linear(x, self._number(name), outputs, bias)
        return result

    def embedding(self, name: str, ids: torch.Tensor) -> torch.Tensor:
        _, width = self.store.info.weights[name].outputs_inputs
        result: torch.Tensor = operators.embedding(ids, self._number(name), width)
        return result

    def attention(  # noqa: PLR0917 - as in Kernels of `stateful`
        self,
        call: AttentionCall,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        sinks: torch.Tensor | None,
        inputs: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        """Heads that share a key are stacked, so that no key is repeated."""
        if self.cache_shapes:
            key = self._updated("key", call.layer, key, inputs)
            value = self._updated("value", call.layer, value, inputs)
        mask = self._mask(call, query.shape[2], inputs)
        _, heads, _, size = query.shape
        shared = key.shape[1]
        if shared != heads and not self.cache_shapes:
            repeats = heads // shared  # a stack of a length that varies has no shape that coremltools could tell
            key, value = (part.repeat_interleave(repeats, dim=1) for part in (key, value))
            shared = heads
        scaled = (query * call.scale)[0]
        if shared != heads:
            scaled = scaled.reshape(shared, -1, size)
        scores = torch.matmul(scaled, key[0].transpose(1, 2))
        if shared != heads:
            scores = scores.reshape(heads, -1, key.shape[2])
        if call.softcap:
            scores = torch.tanh(scores / call.softcap) * call.softcap
        probabilities = _softmax(scores + mask, sinks)
        if shared != heads:
            probabilities = probabilities.reshape(shared, -1, key.shape[2])
        result = torch.matmul(probabilities, value[0])
        if shared != heads:
            result = result.reshape(heads, -1, value.shape[3])
        return result.transpose(0, 1)[None]

    def append_cache(
        self, layer: int, key: torch.Tensor, value: torch.Tensor, inputs: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        raise UnsupportedModelError(
            f"Layer {layer}'s attention is not of a kind that edgeq can give a Core ML state.",
            remedy="Use --format onnx, or --format executorch.",
        )

    def _number(self, name: str) -> int:
        return self.numbers[name]

    def _updated(self, part: str, layer: int, new: torch.Tensor, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        cache: torch.Tensor = getattr(self, f"{part}_{layer}")
        updated: torch.Tensor = operators.update_cache(cache, new, inputs["position"])
        cache.copy_(updated)
        return updated

    def _mask(self, call: AttentionCall, sequence: int, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """What is added to the scores; one tensor for all layers that see the same positions."""
        kind = (call.window, call.causal)
        known = self._masks.known
        if kind not in known:
            known[kind] = self._new_mask(call, sequence, inputs)
        return known[kind]

    def _new_mask(self, call: AttentionCall, sequence: int, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        if not self.cache_shapes:
            hidden = 1.0 - inputs["attention_mask"].to(torch.float32)
            mask = (hidden * MASKED)[:, None, :]
            if not call.causal:
                return mask
            index = torch.arange(sequence)
            later = index[None, :] > index[:, None]
            return mask + later.to(torch.float32)[None] * MASKED / 2
        position = inputs["position_ids"].reshape(sequence, 1)
        index = torch.arange(self.context_length, dtype=torch.int32)[None, :]
        hidden_now = index > position
        if call.window:
            hidden_now = torch.logical_or(hidden_now, index <= position - call.window)
        return (hidden_now.to(torch.float32) * MASKED)[None]


class Model(Replay):
    """The captured graph, with norms that cannot overflow in float16."""

    def _compute(self, node: fx.Node, values: dict[fx.Node, Any], inputs: Mapping[str, torch.Tensor]) -> Any:  # noqa: ANN401
        if node.target is captured_operators.rms_norm:
            x, weight, eps = (values[argument] if isinstance(argument, fx.Node) else argument for argument in node.args)
            return operators.rms_norm(x, weight, eps)
        return super()._compute(node, values, inputs)


class TextFunction(nn.Module):
    """`input_ids` int32 `[1, S]`, `position` int32 `[1]` of the first of them, and with S > 1 `last` int32 `[1]`, the
    index among them whose logits `[1, 1, vocabulary]` are returned."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, position: torch.Tensor, last: torch.Tensor | None = None
    ) -> torch.Tensor:
        sequence = input_ids.shape[1]
        position_ids = (position + torch.arange(sequence, dtype=torch.int32))[None]
        kept = torch.zeros(1, dtype=torch.int32) if last is None else last
        inputs = {
            "input_ids": input_ids,
            "attention_mask": torch.ones(1, sequence, dtype=torch.int32),
            "position_ids": position_ids,
            "kept_positions": kept,
            "position": position,
        }
        self.model.kernels.begin()
        return self.model.run(inputs)


class EncoderFunction(nn.Module):
    """`input_ids`, `attention_mask` and, where the model takes them, `token_type_ids`, int32 `[1, S]`, to the captured
    graph's first result."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        self.model.kernels.begin()
        return self.model.run(inputs)


def build_model(captured: CapturedModel, store: QuantizedModel, context_length: int) -> Model:
    """The model with its caches, whose shapes are those of the captured keys."""
    kernels = Kernels(store, context_length, quantized_uses(captured, store).values())
    if store.info.task == "text-generation":
        for node in captured.program.graph.nodes:
            if node.target is captured_operators.attention:
                _, heads, _, size = node.args[1].meta["val"].shape
                kernels.add_cache(node.args[4], heads, size)
    model = Model(captured, store, kernels)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer[buffer <= -LARGEST] = MASKED
    return model


def _softmax(scores: torch.Tensor, sinks: torch.Tensor | None) -> torch.Tensor:
    """`[heads, sequence, keys]`; a sink takes part in the sum and then drops out."""
    if sinks is None:
        return torch.softmax(scores, dim=-1)
    column = sinks.reshape(-1, 1, 1).expand(-1, scores.shape[1], 1)
    return torch.softmax(torch.cat((scores, column), dim=-1), dim=-1)[..., :-1]
