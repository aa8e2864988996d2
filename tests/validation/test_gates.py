"""Gates: limits by bits and size, and verdicts from the gates together."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from edgeq.core.report import BackendSection, DriftSection, EmbeddingDrift, Gate, LanguageDrift, MemorySection, Verdict
from edgeq.core.target import Format
from edgeq.errors import UsageError
from edgeq.validation.gates import (
    Criteria,
    at_least,
    at_most,
    backend_gate,
    drift_gates,
    language_limits,
    memory_gates,
    not_applicable,
    prefill_gate,
    unjudged_memory_gate,
    verdict_of,
)

GOOD = LanguageDrift(
    tokens=2048,
    kld_mean=0.0005,
    kld_p999=0.01,
    kld_max=0.1,
    top1_agreement=0.99,
    perplexity=20.02,
    perplexity_float=20.0,
    perplexity_ratio=1.001,
    max_abs=0.0005,
    relative_error=0.001,
)
CLOSE = EmbeddingDrift(
    sentences=64, cosine_mean=0.99999, cosine_min=0.9999, rank_correlation=0.999, max_abs=0.01, relative_error=0.001
)
CRITERIA = Criteria(bits=8, parameters=10_000_000, accuracy_level=4, memory_limit_bytes=1 << 30)


def section(
    *, quantization: LanguageDrift = GOOD, lowering: LanguageDrift = GOOD, total: LanguageDrift = GOOD
) -> DriftSection:
    return DriftSection(quantization=quantization, lowering=lowering, total=total)


def by_name(gates: tuple[Gate, ...]) -> dict[str, Gate]:
    return {gate.name: gate for gate in gates}


def failed(gates: tuple[Gate, ...]) -> set[str]:
    return {gate.name for gate in gates if gate.verdict is Verdict.FAILED}


@pytest.mark.parametrize(
    ("bits", "parameters", "kld", "top1"),
    [
        (8, 7_000_000, 0.005, 0.97),
        (8, 3_000_000_000, 0.003, 0.98),
        (4, 500_000_000, 0.08, 0.86),
        (4, 1_200_000_000, 0.05, 0.89),
        (4, 8_000_000_000, 0.04, 0.91),
        (16, 7_000_000, 0.001, 0.99),
    ],
)
def test_limits_follow_bits_and_size(bits: int, parameters: int, kld: float, top1: float) -> None:
    limits = language_limits(bits, parameters)
    assert (limits.kld_mean, limits.top1_agreement) == (kld, top1)


def test_unknown_bits_have_no_limits() -> None:
    with pytest.raises(UsageError, match="5 bits"):
        language_limits(5, 1)


def test_a_good_measurement_passes_all_gates() -> None:
    gates = drift_gates(section(), CRITERIA, 4096)
    assert verdict_of(gates) == (Verdict.PASSED, "")
    assert {gate.verdict for gate in gates} == {Verdict.PASSED}


@pytest.mark.parametrize("value", [0.0051, math.inf, math.nan])
def test_divergence_beyond_the_limit_fails(value: float) -> None:
    bad = replace(GOOD, kld_mean=value)
    gates = drift_gates(section(quantization=bad, total=bad), CRITERIA, 4096)
    assert failed(gates) == {"quantization_kld_mean", "total_kld_mean"}
    verdict, reason = verdict_of(gates)
    assert verdict is Verdict.FAILED
    assert "total_kld_mean" in reason


def test_agreement_and_perplexity_are_gated() -> None:
    bad = replace(GOOD, top1_agreement=0.96, perplexity_ratio=1.006)
    gates = drift_gates(section(total=bad), CRITERIA, 4096)
    assert failed(gates) == {"total_top1_agreement", "total_perplexity_ratio"}


def test_few_tokens_do_not_judge_agreement() -> None:
    few = replace(GOOD, tokens=64, top1_agreement=0.5, perplexity_ratio=1.5)
    gates = by_name(drift_gates(section(total=few), CRITERIA, 4096))
    assert gates["total_top1_agreement"].verdict is Verdict.NOT_VALIDATED
    assert gates["total_perplexity_ratio"].verdict is Verdict.NOT_VALIDATED
    assert gates["total_kld_mean"].verdict is Verdict.PASSED


def test_a_model_without_opinions_is_not_judged_by_its_top_token() -> None:
    random = replace(GOOD, perplexity_float=4100.0, perplexity=4101.0, perplexity_ratio=1.0002, top1_agreement=0.6)
    gates = drift_gates(section(total=random), CRITERIA, 4096)
    assert by_name(gates)["total_top1_agreement"].verdict is Verdict.NOT_VALIDATED
    assert by_name(gates)["total_perplexity_ratio"].verdict is Verdict.PASSED
    assert verdict_of(gates)[0] is Verdict.PASSED


def test_float_kernels_must_keep_every_logit() -> None:
    off = replace(GOOD, max_abs=0.0011)
    exact = replace(CRITERIA, accuracy_level=1)
    assert failed(drift_gates(section(lowering=off), exact, 4096)) == {"lowering_max_abs"}
    assert not failed(drift_gates(section(lowering=off), CRITERIA, 4096))


def test_lowering_divergence_is_gated_whatever_the_bits() -> None:
    off = replace(GOOD, kld_mean=0.0021)
    assert failed(drift_gates(section(lowering=off), replace(CRITERIA, bits=4), 4096)) == {"lowering_kld_mean"}


def test_max_drift_replaces_the_total_limit_only() -> None:
    strict = replace(CRITERIA, max_drift=0.0001)
    assert failed(drift_gates(section(), strict, 4096)) == {"total_kld_mean"}
    embeddings = DriftSection(quantization=CLOSE, lowering=CLOSE, total=CLOSE)
    assert failed(drift_gates(embeddings, replace(CRITERIA, max_drift=0.000001), 4096)) == {"total_cosine_mean"}


@pytest.mark.parametrize(("bits", "floor"), [(8, 0.999), (4, 0.95)])
def test_embeddings_have_a_floor(bits: int, floor: float) -> None:
    criteria = replace(CRITERIA, bits=bits)
    low = replace(CLOSE, cosine_mean=floor - 0.001)
    drift = DriftSection(quantization=low, lowering=CLOSE, total=low)
    assert failed(drift_gates(drift, criteria, 100)) == {"quantization_cosine_mean", "total_cosine_mean"}
    assert not failed(drift_gates(replace(drift, quantization=CLOSE, total=CLOSE), criteria, 100))


def test_drifts_of_different_kinds_fail() -> None:
    gates = drift_gates(DriftSection(quantization=GOOD, lowering=GOOD, total=CLOSE), CRITERIA, 100)
    assert verdict_of(gates)[0] is Verdict.FAILED


def test_memory_gates() -> None:
    memory = MemorySection(
        peak_dirty_bytes=100,
        process_dirty_bytes=100,
        baseline_dirty_bytes=40,
        peak_rss_bytes=200,
        limit_bytes=100,
        backend="sampler",
        survived=True,
    )
    assert not failed(memory_gates(memory, ""))
    over = replace(memory, peak_dirty_bytes=101, process_dirty_bytes=101, survived=False)
    gates = memory_gates(over, "killed at the limit")
    assert failed(gates) == {"survived", "peak_dirty_bytes"}
    assert "killed at the limit" in verdict_of(gates)[1]


def test_not_applicable_gates_do_not_decide() -> None:
    gates = (at_most("a", 1.0, 1.0), not_applicable("b", None, "why"), at_least("c", 1.0, 1.0))
    assert verdict_of(gates) == (Verdict.PASSED, "")


@pytest.mark.parametrize("change", [{"memory_limit_bytes": 0}, {"max_drift": -0.1}, {"max_drift": math.nan}])
def test_criteria_without_meaning_are_refused(change: dict[str, float]) -> None:
    values = {"bits": 8, "parameters": 1, "accuracy_level": 4, "memory_limit_bytes": 1} | change
    with pytest.raises(UsageError):
        Criteria(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(("format", "limit"), [("executorch", 2e-2), ("coreml", 1e-3)])
def test_other_formats_are_held_to_their_relative_error(format: Format, limit: float) -> None:
    judged = replace(CRITERIA, format=format)
    for error, verdict in ((limit, Verdict.PASSED), (limit * 1.01, Verdict.FAILED)):
        lowering = replace(GOOD, relative_error=error, max_abs=1.0)
        gates = drift_gates(section(lowering=lowering), judged, 1000)
        (gate,) = (gate for gate in gates if gate.name == "lowering_relative_error")
        assert gate.verdict is verdict
        assert prefill_gate(error, judged).verdict is verdict


def test_an_estimate_of_memory_is_no_verdict() -> None:
    gate = unjudged_memory_gate(1000)
    assert gate.verdict is Verdict.NOT_VALIDATED
    assert gate.value == 1000
    assert verdict_of((gate,)) == (Verdict.PASSED, "")


@pytest.mark.parametrize(
    ("verdict", "decides"), [(Verdict.PASSED, False), (Verdict.FAILED, True), (Verdict.NOT_VALIDATED, False)]
)
def test_one_more_way_of_running_is_one_gate(verdict: Verdict, decides: bool) -> None:
    backend = BackendSection(
        name="q4 on webgpu",
        dtype="q4",
        execution_provider="webgpu",
        threads=1,
        is_required=True,
        verdict=verdict,
        reason="because",
        memory=None,
        drift=None,
        speed=None,
        gates=(),
    )
    gate = backend_gate(backend)
    assert (gate.name, gate.verdict) == ("q4 on webgpu", verdict)
    assert verdict_of((gate,)) == ((Verdict.FAILED, "q4 on webgpu: because") if decides else (Verdict.PASSED, ""))
