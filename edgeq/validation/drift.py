"""How far two models' answers lie apart: divergence of next-token distributions, agreement of embeddings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.core.report import ClassDrift, EmbeddingDrift, LanguageDrift

Values = npt.NDArray[np.floating[Any]]
Doubles = npt.NDArray[np.float64]

BLOCK_VALUES = 1 << 20
"""Logits worked on at once: a few float64 temporaries of 8 MB."""
MAXIMUM_EMBEDDINGS = 512
"""Pairwise similarities are taken over at most so many embeddings, evenly chosen."""


def log_softmax(values: Values) -> Doubles:
    """Natural log-probabilities float64 along the last axis; logits and log-probabilities give the same."""
    shifted = values.astype(np.float64)
    with np.errstate(invalid="ignore"):  # an infinite logit gives not-a-number, which no gate admits
        shifted -= shifted.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def language_drift(pairs: Iterable[tuple[Values, Values, Sequence[int]]]) -> LanguageDrift:
    """KL(reference || candidate) and agreement over sequences of (reference, candidate, token ids).

    Logits, or log-probabilities, `[tokens, vocabulary]`; position i predicts token i + 1. max_abs compares logits,
    but log-probabilities where the reference is float16, since only those were stored. A divergence or perplexity
    that is not a number, or beyond float64, comes out as infinite.
    """
    divergences: list[Doubles] = []
    agreements: list[npt.NDArray[np.bool_]] = []
    surprises: list[tuple[Doubles, Doubles]] = []
    max_abs, squares = 0.0, np.zeros(2)
    for reference, candidate, ids in pairs:
        for start, block in _blocks(reference):
            given, taken = np.asarray(reference[block]), np.asarray(candidate[block])
            p, q = log_softmax(given), log_softmax(taken)
            divergences.append(_divergence(p, q))
            agreements.append(given.argmax(axis=-1) == taken.argmax(axis=-1))
            following = np.asarray(ids[start + 1 : start + len(p) + 1], dtype=np.int64)
            rows = np.arange(len(following))
            surprises.append((-p[rows, following], -q[rows, following]))
            compared = (p, q) if given.dtype == np.float16 else (given, taken)
            max_abs = max(max_abs, _largest_difference(*compared))
            squares += _squares(*compared)
    per_token = np.concatenate(divergences)
    perplexity_float = _perplexity([reference for reference, _ in surprises])
    perplexity = _perplexity([candidate for _, candidate in surprises])
    return LanguageDrift(
        tokens=len(per_token),
        kld_mean=_finite(per_token.mean()),
        kld_p999=_finite(np.sort(per_token)[min(len(per_token) - 1, math.ceil(0.999 * len(per_token)) - 1)]),
        kld_max=_finite(per_token.max()),
        top1_agreement=float(np.concatenate(agreements).mean()),
        perplexity=perplexity,
        perplexity_float=perplexity_float,
        perplexity_ratio=_finite(perplexity / perplexity_float if math.isfinite(perplexity) else math.inf),
        max_abs=max_abs,
        relative_error=_relative_error(squares),
    )


def class_drift(pairs: Iterable[tuple[Values, Values]], *, multi_label: bool = False) -> ClassDrift:
    """KL(reference || candidate) of class probabilities, and agreement, over logits `[labels]` or `[tokens, labels]`.

    Probabilities are the softmax of several logits, and the sigmoid of a single one, whose classes are the two signs.
    multi_label: of several too, each an answer of its own; their softmax would not see what moves all of them alike.
    """
    divergences: list[Doubles] = []
    agreements: list[npt.NDArray[np.bool_]] = []
    max_abs, squares = 0.0, np.zeros(2)
    for reference, candidate in pairs:
        rows = (np.atleast_2d(values) for values in (reference, candidate))
        given, taken = (_two_classes(values.reshape(-1, 1) if multi_label else values) for values in rows)
        divergences.append(_divergence(log_softmax(given), log_softmax(taken)))
        agreements.append(given.argmax(axis=-1) == taken.argmax(axis=-1))
        max_abs = max(max_abs, _largest_difference(given, taken))
        squares += _squares(given, taken)
    each = np.concatenate(divergences)
    return ClassDrift(
        answers=len(each),
        kld_mean=_finite(each.mean()),
        kld_max=_finite(each.max()),
        top1_agreement=float(np.concatenate(agreements).mean()),
        max_abs=max_abs,
        relative_error=_relative_error(squares),
    )


def _two_classes(logits: Values) -> Values:
    """A single logit beside zero, so that softmax gives what sigmoid does."""
    return logits if logits.shape[1] > 1 else np.concatenate([logits, np.zeros_like(logits)], axis=1)


def token_divergences(p: Doubles, q: Doubles) -> list[float]:
    """KL(p || q) in nats of each row of log-probabilities `[tokens, vocabulary]`."""
    return [_finite(value) for value in _divergence(p, q)]


def embedding_drift(reference: Values, candidate: Values) -> EmbeddingDrift:
    """Agreement of embeddings `[sentences, dim]`, row by row and in the order of their pairwise similarities."""
    a, b = reference.astype(np.float64), candidate.astype(np.float64)
    same = (a == b).all(axis=1)  # zeros have no direction
    cosines = np.where(same, 1.0, (_unit(a) * _unit(b)).sum(axis=1))
    return EmbeddingDrift(
        sentences=len(a),
        cosine_mean=_number(cosines.mean(), -1.0),
        cosine_min=_number(cosines.min(), -1.0),
        rank_correlation=_number(spearman(_similarities(a), _similarities(b)), -1.0),
        max_abs=_largest_difference(a, b),
        relative_error=_relative_error(_squares(a, b)),
    )


def spearman(a: Doubles, b: Doubles) -> float:
    """Rank correlation of two vectors, ties ranked by their mean. 1 where both are constant or shorter than 2,
    0 where only one is constant."""
    x, y = _ranks(a), _ranks(b)
    x -= x.mean() if len(x) else 0.0
    y -= y.mean() if len(y) else 0.0
    spread = math.sqrt(float(x @ x) * float(y @ y))
    if spread == 0.0:
        return 1.0 if not x.any() and not y.any() else 0.0
    return float(x @ y) / spread


def _ranks(values: Doubles) -> Doubles:
    """Mean ranks: equal values share the average of the places that they take."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts).astype(np.float64)
    return np.asarray((last - (counts - 1) / 2.0)[inverse])


