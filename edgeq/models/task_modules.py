"""The torch module of a task that answers in one forward; the float reference and the lowering share it."""

from __future__ import annotations

import inspect
from typing import Any, assert_never

import torch
from torch import nn

from edgeq.core.model import Pooling, Task
from edgeq.models.pooling import SentenceEmbedding


class TextClassifier(nn.Module):
    """int64 `[batch, sequence]` ids and mask (padding on the right) to logits: `[batch, labels]`, or
    `[batch, sequence, labels]` of a model that classifies tokens."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.takes_token_types = "token_type_ids" in inspect.signature(model.forward).parameters
        config: Any = model.config
        self.padding: int | None = config.get_text_config().pad_token_id

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        if self.padding:  # decoders look for a text's end by this token, and batches are padded with 0
            input_ids = torch.where(attention_mask == 0, self.padding, input_ids)
        extra = {"token_type_ids": token_type_ids} if self.takes_token_types and token_type_ids is not None else {}
        logits: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask, **extra).logits
        return logits


class ImageClassifier(nn.Module):
    """float32 `[batch, channels, height, width]` to logits `[batch, labels]`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(pixel_values=pixel_values).logits
        return logits


class ImageEmbedding(nn.Module):
    """float32 `[batch, channels, height, width]` to one vector each, `[batch, dimension]`.

    The vector is what the model itself pools; without a pooler the first token's (the class token of ViT and DeiT), or
    the mean over the positions of a feature map.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        output: Any = self.model(pixel_values=pixel_values)
        pooled: torch.Tensor | None = getattr(output, "pooler_output", None)
        if pooled is not None:
            return pooled.flatten(1)
        hidden: torch.Tensor = output.last_hidden_state
        return hidden[:, 0] if hidden.dim() == 3 else hidden.flatten(2).mean(2)


def task_module(task: Task, model: nn.Module, pooling: Pooling, normalize: bool) -> nn.Module | None:
    """`model` with what its task asks for behind it; None for text generation, which has a cache
    as well, and for a plain module, which is its own."""
    match task:
        case "text-generation" | "module":
            return None
        case "feature-extraction":
            return SentenceEmbedding(model, pooling, normalize)
        case "text-classification" | "token-classification":
            return TextClassifier(model)
        case "image-classification":
            return ImageClassifier(model)
        case "image-feature-extraction":
            return ImageEmbedding(model)
    assert_never(task)
