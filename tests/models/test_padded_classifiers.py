"""A classifier says of a text in a padded batch what it says of it alone, whatever its padding token is."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from edgeq.models.task_modules import TextClassifier


@pytest.mark.parametrize("padding", [0, 5])
def test_a_decoder_finds_the_end_of_a_padded_text(padding: int) -> None:
    """Drivers pad with 0; the decoder counts every other token than its own padding as text."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=padding,
        initializer_range=0.125,
    )
    config.num_labels = 3
    classifier = TextClassifier(LlamaForSequenceClassification(config).eval())  # type: ignore[no-untyped-call]
    ids = torch.tensor([[7, 8, 9, 0, 0], [11, 12, 13, 14, 15]])
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    with torch.no_grad():
        together, alone = classifier(ids, mask)[0], classifier(ids[:1, :3], mask[:1, :3])[0]
    assert torch.allclose(together, alone, atol=1e-5)
