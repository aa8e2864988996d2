"""Divergence by token and two answers to one prompt, against what they are defined as."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from edgeq.core.details import Answer, Continuation
from edgeq.validation.drift import language_drift, log_softmax, token_divergences
from edgeq.validation.texts import BEST, MOST_TOKENS, answers_of, decoder, tokens_of, with_texts

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


def test_a_prompt_is_answered_within_its_sequence() -> None:
    values = logits(1, tokens=40)
    answers = answers_of([[0, 1, 2]], [values, values], [values, values], decode)
    assert [answer.original for answer in answers] == [answer.exported for answer in answers]
    chances = np.exp(log_softmax(values[2]))
    assert answers[0].original[0].probability == pytest.approx(chances.max(), rel=1e-3)


@pytest.mark.parametrize(
    ("original", "exported", "texts"),
    [
        ((2, 3, 4), [2, 3, 4], (" a time there", "", "")),
        ((2, 3, 4), [2, 1, 1], (" a", " time there", " upon upon")),
        ((2, 3, 4), [1], ("", " a time there", " upon")),
        ((2, 3, 4), [], ("", " a time there", "")),
        ((2, 0, 4), [2], (" a", "", "")),  # 0 ends both
        ((2, 0, 4), [2, 3], (" a", "", " time")),
    ],
)
def test_texts_part_where_the_tokens_do(
    original: tuple[int, ...], exported: list[int], texts: tuple[str, str, str]
) -> None:
    answer = Answer(prompt="once upon", original=(), exported=())
    told = Continuation(prompt=(0, 1), tokens=original)
    (found,) = with_texts([answer], [told], [exported], {0}, decode)
    assert (found.both, found.original_text, found.exported_text) == texts


def test_a_character_that_is_parted_within_is_whole_on_both_sides() -> None:
    texts = {(7,): "caf", (7, 8): "caf\ufffd", (7, 8, 9): "caf\u00e9", (7, 8, 6): "caf\u00e8"}
    told = Continuation(prompt=(7,), tokens=(8, 9))
    answer = Answer(prompt="caf", original=(), exported=())
    (found,) = with_texts([answer], [told], [[8, 6]], (), lambda ids: texts[tuple(ids)])
    assert (found.both, found.original_text, found.exported_text) == ("", "\u00e9", "\u00e8")


def test_what_a_slow_runtime_did_not_write_is_left_out() -> None:
    answer, told = Answer(prompt="once", original=(), exported=()), Continuation(prompt=(0,), tokens=(1,))
    first, second = with_texts([answer, answer], [told, told], [[1]], (), decode)
    assert (first.both, second) == (" upon", answer)


def test_broken_logits_have_no_chance() -> None:
    broken = np.full((1, len(WORDS)), np.nan, dtype=np.float32)
    (answer,) = answers_of([[0]], [logits(1, tokens=1)], [broken], decode)
    assert [word.probability for word in answer.exported] == [0.0] * BEST


def test_without_a_tokenizer_there_is_no_text(tmp_path: Path) -> None:
    assert decoder(None) is None
    (tmp_path / "tokenizer.json").write_text("{}")
    assert decoder(tmp_path / "tokenizer.json") is None
