"""Attention over the cache, norms and rotary embeddings, eagerly, against torch's own."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import nn

from edgeq.errors import UnsupportedModelError
from edgeq.lowering.executorch.kernels import ExecuTorchKernels, _half_turn
from edgeq.lowering.patches import rotate_half
from edgeq.lowering.stateful import AttentionCall
from edgeq.store import QuantizedModel

HEADS, LENGTH, SIZE, CONTEXT = 4, 6, 8, 16
PIECES = ((0, 3), (3, 5), (5, 6))


def kernels(key_value_heads: int = HEADS) -> ExecuTorchKernels:
    made = ExecuTorchKernels(cast("QuantizedModel", None), CONTEXT)
    made.add_cache(0, key_value_heads, SIZE, SIZE)
    return made


def random(heads: int) -> torch.Tensor:
    return torch.randn(1, heads, LENGTH, SIZE)


def call(*, causal: bool = True, window: int = 0, softcap: float = 0.0) -> AttentionCall:
    return AttentionCall(layer=0, scale=0.3, window=window, softcap=softcap, causal=causal)


def textbook(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, chosen: AttentionCall, sinks: torch.Tensor | None
) -> torch.Tensor:
    """A whole causal sequence `[1, heads, length, size]` at once, to `[1, length, heads, size]`."""
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    scores = query @ key.transpose(2, 3) * chosen.scale
    if chosen.softcap:
        scores = torch.tanh(scores / chosen.softcap) * chosen.softcap
    distance = torch.arange(LENGTH)[:, None] - torch.arange(LENGTH)[None]
    hidden = (distance < 0) | (distance >= (chosen.window or LENGTH))
    exponents = scores.masked_fill(hidden, -torch.inf).exp()
    total = exponents.sum(-1, keepdim=True)
    if sinks is not None:
        total = total + sinks.exp().reshape(1, -1, 1, 1)
    return (exponents / total @ value).transpose(1, 2)


@pytest.mark.parametrize("key_value_heads", [4, 2, 1])
@pytest.mark.parametrize("chosen", [call(), call(window=2), call(softcap=2.0), call(window=3, softcap=1.5)])
def test_pieces_over_the_cache_equal_the_whole(key_value_heads: int, chosen: AttentionCall) -> None:
    torch.manual_seed(0)
    query, key, value = random(HEADS), random(key_value_heads), random(key_value_heads)
    made = kernels(key_value_heads)
    # What an earlier sequence left at later positions must not be read.
    made.get_buffer("key_cache_0").fill_(3.0)
    made.get_buffer("value_cache_0").fill_(5.0)
    found = []
    for start, stop in PIECES:
        parts = [part[:, :, start:stop] for part in (query, key, value)]
        inputs = {"position_ids": torch.arange(start, stop)[None]}
        found.append(made.attention(chosen, parts[0], parts[1], parts[2], None, inputs))
    torch.testing.assert_close(torch.cat(found, 1), textbook(query, key, value, chosen, None), atol=1e-5, rtol=1e-5)


def test_sinks_take_part_in_the_softmax() -> None:
    torch.manual_seed(1)
    query, key, value, sinks = random(HEADS), random(HEADS), random(HEADS), torch.randn(HEADS)
    found = kernels().attention(call(), query, key, value, sinks, {"position_ids": torch.arange(LENGTH)[None]})
    torch.testing.assert_close(found, textbook(query, key, value, call(), sinks), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("key_value_heads", [4, 2])
def test_encoders_do_not_see_padding(key_value_heads: int, causal: bool) -> None:
    torch.manual_seed(2)
    query, key, value = random(HEADS), random(key_value_heads), random(key_value_heads)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0]])
    visible = mask.bool()[:, None, None].expand(1, 1, LENGTH, LENGTH)
    if causal:
        visible = visible & torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    expected = nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=visible, scale=0.3, enable_gqa=True
    )
    found = kernels().attention(call(causal=causal), query, key, value, None, {"attention_mask": mask})
    torch.testing.assert_close(found, expected.transpose(1, 2))


def test_a_sentence_of_padding_alone_stays_finite() -> None:
    parts = [random(HEADS) for _ in range(3)]
    mask = torch.zeros(1, LENGTH, dtype=torch.int64)
    found = kernels().attention(call(causal=False), parts[0], parts[1], parts[2], None, {"attention_mask": mask})
    assert torch.isfinite(found).all()


def test_a_turn_is_a_product_with_a_constant_matrix() -> None:
    x, cos, sin = torch.randn(1, HEADS, LENGTH, SIZE), torch.randn(1, LENGTH, SIZE), torch.randn(1, LENGTH, SIZE)
    made = kernels()
    made.register_buffer(f"turn_{SIZE}", _half_turn(SIZE), persistent=False)
    torch.testing.assert_close(made._rotary(x, cos, sin), rotate_half(x, cos, sin))


def test_a_norm_is_torchs() -> None:
    x, weight = torch.randn(2, LENGTH, 24), torch.randn(24)
    made = kernels()
    made.register_buffer("mean_24", torch.full((1, 24), 1 / 24), persistent=False)
    torch.testing.assert_close(made._rms_norm(x, weight, 1e-5), nn.functional.rms_norm(x, (24,), weight, 1e-5))


def test_attention_in_pieces_has_no_cache() -> None:
    with pytest.raises(UnsupportedModelError, match="--format onnx"):
        kernels().append_cache(3, random(1), random(1), {})
