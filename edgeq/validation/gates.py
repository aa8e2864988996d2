"""The gates: what a measurement must meet to be called passed. Limits are data, each with where it comes from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgeq.core.report import (
    ArchitectureDrift,
    BackendSection,
    ClassDrift,
    Drift,
    DriftSection,
    EmbeddingDrift,
    Gate,
    LanguageDrift,
    MemorySection,
    Verdict,
)
from edgeq.core.target import Format
from edgeq.errors import UsageError

BILLION = 1_000_000_000
ENOUGH_TOKENS = 512
"""Agreement and perplexity are estimated from single tokens: on fewer, chance alone would break their limits."""


@dataclass(frozen=True, kw_only=True)
class DriftLimits:
    """Ceilings of what quantization may cost. kld_mean in nats per token; top1_agreement and cosine_mean are floors."""

    kld_mean: float
    top1_agreement: float
    perplexity_ratio: float


# (bits, models of at least so many parameters) -> limits; the first row that fits counts.
# llama.cpp publishes for an 8B model: Q8_0 .00024 nats and 99.2 %, Q5_K_M .0047 and 96.5 %, 4-bit formats .02 to .07.
# Smaller models lose more at the same bits: 4-bit 0.5B .074, 1.2B .046 to .087, 3B .019 (from published perplexities).
# Measured with 7 M parameters, group 32: round-to-nearest 4 bit .0275 and 88.5 %, 8 bit .0001 and 99.3 %.
# The same with 3 bit .129, the demo model with searched scales .047 and 81.9 %; with 2 bit .636, which is to fail.
LANGUAGE_LIMITS: tuple[tuple[int, int, DriftLimits], ...] = (
    (16, 0, DriftLimits(kld_mean=0.001, top1_agreement=0.99, perplexity_ratio=1.002)),
    (8, BILLION, DriftLimits(kld_mean=0.003, top1_agreement=0.98, perplexity_ratio=1.005)),
    (8, 0, DriftLimits(kld_mean=0.005, top1_agreement=0.97, perplexity_ratio=1.005)),
    (6, 0, DriftLimits(kld_mean=0.02, top1_agreement=0.94, perplexity_ratio=1.02)),
    (4, 2_500_000_000, DriftLimits(kld_mean=0.04, top1_agreement=0.91, perplexity_ratio=1.04)),
    (4, 700_000_000, DriftLimits(kld_mean=0.05, top1_agreement=0.89, perplexity_ratio=1.05)),
    (4, 0, DriftLimits(kld_mean=0.08, top1_agreement=0.86, perplexity_ratio=1.08)),
    (3, BILLION, DriftLimits(kld_mean=0.15, top1_agreement=0.82, perplexity_ratio=1.15)),
    (3, 0, DriftLimits(kld_mean=0.25, top1_agreement=0.75, perplexity_ratio=1.25)),
    (2, 0, DriftLimits(kld_mean=0.5, top1_agreement=0.6, perplexity_ratio=1.6)),
)
# all-MiniLM-L6-v2, 256 sentences, group 32, round-to-nearest: 4 bit .9689, with 8-bit embeddings .9700; 8 bit .9999.
# Below 4 bits they are not measured: they follow what language models lose, 5 and 23 times as much as with 4 bits.
COSINE_LIMITS = {16: 0.9999, 8: 0.999, 6: 0.99, 4: 0.95, 3: 0.8, 2: 0.5}
# What the runtime's kernels may add. accuracy_level 4 rounds activations to int8, .5 % of an output's size whatever the
# bits; level 1 computes in float32, where only the order of additions differs. all-MiniLM at level 4: .99978 with
# groups of 32, .99927 with groups of 128, as activations are rounded in the same groups.
LOWERING_KLD_MEAN = 0.002
LOWERING_COSINE = {4: 0.999, 1: 0.99999}
LOWERING_MAX_ABS = 1e-3
# Of a runtime that is not judged by its largest difference. XNNPACK rounds activations to int8 (a 2-layer model:
# 1.3e-2, the same as torch's own int8 activations cost); Core ML computes in float16 on caches of float16.
LOWERING_RELATIVE_ERROR: dict[Format, float] = {"executorch": 2e-2, "coreml": 1e-3}
# Of a classifier's logits and a plain module's outputs: what keeps 1 - cosine within LOWERING_COSINE differs by 4.5 %
# at level 4, and an output may be a small difference of large values; a wrong operator gives about 1.
LOWERING_OUTPUT_ERROR = {4: 0.1, 1: 1e-3}
# One padded batch against the same sentences alone: with int8 activations the last bit of a float can tip a rounding,
# which later layers carry on (all-MiniLM, 8 bit, group 128: .99989). A mask that is not obeyed costs far more.
BATCH_COSINE = {4: 0.999, 1: 0.99999}


@dataclass(frozen=True, kw_only=True)
class Criteria:
    """What a bundle is judged by.

    bits and parameters choose the drift limits. accuracy_level is MatMulNBits', for ONNX and browsers: 4 rounds
    activations to int8, as ExecuTorch always does; Core ML computes in floating point. Bytes: memory_limit_bytes for
    the process' dirty memory, bundle_limit_bytes for all files or None. max_drift replaces the limit of the total
    drift: mean KL divergence in nats per token, or 1 - mean cosine.
    """

    bits: int
    parameters: int
    accuracy_level: int
    memory_limit_bytes: int
    format: Format = "onnx"
    bundle_limit_bytes: int | None = None
    max_drift: float | None = None

    @property
    def numerics(self) -> int:
        """The accuracy level that the runtime amounts to: 4 where it rounds activations to int8, else 1."""
        if self.format == "executorch":
            return 4
        return 1 if self.format == "coreml" else self.accuracy_level

    def __post_init__(self) -> None:
        if self.memory_limit_bytes <= 0:
            raise UsageError("The memory limit must be above 0.", remedy="Give a size such as 512MB.")
        check_drift_limit(self.max_drift)


def check_drift_limit(max_drift: float | None) -> None:
    """Raises UsageError for a limit that nothing can be measured against."""
    if max_drift is not None and not max_drift >= 0.0:
        raise UsageError(f"A drift limit of {max_drift} has no meaning.", remedy="Give a number from 0 up.")


def language_limits(bits: int, parameters: int) -> DriftLimits:
    """The limits for so many bits per linear weight and so many parameters."""
    for row_bits, at_least, limits in LANGUAGE_LIMITS:
        if row_bits == bits and parameters >= at_least:
            return limits
    raise UsageError(f"No drift limits are known for {bits} bits.", remedy="Use 2, 3, 4, 8 or 16.")


def verdict_of(gates: Sequence[Gate]) -> tuple[Verdict, str]:
    """The verdict of all gates together and its reason: the names of those that failed."""
    failed = [gate for gate in gates if gate.verdict is Verdict.FAILED]
    if failed:
        return Verdict.FAILED, "; ".join(f"{gate.name}: {gate.reason}" if gate.reason else gate.name for gate in failed)
    return Verdict.PASSED, ""


def at_most(name: str, value: float, limit: float, reason: str = "") -> Gate:
    """A gate that is passed up to and with its limit; what is not a number fails."""
    passed = value <= limit
    return Gate(
        name=name,
        value=value,
        limit=limit,
        verdict=Verdict.PASSED if passed else Verdict.FAILED,
        reason="" if passed else reason or f"{value:.6g} is above {limit:.6g}",
    )


def at_least(name: str, value: float, limit: float) -> Gate:
    passed = value >= limit
    return Gate(
        name=name,
        value=value,
        limit=limit,
        verdict=Verdict.PASSED if passed else Verdict.FAILED,
        reason="" if passed else f"{value:.6g} is below {limit:.6g}",
    )


def same(name: str, value: str, limit: str, reason: str) -> Gate:
    passed = value == limit
    verdict = Verdict.PASSED if passed else Verdict.FAILED
    return Gate(name=name, value=value, limit=limit, verdict=verdict, reason="" if passed else reason)


def not_applicable(name: str, value: float | None, reason: str) -> Gate:
    """A criterion that says nothing about this model; it neither passes nor fails."""
    return Gate(name=name, value=value, limit=None, verdict=Verdict.NOT_VALIDATED, reason=reason)


def memory_gates(memory: MemorySection, failure: str) -> tuple[Gate, ...]:
    """The process must have survived its limit, and its dirty memory stayed below. failure: how it ended, in words."""
    survived = same("survived", "yes" if memory.survived else "no", "yes", f"{failure} ({memory.backend})")
    peak, limit = memory.peak_dirty_bytes, memory.limit_bytes
    return survived, at_most("peak_dirty_bytes", peak, limit, f"{mebibytes(peak)} is above {mebibytes(limit)}")


def bundle_gate(size: int, limit: int) -> Gate:
    """What an app carries must fit what its store delivers."""
    return at_most("bundle_bytes", size, limit, f"{mebibytes(size)} is above {mebibytes(limit)}")


def batch_gate(cosine: float, criteria: Criteria) -> Gate:
    """A padded batch must say what its sentences say alone."""
    return at_least("batch_cosine_min", cosine, BATCH_COSINE[criteria.numerics])


def prefill_gate(error: float, criteria: Criteria) -> Gate:
    """A prompt in chunks must say what its tokens say one by one; the runtime's own noise is allowed."""
    return at_most("prefill_relative_error", error, LOWERING_RELATIVE_ERROR[criteria.format])


