"""A captured graph that is replayed with real weights says what the torch model says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgeq.core.recipe import Recipe
from edgeq.lowering.capture import capture
from edgeq.lowering.stateful import AttentionCall, Replay, dense_weights
from edgeq.models.architecture import build_module
from edgeq.models.source import load
from edgeq.quantization import allocate, quantize
from edgeq.store import QuantizedModel
from edgeq.targets.profiles import load_profile
from tests.tiny_models import tiny_bert, tiny_gpt2, tiny_llama, tiny_qwen2

LENGTH = 7


class PlainKernels(nn.Module):
    """The textbook version of each kernel, without a cache; remembers which weights were asked for."""

    def __init__(self, store: QuantizedModel) -> None:
        super().__init__()
        self.store = store
        self.asked: set[str] = set()

    def _weight(self, name: str) -> torch.Tensor:
        self.asked.add(name)
        return torch.from_numpy(self.store.quantized(name).dequantize())

    def linear(self, name: str, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return nn.functional.linear(x, self._weight(name), bias)

    def embedding(self, name: str, ids: torch.Tensor) -> torch.Tensor:
        return self._weight(name)[ids]

    def attention(  # noqa: PLR0917
        self,
        call: AttentionCall,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        sinks: torch.Tensor | None,
        inputs: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        assert sinks is None
        assert not call.window
        repeats = query.shape[1] // key.shape[1]
        keys, values = (part.repeat_interleave(repeats, dim=1) for part in (key, value))
        mask = None if call.causal else inputs["attention_mask"][:, None, None].bool()
        attended = nn.functional.scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, is_causal=call.causal, scale=call.scale
        )
        return attended.transpose(1, 2)

    def append_cache(
        self, layer: int, key: torch.Tensor, value: torch.Tensor, inputs: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        raise AssertionError(layer)


def _store(source: Path, directory: Path) -> QuantizedModel:
    model, target = load(source), load_profile("android")
    return quantize(model, allocate(model, Recipe(bits=8), target), directory)


@pytest.mark.parametrize("make", [tiny_llama, tiny_qwen2, tiny_gpt2])
def test_a_language_model_is_replayed(make: Callable[[Path], Path], tmp_path: Path) -> None:
    store = _store(make(tmp_path / "model"), tmp_path / "store")
    captured = capture(store.info, store.source_directory, 64)
    kernels = PlainKernels(store)
    ids = torch.arange(3, 3 + LENGTH)[None]
    answer = Replay(captured, store, kernels).run(
        {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "position_ids": torch.arange(LENGTH)[None],
            "kept_positions": torch.tensor([LENGTH - 1]),
        }
    )
    expected = _dequantized(store)(ids).logits[:, -1:]
    torch.testing.assert_close(answer, expected, atol=1e-4, rtol=1e-4)
    assert kernels.asked == {name for name in store.names() if store.is_quantized(name)}
    assert not dense_weights(captured, store)


def test_an_encoder_is_replayed(tmp_path: Path) -> None:
    store = _store(tiny_bert(tmp_path / "model", pooling="none"), tmp_path / "store")
    captured = capture(store.info, store.source_directory, 64)
    ids = torch.arange(3, 3 + LENGTH)[None]
    mask = (torch.arange(LENGTH) < LENGTH - 2).long()[None]
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    answer = Replay(captured, store, PlainKernels(store)).run(inputs)
    expected = _dequantized(store)(**inputs).last_hidden_state
    torch.testing.assert_close(answer[:, :-2], expected[:, :-2], atol=1e-4, rtol=1e-4)


def _dequantized(store: QuantizedModel) -> nn.Module:
    module = build_module(store.source_directory, store.info.task, device="cpu")
    names = [*store.names(), *store.info.tied]
    weights = {name: torch.from_numpy(np.array(store.dequantized(name))) for name in names}
    module.load_state_dict(weights, strict=False)
    module.train(False)
    return module
