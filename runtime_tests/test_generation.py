"""The drivers on a real session: the cache, batches, text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeq.errors import CorruptInputError
from edgeq.runtimes.onnxruntime import Encoder, TextGenerator
from edgeq.runtimes.opening import open_bundle
from edgeq.validation.reference_set import ReferenceSet
from runtime_tests.tiny_onnx import make_bundle


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("language"))


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("sentences"), task="feature-extraction")


def opened(bundle: Path) -> TextGenerator:
    model = open_bundle(bundle, threads=1)
    assert isinstance(model, TextGenerator)
    return model


def test_pieces_through_the_cache_equal_the_whole(language: Path) -> None:
    model, reference = opened(language), ReferenceSet.open(language / "validation")
    ids = list(reference.sequences[0])
    whole = model.prefill(ids, keep=0)
    pieces = [model.prefill(ids[:7], keep=0), model.forward(ids[7:20], keep=0)]
    pieces += [model.step(token)[None] for token in ids[20:]]
    assert np.abs(np.concatenate(pieces) - whole).max() < 1e-4
    assert np.abs(whole - reference.dequantized_values(0)).max() < 1e-4


def test_a_prefill_pays_for_the_last_position_only(language: Path) -> None:
    model = opened(language)
    whole = model.prefill([5, 6, 7], keep=0)
    last = model.prefill([5, 6, 7])
    assert last.shape == (1, whole.shape[1])
    assert np.abs(last[0] - whole[2]).max() < 1e-5


def test_greedy_text_is_the_reference_s_own_choice(language: Path) -> None:
    model = opened(language)
    ids = model.encode("w5 w6 w7")
    expected: list[int] = []
    while len(expected) < 6:
        token = int(model.prefill([*ids, *expected], keep=0)[-1].argmax())
        expected.append(token)
    assert list(model.generate_tokens(ids, max_new_tokens=6)) == expected
    assert model.generate("w5 w6 w7", max_new_tokens=6).split() == [f"w{token}" for token in expected]


def test_a_padded_batch_equals_single_sentences(sentences: Path) -> None:
    model = open_bundle(sentences, threads=1)
    assert isinstance(model, Encoder)
    texts = ["w2", "w3 w4 w5", "w9 w8 w7 w6"]
    together = model.encode(texts)
    alone = np.concatenate([model.encode([text]) for text in texts])
    assert together.shape == (3, 64)
    assert np.abs(together - alone).max() < 1e-5


def test_a_file_that_the_runtime_refuses(language: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(CorruptInputError, match="ONNX Runtime refuses"):
        TextGenerator(tmp_path / "model.onnx", opened(language).interface)