def backend_gate(backend: BackendSection) -> Gate:
    """That a bundle passed in one more way of running it."""
    if backend.verdict is Verdict.NOT_VALIDATED:
        return not_applicable(backend.name, None, backend.reason)
    return same(backend.name, backend.verdict.value, Verdict.PASSED.value, backend.reason)


def architecture_gate(row: ArchitectureDrift) -> Gate:
    """That a bundle passed on one more CPU."""
    name = f"{row.architecture} {row.cpu}"
    if row.verdict is Verdict.NOT_VALIDATED:
        return not_applicable(name, None, row.reason)
    return same(name, row.verdict.value, Verdict.PASSED.value, row.reason)


def unjudged_memory_gate(estimate: int) -> Gate:
    """What an interpreter cannot tell: the peak in the device's own runtime. estimate in bytes."""
    return not_applicable("peak_dirty_bytes", float(estimate), "estimated: the program did not run in its own runtime")


def drift_gates(drift: DriftSection, criteria: Criteria, vocabulary: int) -> tuple[Gate, ...]:
    """Gates of the three drifts. vocabulary tells a model that predicts nothing from one that does."""
    match drift.quantization, drift.lowering, drift.total:
        case LanguageDrift() as quantization, LanguageDrift() as lowering, LanguageDrift() as total:
            limits = language_limits(criteria.bits, criteria.parameters)
            return (
                at_most("quantization_kld_mean", quantization.kld_mean, limits.kld_mean),
                *_lowering_gates(lowering, criteria),
                *_total_gates(total, criteria, limits, vocabulary),
            )
        case EmbeddingDrift() as quantization, EmbeddingDrift() as lowering, EmbeddingDrift() as total:
            floor = COSINE_LIMITS[criteria.bits]
            total_floor = floor if criteria.max_drift is None else 1.0 - criteria.max_drift
            return (
                at_least("quantization_cosine_mean", quantization.cosine_mean, floor),
                at_least("lowering_cosine_mean", lowering.cosine_mean, LOWERING_COSINE[criteria.numerics]),
                *_error_gates(lowering, criteria),
                *_output_gates(lowering, criteria),
                at_least("total_cosine_mean", total.cosine_mean, total_floor),
            )
        case ClassDrift() as quantization, ClassDrift() as lowering, ClassDrift() as total:
            return _class_gates(quantization, lowering, total, criteria)
    return (same("drift_kind", _kind(drift.total), _kind(drift.quantization), "the drifts are of different kinds"),)


