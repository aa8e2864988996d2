"""Tasks beside text generation and embeddings: how they are told, and that their modules say what transformers says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    ConvNextConfig,
    ConvNextModel,
)

from edgeq.core.images import pictures
from edgeq.core.model import Task
from edgeq.core.task import TASKS
from edgeq.errors import UnsupportedModelError, UsageError
from edgeq.models.architecture import build_module, detect_task
from edgeq.models.calibration import calibration_inputs
from edgeq.models.evaluation import PICTURES, evaluation_inputs
from edgeq.models.reference import FLOAT, run_reference
from edgeq.models.source import load
from edgeq.models.task_modules import ImageEmbedding
from tests.tiny_tasks import IMAGE_SIZE, LABELS, tiny_bert_classifier, tiny_convnext, tiny_distilbert_tagger, tiny_vit


@pytest.mark.parametrize(
    ("architecture", "model_type", "task"),
    [
        ("BertForSequenceClassification", "bert", "text-classification"),
        ("DistilBertForTokenClassification", "distilbert", "token-classification"),
        ("ViTForImageClassification", "vit", "image-classification"),
        ("DeiTForImageClassificationWithTeacher", "deit", "image-classification"),
        ("ViTModel", "vit", "image-feature-extraction"),
        ("Dinov2Model", "dinov2", "image-feature-extraction"),
        ("BertModel", "bert", "feature-extraction"),
        ("BertLMHeadModel", "bert", "text-generation"),
    ],
)
def test_the_architecture_names_the_task(tmp_path: Path, architecture: str, model_type: str, task: Task) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type, "architectures": [architecture]}))
    assert detect_task(tmp_path) == task
    assert task in TASKS


def test_a_head_that_is_not_known_is_refused_with_the_tasks_that_are(tmp_path: Path) -> None:
    config = {"model_type": "vit", "architectures": ["ViTForMaskedImageModeling"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match="no head that edgeq knows") as caught:
        detect_task(tmp_path)
    assert "image-classification" in caught.value.remedy


@pytest.mark.parametrize(
    ("task", "words"),
    [("image-classification", "no image-classification model"), ("text-generation", "text-generation")],
)
def test_a_task_that_the_type_does_not_have_is_refused(tmp_path: Path, task: Task, words: str) -> None:
    config = {"model_type": "distilbert" if task == "text-generation" else "bert", "architectures": ["BertModel"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match=words):
        build_module(tmp_path, task)


def test_an_encoder_with_a_decoder_classifies_nothing_here(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bart"}))
    with pytest.raises(UnsupportedModelError, match="encoder with a decoder"):
        build_module(tmp_path, "text-classification")


def test_labels_are_in_the_order_of_the_logits(tmp_path: Path) -> None:
    info = load(tiny_bert_classifier(tmp_path, labels=12)).info
    assert info.labels == tuple(f"class {index}" for index in range(12))
    assert info.image is None


def references(directory: Path, task: Task, sequences: tuple[tuple[int, ...], ...], output: Path) -> list[Any]:
    run_reference(source=directory, store=None, task=task, sequences=sequences, output=output)
    return [np.load(output / FLOAT / f"{index:04d}.npy") for index in range(len(sequences))]


def test_the_reference_of_texts_is_what_transformers_says(tmp_path: Path) -> None:
    directory, ids = tiny_bert_classifier(tmp_path / "model"), (5, 17, 200, 3)
    model = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([ids])).logits[0].numpy()
    (found,) = references(directory, "text-classification", (ids,), tmp_path / "out")
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_reference_of_images_is_what_transformers_says(tmp_path: Path) -> None:
    directory = tiny_convnext(tmp_path / "model")
    image = load(directory).info.image
    assert image is not None
    assert (image.height, image.width, image.channels) == (IMAGE_SIZE, IMAGE_SIZE, 3)
    model = AutoModelForImageClassification.from_pretrained(directory).eval()
    with torch.no_grad():
        expected = model(pixel_values=torch.from_numpy(pictures([2, 5], image))).logits.numpy()
    assert expected.shape == (2, LABELS)
    found = references(directory, "image-classification", ((2,), (5,)), tmp_path / "out")
    np.testing.assert_allclose(np.stack(found), expected, atol=1e-5)


def test_a_learned_pooler_is_left_out_and_the_class_token_stays(tmp_path: Path) -> None:
    directory = tiny_vit(tmp_path, head=False)
    source = load(directory)
    assert source.info.task == "image-feature-extraction"
    assert not any("pooler" in name for name in source.info.weights)
    assert any("pooler" in note for note in source.notes)
    model = AutoModel.from_pretrained(directory, add_pooling_layer=False).eval()
    pixels = torch.rand(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    with torch.no_grad():
        assert torch.equal(ImageEmbedding(model)(pixels), model(pixels).last_hidden_state[:, 0])


def test_a_pooler_without_weights_is_how_the_model_ends() -> None:
    config = ConvNextConfig(image_size=32, hidden_sizes=[8, 16], depths=[1, 1], num_stages=2)
    model = ConvNextModel(config)
    model.train(mode=False)
    pixels = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(ImageEmbedding(model)(pixels), model(pixels).pooler_output)


def test_texts_take_sentences_and_images_pictures(tmp_path: Path) -> None:
    tagger = load(tiny_distilbert_tagger(tmp_path / "tagger"))
    assert len(evaluation_inputs(tagger.directory, tagger.info)) == 64
    assert len(calibration_inputs(tagger.directory, tagger.info, sequences=10, length=32)) == 10
    vit = load(tiny_vit(tmp_path / "vit"))
    assert evaluation_inputs(vit.directory, vit.info) == tuple((number,) for number in range(PICTURES))
    with pytest.raises(UsageError, match="reads no text"):
        evaluation_inputs(vit.directory, vit.info, tmp_path / "text")
    with pytest.raises(UsageError, match="does not calibrate models of images"):
        calibration_inputs(vit.directory, vit.info, sequences=10, length=32)
