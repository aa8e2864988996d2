"""What a reader sees of a drift: how far each token of a text moved the predictions, and two answers to one prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.core.details import Answer, NextWord, TokenDivergence
from edgeq.errors import BadInputError
from edgeq.runtimes.generation import load_tokenizer
from edgeq.validation.drift import log_softmax, token_divergences

MOST_TOKENS = 160
PROMPTS = 4
PROMPT_TOKENS = 20
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
    sequences: Sequence[Sequence[int]], original: Sequence[Values], artifact: Sequence[Values], decode: Decode
) -> tuple[Answer, ...]:
    """Beginnings of up to PROMPTS sequences, evenly chosen, and what both models hold to be next."""
    count = min(PROMPTS, len(sequences))
    answers = []
    for chosen in (index * len(sequences) // count for index in range(count)):
        prompt = list(sequences[chosen][:PROMPT_TOKENS])
        given, taken = (np.asarray(values[chosen][len(prompt) - 1]) for values in (original, artifact))
        answers.append(
            Answer(prompt=decode(prompt), original=_best(prompt, given, decode), exported=_best(prompt, taken, decode))
        )
    return tuple(answers)


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