def _similarities(embeddings: Doubles) -> Doubles:
    """Cosines of all pairs, as one vector."""
    step = -(-len(embeddings) // MAXIMUM_EMBEDDINGS)
    unit = _unit(embeddings[::step])
    return np.asarray((unit @ unit.T)[np.triu_indices(len(unit), 1)])


def _unit(rows: Doubles) -> Doubles:
    norms = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
    return np.asarray(rows / np.where(norms == 0.0, 1.0, norms))


def _blocks(values: Values) -> Iterator[tuple[int, slice]]:
    rows = max(1, BLOCK_VALUES // values.shape[1])
    for start in range(0, len(values), rows):
        yield start, slice(start, min(start + rows, len(values)))


def _divergence(p: Doubles, q: Doubles) -> Doubles:
    """KL per row of log-probabilities; a token that the reference excludes (-inf) adds nothing."""
    possible = p != -np.inf
    difference = np.subtract(p, q, out=np.zeros_like(p), where=possible)
    with np.errstate(invalid="ignore"):
        return np.asarray((np.exp(p) * difference).sum(axis=-1))


def _perplexity(surprises: list[Doubles]) -> float:
    """exp of the mean negative log-likelihood; 1 where no token follows another."""
    values = np.concatenate(surprises)
    if not len(values):
        return 1.0
    mean = float(values.mean())
    return math.exp(mean) if mean < 700.0 else math.inf


def _largest_difference(a: Values, b: Values) -> float:
    """Equal infinities do not differ."""
    different = a != b
    if not different.any():
        return 0.0
    with np.errstate(invalid="ignore"):
        return _finite(np.abs(a[different].astype(np.float64) - b[different].astype(np.float64)).max())


def _squares(reference: Values, candidate: Values) -> Doubles:
    """Sums of squares of the difference and of the reference; equal infinities do not differ."""
    r, c = reference.astype(np.float64), candidate.astype(np.float64)
    counted = np.isfinite(r) | (r != c)
    with np.errstate(invalid="ignore"):
        difference = (c - r)[counted]
    known = r[np.isfinite(r)]
    return np.array([difference @ difference, known @ known])


def _relative_error(squares: Doubles) -> float:
    difference, reference = squares
    if difference == 0.0:
        return 0.0
    return _finite(np.sqrt(difference / reference)) if reference > 0.0 else math.inf


def _finite(value: float | np.floating[Any]) -> float:
    """Not-a-number counts as infinite: no limit admits it."""
    return _number(value, math.inf)


def _number(value: float | np.floating[Any], otherwise: float) -> float:
    return otherwise if math.isnan(value) else float(value)
