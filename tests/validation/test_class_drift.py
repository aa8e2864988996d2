"""Drift of classifiers against naive loops, and the gates on it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from edgeq.core.report import ClassDrift, DriftSection, Gate, Verdict
from edgeq.core.target import Format
from edgeq.validation.drift import Values, class_drift
from edgeq.validation.gates import LOWERING_OUTPUT_ERROR, Criteria, drift_gates

GOOD = ClassDrift(
    answers=2048, kld_mean=0.0005, kld_max=0.01, top1_agreement=0.99, max_abs=0.001, relative_error=0.0005
)
CRITERIA = Criteria(bits=8, parameters=10_000_000, accuracy_level=4, memory_limit_bytes=1 << 30)


def softmax(logits: list[float]) -> list[float]:
    exponentials = [math.exp(value) for value in logits]
    return [value / math.fsum(exponentials) for value in exponentials]


def test_texts_and_tokens_are_answers_alike() -> None:
    rng = np.random.default_rng(0)
    shapes = [(4,), (3, 4), (4,), (1, 4)]
    pairs: list[tuple[Values, Values]] = []
    for shape in shapes:
        logits = (rng.standard_normal(shape) * 2).astype(np.float32)
        pairs.append((logits, (logits + rng.standard_normal(shape)).astype(np.float32)))
    divergences, agreements = [], []
    for a, b in pairs:
        for row_a, row_b in zip(a.reshape(-1, 4).tolist(), b.reshape(-1, 4).tolist(), strict=True):
            p, q = softmax(row_a), softmax(row_b)
            divergences.append(math.fsum(x * math.log(x / y) for x, y in zip(p, q, strict=True)))
            agreements.append(row_a.index(max(row_a)) == row_b.index(max(row_b)))
    found = class_drift(pairs)
    assert found.answers == len(divergences) == 6
    assert found.kld_mean == pytest.approx(math.fsum(divergences) / 6, rel=1e-9)
    assert found.kld_max == pytest.approx(max(divergences), rel=1e-9)
    assert found.top1_agreement == sum(agreements) / 6 < 1
    differences = np.concatenate([(a - b).ravel() for a, b in pairs])
    reference = np.concatenate([a.ravel() for a, _ in pairs])
    assert found.max_abs == pytest.approx(np.abs(differences).max(), rel=1e-6)
    assert found.relative_error == pytest.approx(np.linalg.norm(differences) / np.linalg.norm(reference), rel=1e-6)


def test_a_single_logit_is_a_chance_of_its_own() -> None:
    """The softmax of one number is always 1: nothing could ever drift."""
    x, y = 0.7, -0.3
    p, q = 1 / (1 + math.exp(-x)), 1 / (1 + math.exp(-y))
    found = class_drift([(np.array([x], np.float32), np.array([y], np.float32))])
    expected = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert found.kld_mean == pytest.approx(expected, rel=1e-6)
    assert found.top1_agreement == 0.0


def test_labels_of_their_own_are_answers_each() -> None:
    a, b = np.random.default_rng(1).normal(size=(2, 4, 3)).astype(np.float32)
    found = class_drift([(a, b)], multi_label=True)
    single = [class_drift([(x, y)]) for x, y in zip(a.reshape(-1, 1), b.reshape(-1, 1), strict=True)]
    assert found.answers == 12
    assert found.kld_mean == pytest.approx(sum(one.kld_mean for one in single) / 12)
    assert found.top1_agreement == float(((a >= 0) == (b >= 0)).mean())


def test_what_moves_all_labels_alike_is_seen() -> None:
    """Their softmax stays what it is while the chance of each goes from 2 % to 98 %."""
    low, high = np.full(3, -4.0, np.float32), np.full(3, 4.0, np.float32)
    assert class_drift([(low, high)]).kld_mean == 0.0
    found = class_drift([(low, high)], multi_label=True)
    assert found.kld_mean > 1.0
    assert found.top1_agreement == 0.0


def test_equal_answers_do_not_drift_and_broken_ones_are_infinite() -> None:
    logits = np.array([[1.0, 2.0, 3.0]], np.float32)
    same = class_drift([(logits, logits)])
    assert (same.kld_mean, same.top1_agreement, same.max_abs, same.relative_error) == (0.0, 1.0, 0.0, 0.0)
    broken = class_drift([(logits, np.full_like(logits, np.nan))])
    assert broken.kld_mean == broken.kld_max == broken.max_abs == math.inf


def gates_of(
    *,
    quantization: ClassDrift = GOOD,
    lowering: ClassDrift = GOOD,
    total: ClassDrift = GOOD,
    criteria: Criteria = CRITERIA,
) -> dict[str, Gate]:
    section = DriftSection(quantization=quantization, lowering=lowering, total=total)
    return {gate.name: gate for gate in drift_gates(section, criteria, 0)}


def failed(gates: dict[str, Gate]) -> set[str]:
    return {name for name, gate in gates.items() if gate.verdict is Verdict.FAILED}


def test_every_part_has_its_gate() -> None:
    assert failed(gates_of()) == set()
    far = replace(GOOD, kld_mean=1.0)
    assert failed(gates_of(quantization=far)) == {"quantization_kld_mean"}
    assert failed(gates_of(lowering=far)) == {"lowering_kld_mean"}
    assert failed(gates_of(total=far)) == {"total_kld_mean"}
    assert failed(gates_of(lowering=replace(GOOD, relative_error=0.2))) == {"lowering_relative_error"}
    assert failed(gates_of(total=replace(GOOD, top1_agreement=0.9))) == {"total_top1_agreement"}
    assert failed(gates_of(total=replace(GOOD, kld_mean=math.inf, top1_agreement=math.nan))) == {
        "total_kld_mean",
        "total_top1_agreement",
    }


def test_agreement_of_few_answers_is_shown_but_not_judged() -> None:
    gates = gates_of(total=replace(GOOD, answers=64, top1_agreement=0.5))
    assert gates["total_top1_agreement"].verdict is Verdict.NOT_VALIDATED
    assert gates["total_top1_agreement"].value == 0.5


def test_a_user_s_limit_is_the_total_s() -> None:
    gates = gates_of(criteria=replace(CRITERIA, max_drift=0.0001))
    assert failed(gates) == {"total_kld_mean"}


@pytest.mark.parametrize(("level", "format"), [(1, "onnx"), (4, "onnx")])
def test_the_runtime_may_add_what_its_activations_cost(level: int, format: Format) -> None:
    criteria = replace(CRITERIA, accuracy_level=level, format=format)
    limit = LOWERING_OUTPUT_ERROR[level]
    assert failed(gates_of(lowering=replace(GOOD, relative_error=limit), criteria=criteria)) == set()
    above = replace(GOOD, relative_error=1.01 * limit)
    assert failed(gates_of(lowering=above, criteria=criteria)) == {"lowering_relative_error"}
