"""Calibration sequences: from text, from JSONL, from the model itself, and from edgeq's own sentences."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from edgeq.errors import CorruptInputError, UsageError
from edgeq.models import calibration, self_text
from edgeq.models.calibration import calibration_inputs
from edgeq.models.source import load
from edgeq.models.tokens import DATA
from runtime_tests.families import FAMILIES, Family, save_random
from tests.tiny_models import tiny_bert, tiny_llama

TEXT = "The boat left the harbour before the fog had lifted, and nobody on the quay waved.\n\n" * 60


def lines_of(name: str) -> list[str]:
    return (DATA / name).read_text(encoding="utf-8").splitlines()


def without_tokenizer(source: Path, directory: Path) -> Path:
    return shutil.copytree(source, directory, ignore=shutil.ignore_patterns("tokenizer*"))


def test_built_in_sentences_are_many_and_not_those_of_the_evaluation() -> None:
    sentences = lines_of("calibration.txt")
    assert len(set(sentences)) == len(sentences) >= 128
    assert all(sentence == sentence.strip() != "" for sentence in sentences)
    assert not set(sentences) & set(lines_of("sentences.txt"))
    evaluation = (DATA / "evaluation.txt").read_text(encoding="utf-8")
    assert not [sentence for sentence in sentences if sentence in evaluation]


def test_a_language_model_reads_windows_spread_over_the_text(llama: Path, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    sequences = calibration_inputs(llama, load(llama).info, path, sequences=5, length=24)
    assert [len(sequence) for sequence in sequences] == [24] * 5
    tokenizer = Tokenizer.from_file(str(llama / "tokenizer.json"))
    assert all(tokenizer.decode(list(sequence)).strip() in TEXT for sequence in sequences)
    assert sequences == calibration_inputs(llama, load(llama).info, path, sequences=5, length=24)


def test_no_sequence_is_longer_than_the_context(llama: Path, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    assert {len(ids) for ids in calibration_inputs(llama, load(llama).info, path, sequences=3, length=999)} == {128}


def test_an_encoder_reads_lines_spread_over_the_text(bert: Path, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(f"Sentence number {index}." for index in range(10)))
    sequences = calibration_inputs(bert, load(bert).info, path, sequences=5, length=64)
    tokenizer = Tokenizer.from_file(str(bert / "tokenizer.json"))
    assert [tokenizer.decode(list(ids)) for ids in sequences] == [
        f"Sentence number {index}." for index in range(0, 10, 2)
    ]


def test_jsonl_holds_texts_and_token_ids(llama: Path, bert: Path, tmp_path: Path) -> None:
    path = tmp_path / "mixed.jsonl"
    entries = [{"text": TEXT, "source": "x"}, [5, 6, 7], {"text": "a"}, [], list(range(50))]
    path.write_text("\n".join(map(json.dumps, entries)) + "\n\n")
    sequences = calibration_inputs(llama, load(llama).info, path, sequences=9999, length=16)
    assert sequences[-2:] == ((5, 6, 7), tuple(range(16)))  # one token predicts nothing, so "a" is left out
    tokenizer = Tokenizer.from_file(str(llama / "tokenizer.json"))
    assert sum(sequences[:-2], ()) == tuple(tokenizer.encode(TEXT).ids)
    assert len(calibration_inputs(llama, load(llama).info, path, sequences=3, length=16)) == 3
    whole = calibration_inputs(bert, load(bert).info, path, sequences=99, length=16)
    assert [len(sequence) for sequence in whole] == [16, 3, 3, 16]


@pytest.mark.parametrize("line", ["no json", "3", '{"content": "x"}', "[1, -2]", "[1.5]", "[true]", '{"text": 1}'])
def test_a_line_that_is_neither_is_named(llama: Path, tmp_path: Path, line: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(f"[1, 2]\n{line}\n")
    with pytest.raises(UsageError, match="Line 2 of"):
        calibration_inputs(llama, load(llama).info, path, sequences=4, length=8)


def test_what_is_read_of_a_long_jsonl_file_ends_with_a_whole_line(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "long.jsonl"
    path.write_text("[1, 2, 3]\n" * 10)
    monkeypatch.setattr(calibration, "LARGEST_TEXT", 35)
    assert calibration_inputs(llama, load(llama).info, path, sequences=9, length=8) == ((1, 2, 3),) * 3


def test_what_cannot_be_read_is_refused(llama: Path, tmp_path: Path) -> None:
    info = load(llama).info
    empty, unknown = tmp_path / "empty.txt", tmp_path / "unknown.jsonl"
    empty.write_text(" ")
    unknown.write_text("[1, 9999]")
    with pytest.raises(UsageError, match="too short"):
        calibration_inputs(llama, info, empty, sequences=4, length=8)
    with pytest.raises(UsageError, match="cannot be read"):
        calibration_inputs(llama, info, tmp_path / "absent.txt", sequences=4, length=8)
    with pytest.raises(CorruptInputError, match="9999"):
        calibration_inputs(llama, info, unknown, sequences=4, length=8)
    unknown.write_text("\n")
    with pytest.raises(UsageError, match="no tokens"):
        calibration_inputs(llama, info, unknown, sequences=4, length=8)


def test_without_a_tokenizer_only_ids_can_be_read(llama: Path, tmp_path: Path) -> None:
    directory = without_tokenizer(llama, tmp_path / "bare")
    text, ids = tmp_path / "t.txt", tmp_path / "t.jsonl"
    text.write_text(TEXT)
    ids.write_text("[1, 2]")
    info = load(directory).info
    assert calibration_inputs(directory, info, ids, sequences=4, length=8) == ((1, 2),)
    with pytest.raises(UsageError, match="no tokenizer"):
        calibration_inputs(directory, info, text, sequences=4, length=8)


def test_an_encoder_takes_built_in_sentences_and_then_pairs_of_them(bert: Path) -> None:
    info = dataclasses.replace(load(bert).info, context_length=512)
    few = calibration_inputs(bert, info, sequences=16, length=512)
    many = calibration_inputs(bert, info, sequences=400, length=512)
    assert (len(set(few)), len(set(many))) == (16, 400)
    assert set(few) <= set(many)
    assert max(map(len, calibration_inputs(bert, info, sequences=400, length=9))) == 9


def test_an_encoder_without_a_tokenizer_takes_random_ids(tmp_path: Path) -> None:
    directory = without_tokenizer(tiny_bert(tmp_path / "whole"), tmp_path / "bare")
    sequences = calibration_inputs(directory, load(directory).info, sequences=7, length=32)
    assert sequences == calibration_inputs(directory, load(directory).info, sequences=7, length=32)
    assert len(set(sequences)) == 7


def test_a_language_model_writes_its_own_text(llama: Path) -> None:
    heard: list[tuple[int, int]] = []
    info = load(llama).info
    sequences = calibration_inputs(
        llama, info, sequences=6, length=20, progress=lambda done, total, _: heard.append((done, total))
    )
    assert sequences == calibration_inputs(llama, info, sequences=6, length=20)
    assert [len(sequence) for sequence in sequences] == [20] * 6
    assert {sequence[0] for sequence in sequences} == {0}  # the begin-of-text token of config.json
    assert len(set(sequences)) == 6
    assert heard == [(6 * length, 120) for length in range(2, 21)]


def test_samples_follow_the_models_own_distribution(tmp_path: Path) -> None:
    """Cached steps must sample from what one forward over the whole text says."""
    directory = tiny_llama(tmp_path, vocabulary=260, layers=1)
    sequences = self_text.write_sequences(directory, load(directory).info, (7,), sequences=600, length=3)
    model = AutoModelForCausalLM.from_pretrained(directory)
    tokens = torch.tensor(sequences)
    with torch.no_grad():
        logits = model(tokens).logits[:, :-1]
    assert bool((tokens[:, 0] == 7).all())
    likelihood = logits.log_softmax(-1)
    surprise = -likelihood.gather(2, tokens[:, 1:, None]).mean()
    entropy = -(likelihood.exp() * likelihood).sum(-1).mean()
    assert abs(float(surprise - entropy)) < 0.15  # four standard errors


@pytest.mark.parametrize(
    "family",
    [FAMILIES["gemma2"], FAMILIES["gpt2"], FAMILIES["bloom"], Family(model_type="mamba", options={"state_size": 4})],
    ids=lambda family: str(family.model_type),
)
def test_every_kind_of_cache_gives_what_no_cache_gives(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = save_random(family, tmp_path)
    info = load(directory, task="text-generation").info
    cached = self_text.write_sequences(directory, info, (4, 5), sequences=3, length=14)
    forward = self_text.continued

    def forgetful(module: torch.nn.Module, *arguments: object) -> torch.Tensor:
        module.register_forward_hook(lambda _, __, output: SimpleNamespace(logits=output.logits))
        return forward(module, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(self_text, "continued", forgetful)
    assert self_text.write_sequences(directory, info, (4, 5), sequences=3, length=14) == cached


def test_batches_keep_the_cache_small(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    per_sequence = 2 * 4 * 2 * 2 * 16 * 10  # keys and values, float32, layers, heads, head size, tokens
    monkeypatch.setattr(self_text, "LARGEST_CACHE", 3 * per_sequence)
    heard: list[int] = []
    sequences = self_text.write_sequences(
        llama, load(llama).info, (), sequences=7, length=10, progress=lambda done, *_: heard.append(done)
    )
    assert len(sequences) == 7
    assert heard[8::9] == [30, 60, 70]


def test_a_model_without_begin_of_text_starts_with_random_tokens(tmp_path: Path) -> None:
    directory = tiny_llama(tmp_path)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"bos_token_id": None}))
    sequences = self_text.write_sequences(directory, load(directory).info, (), sequences=20, length=4)
    assert len({sequence[0] for sequence in sequences}) > 10


@pytest.mark.parametrize(
    ("value", "message"), [(float("nan"), "'model.norm.weight' contains NaN"), (3e38, "The model computes NaN")]
)
def test_broken_weights_write_no_text(tmp_path: Path, value: float, message: str) -> None:
    directory = tiny_llama(tmp_path)
    weights = load_file(directory / "model.safetensors")
    weights["model.norm.weight"][:] = value
    weights["model.embed_tokens.weight"] *= 1e4
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CorruptInputError, match=message):
        self_text.write_sequences(directory, load(directory).info, (), sequences=2, length=4)
