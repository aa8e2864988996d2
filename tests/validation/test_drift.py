"""Drift measures against naive loops."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.validation import drift
from edgeq.validation.drift import Values, embedding_drift, language_drift, log_softmax, spearman

Pair = tuple[Values, Values, list[int]]


def make_pairs(seed: int = 0, lengths: tuple[int, ...] = (7, 1, 12), vocabulary: int = 11) -> list[Pair]:
    rng = np.random.default_rng(seed)
    pairs: list[Pair] = []
    for length in lengths:
        a = (rng.standard_normal((length, vocabulary)) * 3).astype(np.float32)
        b = (a + rng.standard_normal(a.shape) * 0.5).astype(np.float32)
        pairs.append((a, b, [int(token) for token in rng.integers(0, vocabulary, length)]))
    return pairs


def naive_distribution(logits: Values) -> list[float]:
    exponentials = [math.exp(float(value)) for value in logits]
    return [value / math.fsum(exponentials) for value in exponentials]


def test_language_drift_equals_naive_loops() -> None:
    pairs = make_pairs()
    divergences, agreements, surprise_a, surprise_b, differences = [], [], [], [], []
    for a, b, ids in pairs:
        for position in range(len(ids)):
            p, q = naive_distribution(a[position]), naive_distribution(b[position])
            divergences.append(math.fsum(x * math.log(x / y) for x, y in zip(p, q, strict=True)))
            agreements.append(p.index(max(p)) == q.index(max(q)))
            if position + 1 < len(ids):
                surprise_a.append(-math.log(p[ids[position + 1]]))
                surprise_b.append(-math.log(q[ids[position + 1]]))
        differences.append(float(np.abs(a - b).max()))
    found = language_drift(pairs)
    assert found.tokens == len(divergences) == 20
    assert found.kld_mean == pytest.approx(math.fsum(divergences) / 20, rel=1e-9)
    assert found.kld_max == pytest.approx(max(divergences), rel=1e-9)
    assert found.kld_p999 == pytest.approx(max(divergences), rel=1e-9)
    assert found.top1_agreement == sum(agreements) / 20
    assert found.perplexity_float == pytest.approx(math.exp(math.fsum(surprise_a) / 17), rel=1e-9)
    assert found.perplexity == pytest.approx(math.exp(math.fsum(surprise_b) / 17), rel=1e-9)
    assert found.perplexity_ratio == pytest.approx(found.perplexity / found.perplexity_float)
    assert found.max_abs == pytest.approx(max(differences), rel=1e-6)


def test_language_drift_is_the_same_in_small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = language_drift(make_pairs())
    monkeypatch.setattr(drift, "BLOCK_VALUES", 30)
    assert language_drift(make_pairs()) == whole


def test_p999_is_the_value_that_one_in_a_thousand_exceeds() -> None:
    a = np.zeros((2000, 2), dtype=np.float32)
    b = np.stack([np.zeros(2000), np.arange(2000) / 1000.0], axis=1).astype(np.float32)
    found = language_drift([(a, b, [0] * 2000)])
    per_token = np.sort(math.log(0.5) - 0.5 * (log_softmax(b).sum(axis=1)))
    assert found.kld_p999 == pytest.approx(per_token[1997])


def test_language_drift_of_equal_models_is_zero() -> None:
    found = language_drift([(a, a, ids) for a, _, ids in make_pairs()])
    assert (found.kld_mean, found.kld_max, found.max_abs, found.top1_agreement) == (0.0, 0.0, 0.0, 1.0)
    assert found.perplexity_ratio == 1.0


def test_float16_log_probabilities_replace_the_reference_logits() -> None:
    pairs = make_pairs()
    exact = language_drift(pairs)
    stored = language_drift([(log_softmax(a).astype(np.float16), b, ids) for a, b, ids in pairs])
    assert stored.kld_mean == pytest.approx(exact.kld_mean, abs=1e-4)
    assert stored.perplexity_float == pytest.approx(exact.perplexity_float, rel=1e-3)
    shifts = max(float(np.abs(log_softmax(a) - log_softmax(b)).max()) for a, b, _ in pairs)
    assert stored.max_abs == pytest.approx(shifts, abs=1e-2)


@given(st.integers(0, 2**32 - 1), st.floats(-50, 50))
@settings(max_examples=30, deadline=None)
def test_divergence_is_never_negative_and_ignores_a_shift(seed: int, shift: float) -> None:
    pairs = make_pairs(seed, lengths=(5,))
    (a, b, ids) = pairs[0]
    plain = language_drift(pairs)
    shifted = language_drift([(a.astype(np.float64) + shift, b, ids)])
    assert plain.kld_mean >= 0.0
    assert shifted.kld_mean == pytest.approx(plain.kld_mean, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_broken_logits_drift_infinitely(broken: float) -> None:
    a, b, ids = make_pairs(lengths=(4,))[0]
    b = b.copy()
    b[2, 3] = broken
    found = language_drift([(a, b, ids)])
    assert found.kld_mean == found.kld_max == found.max_abs == math.inf
    assert found.perplexity == math.inf or math.isfinite(found.perplexity)


def test_tokens_that_both_exclude_add_nothing() -> None:
    a, b, ids = make_pairs(lengths=(4,))[0]
    a, b = a.copy(), b.copy()
    a[:, 10] = b[:, 10] = -np.inf
    found = language_drift([(a, b, [0] * len(ids))])
    trimmed = language_drift([(a[:, :10], b[:, :10], [0] * len(ids))])
    assert found == trimmed


def test_excluding_what_the_reference_expects_is_infinite() -> None:
    a, b, ids = make_pairs(lengths=(4,))[0]
    b = b.copy()
    b[1, 2] = -np.inf
    assert language_drift([(a, b, ids)]).kld_max == math.inf


def naive_ranks(values: list[float]) -> list[float]:
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2 for value in values
    ]


def naive_pearson(x: list[float], y: list[float]) -> float:
    mx, my = math.fsum(x) / len(x), math.fsum(y) / len(y)
    top = math.fsum((a - mx) * (b - my) for a, b in zip(x, y, strict=True))
    return top / math.sqrt(math.fsum((a - mx) ** 2 for a in x) * math.fsum((b - my) ** 2 for b in y))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=30))
@settings(max_examples=60, deadline=None)
def test_spearman_equals_pearson_of_naive_ranks(points: list[tuple[int, int]]) -> None:
    x, y = [float(a) for a, _ in points], [float(b) for _, b in points]
    if len(set(x)) > 1 and len(set(y)) > 1:
        assert spearman(np.array(x), np.array(y)) == pytest.approx(naive_pearson(naive_ranks(x), naive_ranks(y)))


def test_spearman_of_constants() -> None:
    assert spearman(np.ones(4), np.ones(4)) == 1.0
    assert spearman(np.ones(4), np.arange(4.0)) == 0.0
    assert spearman(np.empty(0), np.empty(0)) == 1.0


def test_embedding_drift_equals_naive_loops() -> None:
    rng = np.random.default_rng(3)
    a = rng.standard_normal((9, 6)).astype(np.float32)
    b = (a + rng.standard_normal(a.shape) * 0.3).astype(np.float32)

    def cosine(x: Values, y: Values) -> float:
        dot = math.fsum(float(p) * float(q) for p, q in zip(x, y, strict=True))
        return dot / (math.hypot(*map(float, x)) * math.hypot(*map(float, y)))

    cosines = [cosine(x, y) for x, y in zip(a, b, strict=True)]
    pairs_a = [cosine(a[i], a[j]) for i, j in combinations(range(9), 2)]
    pairs_b = [cosine(b[i], b[j]) for i, j in combinations(range(9), 2)]
    found = embedding_drift(a, b)
    assert found.sentences == 9
    assert found.cosine_mean == pytest.approx(math.fsum(cosines) / 9)
    assert found.cosine_min == pytest.approx(min(cosines))
    assert found.rank_correlation == pytest.approx(naive_pearson(naive_ranks(pairs_a), naive_ranks(pairs_b)))
    assert found.max_abs == pytest.approx(float(np.abs(a - b).max()), rel=1e-6)


def test_embedding_drift_of_broken_or_missing_vectors() -> None:
    a = np.ones((3, 4), dtype=np.float32)
    broken = a.copy()
    broken[1, 1] = math.nan
    assert embedding_drift(a, broken).cosine_mean == -1.0
    assert embedding_drift(a, np.zeros_like(a)).cosine_min == 0.0


def test_pairwise_similarities_of_many_embeddings_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "MAXIMUM_EMBEDDINGS", 4)
    rng = np.random.default_rng(5)
    a = rng.standard_normal((10, 3))
    assert len(drift._similarities(a)) == 6  # every third of ten rows: four rows, six pairs


def test_the_relative_error_is_the_textbook_one() -> None:
    rng = np.random.default_rng(3)
    reference = rng.standard_normal((9, 20)).astype(np.float32)
    candidate = reference + 0.1 * rng.standard_normal((9, 20)).astype(np.float32)
    drift = language_drift([(reference[:4], candidate[:4], [1] * 4), (reference[4:], candidate[4:], [2] * 5)])
    expected = np.linalg.norm(candidate - reference) / np.linalg.norm(reference)
    assert drift.relative_error == pytest.approx(expected, rel=1e-5)
    assert embedding_drift(reference, candidate).relative_error == pytest.approx(expected, rel=1e-5)
    assert embedding_drift(reference, reference).relative_error == 0.0
    assert embedding_drift(0 * reference, candidate).relative_error == math.inf
