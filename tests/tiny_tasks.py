"""Random classifiers of texts and models of images, of a few thousand weights, as Hugging Face directories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ConvNextConfig,
    ConvNextForImageClassification,
    DistilBertConfig,
    DistilBertForTokenClassification,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from tests.tiny_models import INITIALIZER_RANGE, VOCABULARY, save_encoder_tokenizer

IMAGE_SIZE = 32
LABELS = 10
Options = dict[str, Any]
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
_BERT: Options = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": INITIALIZER_RANGE,
    "pad_token_id": 0,
}
_VIT: Options = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": IMAGE_SIZE,
    "patch_size": 8,
    "initializer_range": INITIALIZER_RANGE,
}


def tiny_bert_classifier(directory: Path, labels: int = 3) -> Path:
    """A BertForSequenceClassification whose first labels are called so."""
    names = {index: f"class {index}" for index in range(labels)}
    config = BertConfig(**_BERT, id2label=names, label2id={name: index for index, name in names.items()})
    torch.manual_seed(0)
    return _save_text(BertForSequenceClassification(config), directory)


def tiny_roberta_scorer(directory: Path) -> Path:
    """A RobertaForSequenceClassification with a single logit, as cross-encoders have."""
    torch.manual_seed(0)
    return _save_text(RobertaForSequenceClassification(RobertaConfig(**_BERT, **_labels(1))), directory)


def tiny_distilbert_tagger(directory: Path) -> Path:
    """A DistilBertForTokenClassification."""
    config = DistilBertConfig(
        vocab_size=VOCABULARY,
        dim=64,
        hidden_dim=128,
        n_layers=2,
        n_heads=4,
        max_position_embeddings=128,
        initializer_range=INITIALIZER_RANGE,
        **_labels(5),
    )
    torch.manual_seed(0)
    return _save_text(DistilBertForTokenClassification(config), directory)


def tiny_vit(directory: Path, *, head: bool = True) -> Path:
    """A ViTForImageClassification, or a ViTModel with a learned pooler, as pre-training leaves it."""
    torch.manual_seed(0)
    config = ViTConfig(**_VIT, **_labels(LABELS))
    return _save_image(ViTForImageClassification(config) if head else ViTModel(config), directory)


def tiny_convnext(directory: Path) -> Path:
    """A ConvNextForImageClassification."""
    config = ConvNextConfig(
        image_size=IMAGE_SIZE,
        hidden_sizes=[32, 64],
        depths=[1, 1],
        num_stages=2,
        initializer_range=INITIALIZER_RANGE,
        **_labels(LABELS),
    )
    torch.manual_seed(0)
    return _save_image(ConvNextForImageClassification(config), directory)


def tiny_mobilenet(directory: Path) -> Path:
    """A MobileNetV2ForImageClassification whose batch norms have seen something."""
    config = MobileNetV2Config(
        image_size=IMAGE_SIZE, depth_multiplier=0.25, initializer_range=INITIALIZER_RANGE, **_labels(LABELS)
    )
    torch.manual_seed(0)
    return _save_image(MobileNetV2ForImageClassification(config), directory)


def _labels(count: int) -> Options:
    """Which configurations take, whatever their signatures say."""
    return {"num_labels": count}


def _save_text(model: PreTrainedModel, directory: Path) -> Path:
    _randomize(model)
    model.save_pretrained(directory)
    save_encoder_tokenizer(directory, VOCABULARY, 128)
    return directory


def _save_image(model: PreTrainedModel, directory: Path) -> Path:
    _randomize(model)
    model.save_pretrained(directory)
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    settings = {"size": size, "do_normalize": True, "image_mean": MEAN, "image_std": STD}
    (directory / "preprocessor_config.json").write_text(json.dumps(settings))
    return directory


def _randomize(model: PreTrainedModel) -> None:
    """Fresh biases are zero and fresh statistics neutral, which would hide one that a lowering forgets."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
