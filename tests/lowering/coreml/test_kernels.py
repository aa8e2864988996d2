"""Attention of encoders, eagerly, against torch's own."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import nn

from edgeq.errors import UnsupportedModelError
from edgeq.lowering.coreml.kernels import Kernels
from edgeq.lowering.stateful import AttentionCall
from edgeq.store import QuantizedModel

HEADS, LENGTH, SIZE = 4, 6, 8


def kernels() -> Kernels:
    return Kernels(cast("QuantizedModel", None), 16, ())


def random(heads: int) -> torch.Tensor:
    return torch.randn(1, heads, LENGTH, SIZE)


def call(*, causal: bool = False, softcap: float = 0.0) -> AttentionCall:
    return AttentionCall(layer=0, scale=0.3, window=0, softcap=softcap, causal=causal)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("key_value_heads", [4, 2, 1])
def test_masked_attention_with_shared_heads(key_value_heads: int, causal: bool) -> None:
    torch.manual_seed(0)
    query, key, value = random(HEADS), random(key_value_heads), random(key_value_heads)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0]])
    visible = mask.bool()[:, None, None, :].expand(1, 1, LENGTH, LENGTH)
    if causal:
        visible = visible & torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    expected = nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=visible, scale=0.3, enable_gqa=True
    )
    found = kernels().attention(call(causal=causal), query, key, value, None, {"attention_mask": mask})
    torch.testing.assert_close(found, expected.transpose(1, 2))


def test_softcap_and_sinks() -> None:
    torch.manual_seed(1)
    query, key, value, sinks = random(HEADS), random(HEADS), random(HEADS), torch.randn(HEADS)
    scores = torch.tanh(torch.matmul(query * 0.3, key.transpose(2, 3)) / 2.0) * 2.0
    column = sinks.reshape(1, HEADS, 1, 1).expand(1, HEADS, LENGTH, 1)
    probabilities = torch.cat((scores, column), dim=-1).softmax(dim=-1)[..., :LENGTH]
    ones = torch.ones(1, LENGTH, dtype=torch.int64)
    found = kernels().attention(call(softcap=2.0), query, key, value, sinks, {"attention_mask": ones})
    torch.testing.assert_close(found, torch.matmul(probabilities, value).transpose(1, 2))


def test_masks_are_finite_in_float16() -> None:
    hidden = torch.zeros(1, LENGTH, dtype=torch.int64)
    mask = kernels()._mask(call(causal=True), LENGTH, {"attention_mask": hidden})
    assert torch.isfinite(mask.half()).all()


def test_attention_in_pieces_has_no_state() -> None:
    with pytest.raises(UnsupportedModelError, match=r"Layer 3.*--format onnx"):
        kernels().append_cache(3, random(1), random(1), {})