def _class_gates(
    quantization: ClassDrift, lowering: ClassDrift, total: ClassDrift, criteria: Criteria
) -> tuple[Gate, ...]:
    """Class probabilities are held to what next tokens are, with their hundreds of times as many ways to go wrong."""
    limits = language_limits(criteria.bits, criteria.parameters)
    agreement = "total_top1_agreement"
    ceiling = limits.kld_mean if criteria.max_drift is None else criteria.max_drift
    few = f"{total.answers} answers are too few to tell"
    return (
        at_most("quantization_kld_mean", quantization.kld_mean, limits.kld_mean),
        at_most("lowering_kld_mean", lowering.kld_mean, LOWERING_KLD_MEAN),
        at_most("lowering_relative_error", lowering.relative_error, LOWERING_OUTPUT_ERROR[criteria.numerics]),
        at_most("total_kld_mean", total.kld_mean, ceiling),
        not_applicable(agreement, total.top1_agreement, few)
        if total.answers < ENOUGH_TOKENS
        else at_least(agreement, total.top1_agreement, limits.top1_agreement),
    )


def _lowering_gates(lowering: LanguageDrift, criteria: Criteria) -> tuple[Gate, ...]:
    divergence = at_most("lowering_kld_mean", lowering.kld_mean, LOWERING_KLD_MEAN)
    if criteria.format != "onnx":
        return divergence, *_error_gates(lowering, criteria)
    if criteria.accuracy_level == 4 and criteria.bits != 16:
        return (divergence,)
    return divergence, at_most("lowering_max_abs", lowering.max_abs, LOWERING_MAX_ABS)


