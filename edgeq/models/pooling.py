"""From token vectors to one sentence embedding, in torch; the float reference and the lowering share it."""

from __future__ import annotations

import inspect

import torch
from torch import nn

from edgeq.core.model import Pooling


class SentenceEmbedding(nn.Module):
    """A transformers encoder with pooling and normalisation behind it.

    forward takes int64 `[batch, sequence]` ids and mask (padding on the right) and gives `[batch, dimension]`, or
    `[batch, sequence, dimension]` where `pooling` is "none".
    """

    def __init__(self, model: nn.Module, pooling: Pooling, normalize: bool) -> None:
        super().__init__()
        self.model, self.pooling, self.normalize = model, pooling, normalize
        self.takes_token_types = "token_type_ids" in inspect.signature(model.forward).parameters

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        return self.embedding(self.token_vectors(input_ids, attention_mask, token_type_ids), attention_mask)

    def token_vectors(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None
    ) -> torch.Tensor:
        """What the encoder says of each token, `[batch, sequence, dimension]`."""
        extra = {"token_type_ids": token_type_ids} if self.takes_token_types and token_type_ids is not None else {}
        hidden: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask, **extra).last_hidden_state
        return hidden

    def embedding(self, hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Token vectors to what `forward` gives."""
        pooled = pool(hidden, attention_mask, self.pooling)
        return nn.functional.normalize(pooled, p=2.0, dim=-1) if self.normalize else pooled


def pool(hidden: torch.Tensor, attention_mask: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """`[batch, sequence, dimension]` to `[batch, dimension]`; unchanged for "none"."""
    if pooling == "none":
        return hidden
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "lasttoken":
        last = attention_mask.sum(1) - 1
        index = last[:, None, None].expand(-1, 1, hidden.shape[-1])
        return hidden.gather(1, index).squeeze(1)
    mask = attention_mask[:, :, None].to(hidden.dtype)
    if pooling == "max":
        return hidden.masked_fill(mask == 0, float("-inf")).amax(1)
    return (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
