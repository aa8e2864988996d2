"""A real sentence encoder, against the numbers that its card's example prints everywhere."""

from __future__ import annotations

import numpy as np
import torch

from edgeq.models.architecture import load_module
from edgeq.models.pooling import SentenceEmbedding
from edgeq.models.source import load
from edgeq.models.tokens import load_tokenizer
from tests.models.sentence_model import minilm

SENTENCE = "This is an example sentence"
PUBLISHED = [0.0676569, 0.0634959, 0.0487131, 0.0793049, 0.0374480]


def test_the_checkpoint_is_understood() -> None:
    info = load(minilm()).info
    assert (info.task, info.pooling, info.normalize, info.context_length) == ("feature-extraction", "mean", True, 256)
    assert info.licence == "apache-2.0"
    assert sum(weight.role == "linear" for weight in info.weights.values()) == 36


def test_the_embedding_is_the_published_one() -> None:
    encode = load_tokenizer(minilm())
    assert encode is not None
    model, missing = load_module(minilm(), "feature-extraction", dtype="float32")
    assert missing == ()
    ids = torch.tensor([encode(SENTENCE, True)])
    with torch.no_grad():
        embedding = SentenceEmbedding(model, "mean", True)(ids, torch.ones_like(ids))[0].numpy()
    assert embedding.shape == (384,)
    np.testing.assert_allclose(embedding[:5], PUBLISHED, atol=2e-6)