def _error_gates(lowering: Drift, criteria: Criteria) -> tuple[Gate, ...]:
    limit = LOWERING_RELATIVE_ERROR.get(criteria.format)
    return () if limit is None else (at_most("lowering_relative_error", lowering.relative_error, limit),)


def _output_gates(lowering: EmbeddingDrift, criteria: Criteria) -> tuple[Gate, ...]:
    """Of a plain module the size of each output matters too, which a cosine does not see."""
    limit = LOWERING_OUTPUT_ERROR[criteria.numerics]
    return tuple(
        at_most(f"lowering_relative_error of {name}", output.relative_error, limit)
        for name, output in lowering.outputs.items()
    )


def _total_gates(total: LanguageDrift, criteria: Criteria, limits: DriftLimits, vocabulary: int) -> tuple[Gate, ...]:
    ceiling = limits.kld_mean if criteria.max_drift is None else criteria.max_drift
    divergence = at_most("total_kld_mean", total.kld_mean, ceiling)
    agreement, ratio = "total_top1_agreement", "total_perplexity_ratio"
    if total.tokens < ENOUGH_TOKENS:
        why = f"{total.tokens} positions are too few to tell"
        return (
            divergence,
            not_applicable(agreement, total.top1_agreement, why),
            not_applicable(ratio, total.perplexity_ratio, why),
        )
    ratio_gate = at_most(ratio, total.perplexity_ratio, limits.perplexity_ratio)
    if not math.isfinite(total.perplexity_float) or total.perplexity_float >= vocabulary / 2:
        why = "the float model itself predicts no better than chance"
        return divergence, not_applicable(agreement, total.top1_agreement, why), ratio_gate
    return divergence, at_least(agreement, total.top1_agreement, limits.top1_agreement), ratio_gate


def mebibytes(size: int) -> str:
    """For a gate's reason."""
    return f"{size / 2**20:.1f} MiB"


def _kind(drift: Drift) -> str:
    return type(drift).__name__
