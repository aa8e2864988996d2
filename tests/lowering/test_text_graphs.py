"""Tokenizers as graphs, beside the tokenizers themselves: every kind, on the hard texts, one by one and in batches."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from edgeq.errors import CorruptInputError, RuntimeUnavailableError, UnsupportedModelError
from edgeq.lowering.onnx.graph import GraphBuilder
from edgeq.lowering.onnx.text.graphs import (
    IDS,
    MASK,
    batch_tokenizer,
    detokenizer_model,
    model_of,
    text_input,
    tokenizer_model,
)
from edgeq.lowering.onnx.text.specification import read_specification
from edgeq.runtimes.hard_texts import first_difference, hard_texts
from edgeq.runtimes.onnxruntime import open_session
from edgeq.runtimes.text import DetokenizerGraph, TokenizerGraph
from tests.lowering import tokenizers_built_here as built

KINDS: dict[str, Callable[[], Tokenizer]] = {
    "uncased WordPiece": built.wordpiece,
    "cased WordPiece": lambda: built.wordpiece(lowercase=False),
    "WordPiece without accents": lambda: built.wordpiece(lowercase=False, strip_accents=True),
    "WordPiece that keeps control characters": lambda: built.wordpiece(clean_text=False),
    "byte-level BPE": built.byte_level,
    "byte-level BPE with ids around": lambda: built.byte_level(around=True),
    "byte-level BPE with Llama 3's pattern": lambda: built.byte_level_as(built.LLAMA_3),
    "unigram": built.unigram,
}
LONGEST = 48


@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_reads_every_hard_text_as_its_tokenizer(kind: str, tmp_path: Path) -> None:
    tokenizer = KINDS[kind]()
    graph = graph_of(tokenizer, tmp_path)
    texts = hard_texts(tokenizer, LONGEST)
    assert len(texts) >= 50
    expected = [tokenizer.encode(text).ids for text in texts]
    found = [graph.encode(text) for text in texts]
    assert [text for text, wanted, said in zip(texts, expected, found, strict=True) if wanted != said] == []


@pytest.mark.parametrize("kind", ["uncased WordPiece", "byte-level BPE with ids around", "unigram"])
def test_a_graph_reads_random_characters_as_its_tokenizer(kind: str, tmp_path: Path) -> None:
    """Assigned or not, of every plane; NUL before an apostrophe, where byte-level graphs are not exact, left out."""
    tokenizer = KINDS[kind]()
    graph = graph_of(tokenizer, tmp_path)
    generator = np.random.default_rng(7)
    blocks = [(0x20, 0x7F), (0xA0, 0x600), (0x900, 0x3100), (0x4E00, 0xA000), (0xAC00, 0xD7A4), (0x1F300, 0x1F700)]
    for _ in range(300):
        chosen = [blocks[index] for index in generator.integers(0, len(blocks), generator.integers(1, 24))]
        text = "".join(chr(generator.integers(*block)) for block in chosen)
        assert graph.encode(text) == tokenizer.encode(text).ids, repr(text)


def test_a_word_with_an_unknown_piece_is_unknown_as_a_whole(tmp_path: Path) -> None:
    """BertTokenizer alone would keep the pieces before it."""
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "un": 1, "##known": 2, "word": 3}, unk_token="[UNK]"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    plain = json.loads((tmp_path / "tokenizer.json").read_text())
    plain["model"]["vocab"]["a"] = 4
    (tmp_path / "tokenizer.json").write_text(json.dumps(plain))
    graph = opened(tokenizer_model(read_specification(tmp_path)), tmp_path)
    assert graph.encode("unknown word un☃ word☃ ☃ a") == [1, 2, 3, 0, 0, 0, 4]


@pytest.mark.parametrize("kind", ["uncased WordPiece", "byte-level BPE with ids around", "unigram"])
def test_a_batch_is_cut_and_padded_as_a_tokenizer_does(kind: str, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_str(KINDS[kind]().to_str())
    specification = read_specification(built.saved(tokenizer, tmp_path))
    builder = GraphBuilder()
    text = text_input("batch")
    made = batch_tokenizer(builder, text, specification, LONGEST)
    ir.save(model_of(builder, [text], made, ["batch", "length"]), tmp_path / "batch.onnx")
    session = open_session(tmp_path / "batch.onnx", extensions=True)
    texts = hard_texts(tokenizer, LONGEST)
    ids, mask, types = session.run([IDS, MASK, "token_type_ids"], {"text": np.array(texts, dtype=object)})
    tokenizer.enable_truncation(LONGEST)
    tokenizer.enable_padding(pad_id=0)
    expected = tokenizer.encode_batch(list(texts))
    assert ids.shape == (len(texts), LONGEST)
    assert ids.tolist() == [one.ids for one in expected]
    assert mask.tolist() == [one.attention_mask for one in expected]
    assert not types.any()


def test_a_batch_is_as_long_as_its_longest_text(tmp_path: Path) -> None:
    specification = read_specification(built.saved(built.wordpiece(), tmp_path))
    builder = GraphBuilder()
    text = text_input("batch")
    made = batch_tokenizer(builder, text, specification, LONGEST)
    ir.save(model_of(builder, [text], made, ["batch", "length"]), tmp_path / "batch.onnx")
    session = open_session(tmp_path / "batch.onnx", extensions=True)
    ids, mask = session.run([IDS, MASK], {"text": np.array(["", "."], dtype=object)})
    assert ids.shape == (2, 3)
    assert mask.tolist() == [[1, 1, 0], [1, 1, 1]]


def test_the_detokenizer_writes_any_ids_as_the_tokenizer(tmp_path: Path) -> None:
    """Random ids are mostly bytes that make no character; none at all, and ids beyond the vocabulary, are ids too."""
    tokenizer = built.byte_level()
    ir.save(detokenizer_model(read_specification(built.saved(tokenizer, tmp_path))), tmp_path / "detokenizer.onnx")
    graph = DetokenizerGraph(tmp_path / "detokenizer.onnx")
    generator = np.random.default_rng(3)
    size = tokenizer.get_vocab_size()
    rows = [generator.integers(0, size + 2, generator.integers(0, 24)).tolist() for _ in range(400)]
    rows += [generator.integers(2, 260, 12).tolist() for _ in range(400)]
    for text in hard_texts(tokenizer, LONGEST):
        ids = tokenizer.encode(text).ids
        rows += [ids[:length] for length in range(min(len(ids), 12))] + [ids]
    for row in rows:
        assert graph.decode(row) == tokenizer.decode(row, skip_special_tokens=True), row


@pytest.mark.parametrize(
    ("tokenizer", "reason"),
    [
        (Tokenizer(models.WordLevel({"a": 0}, unk_token="a")), "there are no operators for WordLevel"),  # noqa: S106
        (built.wordpiece(), "only the ids of byte-level BPE can be turned into text"),
    ],
)
def test_what_has_no_operators_is_refused(tokenizer: Tokenizer, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=reason):
        detokenizer_model(read_specification(built.saved(tokenizer, tmp_path)))


@pytest.mark.parametrize(
    ("part", "value", "reason"),
    [
        ("normalizer", {"type": "NFC"}, "its normalizer NFC is not one that looks at single characters"),
        ("pre_tokenizer", {"type": "Whitespace"}, "its pre_tokenizer Whitespace is not one"),
        ("pre_tokenizer", None, "it does not part words"),
    ],
)
def test_a_wordpiece_tokenizer_that_looks_further_is_refused(
    part: str, value: object, reason: str, tmp_path: Path
) -> None:
    plain = json.loads(built.wordpiece().to_str()) | {part: value}
    (tmp_path / "tokenizer.json").write_text(json.dumps(plain))
    with pytest.raises(UnsupportedModelError, match=reason) as error:
        read_specification(tmp_path)
    assert "Leave out --tokenizer graph" in error.value.remedy


def test_a_wordpiece_tokenizer_for_longer_words_is_refused(tmp_path: Path) -> None:
    plain = json.loads(built.wordpiece().to_str())
    plain["model"]["max_input_chars_per_word"] = 200
    (tmp_path / "tokenizer.json").write_text(json.dumps(plain))
    with pytest.raises(UnsupportedModelError, match="words of up to 200 letters"):
        read_specification(tmp_path)


def test_a_vocabulary_with_gaps_is_refused(tmp_path: Path) -> None:
    plain = json.loads(built.wordpiece().to_str())
    del plain["model"]["vocab"]["e"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(plain))
    with pytest.raises(UnsupportedModelError, match="have gaps"):
        tokenizer_model(read_specification(tmp_path))


def test_a_model_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"brings no tokenizer\.json"):
        read_specification(tmp_path)


def test_without_the_extensions_the_remedy_names_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("edgeq.runtimes.extensions.find_spec", lambda _: None)
    specification = read_specification(built.saved(built.wordpiece(), tmp_path))
    with pytest.raises(RuntimeUnavailableError, match=r"pip install 'edgeq\[tokenizer\]'"):
        opened(tokenizer_model(specification), tmp_path)


def test_what_an_operator_refuses_is_told(tmp_path: Path) -> None:
    """Unigram's does not take U+FFFF, and a vocabulary that has it leaves nothing to stand for it."""
    plain = json.loads(built.unigram().to_str())
    plain["model"]["vocab"].append(["\uffff", -5.0])
    (tmp_path / "tokenizer.json").write_text(json.dumps(plain))
    graph = opened(tokenizer_model(read_specification(tmp_path)), tmp_path)
    with pytest.raises(CorruptInputError, match="A graph that reads text failed"):
        graph.encode("a\uffffb")


def test_the_first_difference_is_found() -> None:
    assert first_difference([1, 2, 3], [1, 5, 4]) == 1
    assert first_difference([1, 2], [1, 2]) is None


def test_nfc_is_what_a_byte_level_graph_lacks(tmp_path: Path) -> None:
    """So that a tokenizer which composes accents is found out by the hard texts."""
    tokenizer = Tokenizer.from_str(built.byte_level().to_str())
    tokenizer.normalizer = normalizers.NFC()
    graph = graph_of(tokenizer, tmp_path)
    differing = [text for text in hard_texts(tokenizer, LONGEST) if graph.encode(text) != tokenizer.encode(text).ids]
    assert any("cafe\u0301" in text for text in differing)


def graph_of(tokenizer: Tokenizer, directory: Path) -> TokenizerGraph:
    return opened(tokenizer_model(read_specification(built.saved(tokenizer, directory))), directory)


def opened(model: ir.Model, directory: Path) -> TokenizerGraph:
    ir.save(model, directory / "tokenizer.onnx")
    return TokenizerGraph(directory / "tokenizer.onnx")
