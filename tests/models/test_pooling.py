"""Pooling against a loop over the tokens that count."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgeq.core.model import Pooling
from edgeq.models.architecture import load_module
from edgeq.models.pooling import SentenceEmbedding, pool

MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]])


def naive(hidden: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    rows = []
    for tokens, mask in zip(hidden, MASK, strict=True):
        kept = tokens[: int(mask.sum())]
        rows.append({"mean": kept.mean(0), "cls": kept[0], "max": kept.max(0).values, "lasttoken": kept[-1]}[pooling])
    return torch.stack(rows)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "lasttoken"])
def test_pool_ignores_padding(pooling: Pooling) -> None:
    hidden = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(pool(hidden, MASK, pooling), naive(hidden, pooling))


def test_no_pooling_keeps_every_token() -> None:
    hidden = torch.ones(3, 5, 7)
    assert pool(hidden, MASK, "none") is hidden


@pytest.mark.parametrize("normalize", [True, False])
def test_padding_does_not_change_an_embedding(bert: Path, normalize: bool) -> None:
    model, _ = load_module(bert, "feature-extraction", dtype="float32")
    encoder = SentenceEmbedding(model, "mean", normalize)
    with torch.no_grad():
        alone = encoder(torch.tensor([[1, 9, 8, 2]]), torch.ones(1, 4, dtype=torch.int64))
        ids, mask = torch.tensor([[1, 9, 8, 2, 0, 0]]), torch.tensor([[1, 1, 1, 1, 0, 0]])
        padded = encoder(ids, mask, torch.zeros_like(ids))
    torch.testing.assert_close(alone, padded, rtol=1e-4, atol=1e-5)
    assert np.isclose(float(alone.norm()), 1.0) == normalize
