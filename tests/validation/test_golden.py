"""The tokenizer must spell the golden inputs as they were spelt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from edgeq.validation.golden import tokenizer_problem


def write_tokenizer(path: Path, words: list[str]) -> Path:
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token=words[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(path))
    return path


def write_golden(path: Path, *, text: str = "red green") -> Path:
    path.write_text(json.dumps({"cases": [{"input_ids": [1, 2], "text": text}]}))
    return path


def test_the_right_tokenizer(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path / "tokenizer.json", ["?", "red", "green"])
    assert tokenizer_problem(write_golden(tmp_path / "golden.json"), tokenizer) == ""


def test_a_swapped_tokenizer_is_noticed(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path / "tokenizer.json", ["?", "green", "red"])
    assert "red green" in tokenizer_problem(write_golden(tmp_path / "golden.json"), tokenizer)


def test_a_model_without_a_tokenizer(tmp_path: Path) -> None:
    assert tokenizer_problem(write_golden(tmp_path / "golden.json", text=""), None) == ""


@pytest.mark.parametrize("content", [None, "", "[]", '{"cases": 3}', '{"cases": [{"text": "x"}]}'])
def test_an_unreadable_golden_file(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "golden.json").write_text(content)
    assert "unreadable" in tokenizer_problem(tmp_path / "golden.json", None)


def test_an_unreadable_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    problem = tokenizer_problem(write_golden(tmp_path / "golden.json"), tmp_path / "tokenizer.json")
    assert "not a tokenizer" in problem
