"""Divergence by token and two answers to one prompt, against what they are defined as."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from edgeq.validation.drift import language_drift, log_softmax, token_divergences
from edgeq.validation.texts import BEST, MOST_TOKENS, PROMPT_TOKENS, PROMPTS, answers_of, decoder, tokens_of

WORDS = ("once", " upon", " a", " time", " there")


def decode(ids: Sequence[int]) -> str:
    """As tokenizers do: a word that begins a text has no space before it."""
    return "".join(WORDS[token] for token in ids).lstrip()


def logits(seed: int, tokens: int = 6) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(size=(tokens, len(WORDS))).astype(np.float32)


def test_divergences_are_the_sum_over_the_vocabulary() -> None:
    p, q = np.array([[0.5, 0.5], [0.9, 0.1]]), np.array([[0.25, 0.75], [0.9, 0.1]])
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert token_divergences(np.log(p), np.log(q)) == [pytest.approx(expected), 0.0]
    with np.errstate(divide="ignore"):
        impossible = np.log(np.array([[0.0, 1.0], [0.5, 0.5]]))
    assert token_divergences(np.log(p), impossible)[0] == math.inf


def test_tokens_have_their_own_text_and_all_three_divergences() -> None:
    ids = [1, 2, 3, 4, 0, 1]
    original, dequantized, artifact = logits(1), logits(2), logits(3)
    found = tokens_of(ids, original, dequantized, artifact, decode)
    assert [token.text for token in found] == ["upon", " a", " time", " there", "once", " upon"]
    parts = {
        "quantization": (original, dequantized),
        "lowering": (dequantized, artifact),
        "total": (original, artifact),
    }
    for name, (a, b) in parts.items():
        mean = language_drift([(a, b, ids)]).kld_mean
        assert np.mean([getattr(token, name) for token in found]) == pytest.approx(mean, rel=1e-3)


def test_a_character_of_two_tokens_belongs_to_the_last() -> None:
    ids, texts = [7, 8, 9], {(7,): "caf", (7, 8): "caf\ufffd", (7, 8, 9): "caf\u00e9"}
    values = logits(1, tokens=3)
    found = tokens_of(ids, values, values, values, lambda ids: texts[tuple(ids)])
    assert [token.text for token in found] == ["caf", "", "\u00e9"]


def test_a_long_text_is_cut() -> None:
    many = logits(1, tokens=MOST_TOKENS + 50)
    assert len(tokens_of([0] * len(many), many, many, many, decode)) == MOST_TOKENS


def test_answers_are_the_most_likely_after_the_prompt() -> None:
    ids = [0, 1, 2]
    original, artifact = logits(1, tokens=3), logits(2, tokens=3)
    (answer,) = answers_of([ids], [original], [artifact], decode)
    assert answer.prompt == "once upon a"
    for values, words in ((original, answer.original), (artifact, answer.exported)):
        chances = np.exp(log_softmax(values[2]))
        best = np.argsort(-chances)[:BEST]
        assert [word.text for word in words] == [WORDS[token] for token in best]
        assert [word.probability for word in words] == pytest.approx(chances[best], rel=1e-3)


def test_prompts_are_few_and_short() -> None:
    sequences = [[index % 5] * 40 for index in range(10)]
    values = [logits(index, tokens=40) for index in range(10)]
    answers = answers_of(sequences, values, values, decode)
    assert len(answers) == PROMPTS
    assert [answer.original for answer in answers] == [answer.exported for answer in answers]
    assert answers[0].prompt == "once" * PROMPT_TOKENS
    chances = np.exp(log_softmax(values[0][PROMPT_TOKENS - 1]))
    assert answers[0].original[0].probability == pytest.approx(chances.max(), rel=1e-3)


def test_broken_logits_have_no_chance() -> None:
    broken = np.full((1, len(WORDS)), np.nan, dtype=np.float32)
    (answer,) = answers_of([[0]], [logits(1, tokens=1)], [broken], decode)
    assert [word.probability for word in answer.exported] == [0.0] * BEST


def test_without_a_tokenizer_there_is_no_text(tmp_path: Path) -> None:
    assert decoder(None) is None
    (tmp_path / "tokenizer.json").write_text("{}")
    assert decoder(tmp_path / "tokenizer.json") is None
