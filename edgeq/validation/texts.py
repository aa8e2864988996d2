"""What a reader sees of a drift: how far each token moved the predictions, and what two models say to one prompt."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.core.details import Answer, Continuation, NextWord, TokenDivergence
from edgeq.errors import BadInputError
from edgeq.runtimes.generation import load_tokenizer
from edgeq.validation.drift import log_softmax, token_divergences

MOST_TOKENS = 160
BEST = 3
_PARTIAL = "\ufffd"
"""How tokenizers spell bytes that are no whole character yet."""
Decode = Callable[[Sequence[int]], str]
Values = npt.NDArray[np.floating[Any]]


def decoder(tokenizer: Path | None) -> Decode | None:
    """Ids to text; None where the bundle has no tokenizer that can be read, which is a gate's to say."""
    if tokenizer is None:
        return None
    try:
        loaded = load_tokenizer(tokenizer)
    except BadInputError:
        return None
    return lambda ids: str(loaded.decode(list(ids), skip_special_tokens=False))


def tokens_of(
    ids: Sequence[int], original: Values, dequantized: Values, artifact: Values, decode: Decode
) -> tuple[TokenDivergence, ...]:
    """The first tokens of one text. The three are logits or log-probabilities `[tokens, vocabulary]`."""
    p, q, r = (log_softmax(np.asarray(values[:MOST_TOKENS])) for values in (original, dequantized, artifact))
    parts = (token_divergences(p, q), token_divergences(q, r), token_divergences(p, r))
    texts = _pieces(ids[: len(p)], decode)
    return tuple(
        TokenDivergence(text=text, quantization=_short(a), lowering=_short(b), total=_short(c))
        for text, a, b, c in zip(texts, *parts, strict=True)
    )


def answers_of(
    prompts: Sequence[Sequence[int]], original: Sequence[Values], artifact: Sequence[Values], decode: Decode
) -> tuple[Answer, ...]:
    """What both models hold to be next. The first sequences begin with the prompts; logits are of whole sequences."""
    return tuple(
        Answer(
            prompt=decode(prompt),
            original=_best(prompt, np.asarray(given[len(prompt) - 1]), decode),
            exported=_best(prompt, np.asarray(taken[len(prompt) - 1]), decode),
        )
        for prompt, given, taken in zip(prompts, original, artifact, strict=False)
    )


def with_texts(
    answers: Sequence[Answer],
    original: Sequence[Continuation],
    exported: Sequence[Sequence[int]],
    ends: Collection[int],
    decode: Decode,
) -> tuple[Answer, ...]:
    """The answers with what each model wrote, as far as the exported one came. ends: end-of-text tokens."""
    written = []
    for answer, one, other in zip(answers, original, exported, strict=False):
        prompt, tokens = list(one.prompt), _until(one.tokens, ends)
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(tokens, other, strict=False)))
        shared = [*prompt, *tokens[:same]]
        written.append(
            replace(
                answer,
                both=_addition(prompt, tokens[:same], decode),
                original_text=_addition(shared, tokens[same:], decode),
                exported_text=_addition(shared, other[same:], decode),
            )
        )
    return (*written, *answers[len(written) :])


def _until(tokens: Sequence[int], ends: Collection[int]) -> list[int]:
    return list(takewhile(lambda token: token not in ends, tokens))


def _addition(before: Sequence[int], tokens: Sequence[int], decode: Decode) -> str:
    """The text that tokens add to others. A character that is begun before counts here."""
    start, whole = decode(before).rstrip(_PARTIAL), decode([*before, *tokens]).rstrip(_PARTIAL)
    return whole[len(start) :] if whole.startswith(start) else decode(tokens)


def _best(prompt: Sequence[int], logits: Values, decode: Decode) -> tuple[NextWord, ...]:
    chances = np.exp(log_softmax(logits))
    chances = np.where(np.isnan(chances), 0.0, chances)
    best = np.argsort(-chances, kind="stable")[:BEST]
    return tuple(
        NextWord(text=_piece(prompt, int(token), decode), probability=_short(chances[token])) for token in best
    )


def _pieces(ids: Sequence[int], decode: Decode) -> Iterator[str]:
    """What each token adds to the text. A character of several tokens is its last one's, the others add nothing."""
    shown = ""
    for index, token in enumerate(ids):
        whole = decode(ids[: index + 1]).rstrip(_PARTIAL)
        yield whole[len(shown) :] if whole.startswith(shown) else decode([token])
        shown = whole


def _piece(before: Sequence[int], token: int, decode: Decode) -> str:
    """A token's text as it stands after others: alone many lose the space before them."""
    start, whole = decode(before), decode([*before, token])
    return whole[len(start) :] if whole.startswith(start) and len(whole) > len(start) else decode([token])


def _short(value: float) -> float:
    """Four significant digits: more only fill the report."""
    return float(f"{value:.4g}")
