"""Evaluation sequences: lengths, special tokens, budgets and what is refused."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer, processors

from edgeq.errors import CorruptInputError, UsageError
from edgeq.models import evaluation
from edgeq.models.evaluation import evaluation_inputs
from edgeq.models.source import load
from edgeq.models.tokens import vocabulary_size
from tests.tiny_models import END_OF_TEXT, VOCABULARY, tiny_bert, tiny_llama

DATA = Path(evaluation.__file__).parent / "data"


def without_tokenizer(directory: Path) -> Path:
    for path in directory.glob("tokenizer*"):
        path.unlink()
    return directory


def test_built_in_texts_are_what_the_documentation_says() -> None:
    assert 11_000 < (DATA / "evaluation.txt").stat().st_size < 14_000
    sentences = (DATA / "sentences.txt").read_text(encoding="utf-8").splitlines()
    assert len(set(sentences)) == len(sentences) == evaluation.SENTENCES


def test_a_language_model_reads_windows_spread_over_the_text(llama: Path) -> None:
    info = load(llama).info
    sequences = evaluation_inputs(llama, info)
    assert sequences == evaluation_inputs(llama, info)
    assert all(2 <= len(sequence) <= 128 for sequence in sequences)
    assert sum(map(len, sequences)) == evaluation.TOKENS
    tokenizer = Tokenizer.from_file(str(llama / "tokenizer.json"))
    text = (DATA / "evaluation.txt").read_text(encoding="utf-8")
    assert text.startswith(tokenizer.decode(sequences[0]))
    position = text.index(tokenizer.decode(sequences[-1], skip_special_tokens=False)[2:-2])
    assert position > 0.8 * len(text)


def test_windows_stand_behind_the_token_that_the_tokenizer_adds(tmp_path: Path) -> None:
    directory = tiny_llama(tmp_path)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    start = tokenizer.token_to_id(END_OF_TEXT)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END_OF_TEXT} $A", special_tokens=[(END_OF_TEXT, start)]
    )
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=500)
    tokenizer.save(str(directory / "tokenizer.json"))
    sequences = evaluation_inputs(directory, load(directory).info)
    assert all(sequence[0] == start and sequence.count(start) == 1 for sequence in sequences)
    assert {len(sequence) for sequence in sequences} == {128}


def test_a_large_vocabulary_means_fewer_tokens(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "LARGEST_LOGITS", 4 * VOCABULARY * 300)
    assert sum(map(len, evaluation_inputs(llama, load(llama).info))) == 256


def test_an_encoder_reads_sentences_with_its_special_tokens(bert: Path) -> None:
    sequences = evaluation_inputs(bert, load(bert).info)
    assert len(sequences) == evaluation.SENTENCES
    assert {(sequence[0], sequence[-1]) for sequence in sequences} == {(1, 2)}


def test_a_sentence_that_is_too_long_keeps_its_special_tokens(tmp_path: Path) -> None:
    directory = tiny_bert(tmp_path, context=16)
    sequences = evaluation_inputs(directory, load(directory).info)
    assert max(map(len, sequences)) == 16
    assert {(sequence[0], sequence[-1]) for sequence in sequences} == {(1, 2)}


def test_texts_of_the_user_replace_ours(tmp_path: Path, llama: Path, bert: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("One line.\n\nAnother line.\n", encoding="utf-8")
    assert len(evaluation_inputs(bert, load(bert).info, text)) == 2
    (sequence,) = evaluation_inputs(llama, load(llama).info, text)
    assert Tokenizer.from_file(str(llama / "tokenizer.json")).decode(sequence) == text.read_text(encoding="utf-8")


@pytest.mark.parametrize("content", ["", "a", "\n\n"])
def test_a_text_without_tokens_is_refused(tmp_path: Path, content: str, bert: Path, llama: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(content)
    if content != "a":
        with pytest.raises(UsageError):
            evaluation_inputs(bert, load(bert).info, text)
    if content != "\n\n":
        with pytest.raises(UsageError, match="longer text"):
            evaluation_inputs(llama, load(llama).info, text)


def test_a_text_that_is_not_there_is_refused(tmp_path: Path, llama: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        evaluation_inputs(llama, load(llama).info, tmp_path / "none.txt")


def test_a_tokenizer_of_another_model_is_refused(llama: Path) -> None:
    info = load(llama).info
    name = "model.embed_tokens.weight"
    small = dataclasses.replace(info.weights[name], shape=(100, 64))
    with pytest.raises(CorruptInputError, match="knows only 100 tokens"):
        evaluation_inputs(llama, dataclasses.replace(info, weights={name: small}))


def test_a_broken_tokenizer_is_refused(tmp_path: Path, llama: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CorruptInputError, match="tokenizer"):
        evaluation_inputs(tmp_path, load(llama).info)


@pytest.mark.parametrize("builder", [tiny_llama, tiny_bert])
def test_a_model_without_tokenizer_reads_the_same_random_ids(tmp_path: Path, builder: object) -> None:
    directory = without_tokenizer(builder(tmp_path))  # type: ignore[operator]
    info = load(directory).info
    sequences = evaluation_inputs(directory, info)
    assert sequences == evaluation_inputs(directory, info)
    assert len(set(sequences)) == len(sequences) > 1
    assert max(map(max, sequences)) < vocabulary_size(info)


def test_a_slow_tokenizer_goes_through_transformers(tmp_path: Path, bert: Path) -> None:
    directory = tmp_path / "model"
    shutil.copytree(bert, directory)
    without_tokenizer(directory)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "a", "is", "on"]
    (directory / "vocab.txt").write_text("\n".join(words))
    sequences = evaluation_inputs(directory, load(directory).info)
    assert {(sequence[0], sequence[-1]) for sequence in sequences} == {(2, 3)}
    assert any(words.index("the") in sequence for sequence in sequences)
