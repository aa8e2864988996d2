"""What gates and figures mean, for readers who have not read the manual."""

from __future__ import annotations

import math

from edgeq.core.report import ClassDrift, Drift, DriftSection, Gate, LanguageDrift, Report, Verdict
from edgeq.reports.figures import number, percent, size

GATE_WORDS = {
    "files": "every file that the bundle lists is there",
    "weights_digest": "the model file holds exactly the quantized weights",
    "tokenizer": "the tokenizer spells the test texts as the model's own does",
    "picture_graph": "the graph prepares pictures as the model's own preprocessor does",
    "native_kernels": "products of weights for which the runtime has a fast kernel",
    "survived": "the process was not ended by the memory limit",
    "peak_dirty_bytes": "most memory that counts against the device's limit",
    "completed": "the runtime did all that it was asked for",
    "arm64_completed": "the runtime did it on the device's own kernels as well",
    "bundle_bytes": "what an app carries, against what its store delivers",
    "largest_file_bytes": "the largest file, against what a browser fetches",
    "largest_tensor_bytes": "the largest tensor, against what a browser takes whole",
    "quantization_kld_mean": "how far fewer bits move the predictions",
    "lowering_kld_mean": "how far the runtime moves the predictions",
    "total_kld_mean": "how far the predictions are from the original's",
    "total_top1_agreement": "how often the most likely answer is the original's",
    "total_perplexity_ratio": "surprise at the test text, against the original's (1 is the same)",
    "lowering_max_abs": "largest difference of one output in the runtime",
    "lowering_relative_error": "difference of all outputs in the runtime",
    "prefill_relative_error": "a prompt in one piece, against the same token by token",
    "batch_cosine_min": "sentences in one batch, against the same alone (1 is the same)",
    "quantization_cosine_mean": "how alike embeddings stay with fewer bits (1 is the same)",
    "lowering_cosine_mean": "how alike embeddings stay in the runtime (1 is the same)",
    "total_cosine_mean": "how alike embeddings are to the original's (1 is the same)",
}
DRIFT_WORDS = {
    "quantization": ("Fewer bits", "the original against the quantized weights, both in PyTorch"),
    "lowering": ("The runtime", "the quantized weights in PyTorch against the model file in its runtime"),
    "total": ("Both together", "the original against what the app gets"),
}
PHASE_WORDS = {
    "load": "load",
    "prefill": "prompt",
    "decode": "write",
    "drift": "long text",
    "encode": "encode",
}
GROUP_WORDS = {
    "embedding": "Token table",
    "query, key, value": "Attention in (query, key, value)",
    "attention output": "Attention out",
    "gate and up": "Feed-forward in (gate, up)",
    "down": "Feed-forward out (down)",
    "head": "Output head",
    "rest": "Everything else",
}
_IDEAL_ONE = ("agreement", "cosine", "ratio")


def phase_words(name: str) -> str:
    """A phase as what the model does then."""
    return PHASE_WORDS.get(name, name)


def group_words(name: str) -> str:
    """A group of weights as a reader finds it in a picture of a model."""
    return GROUP_WORDS.get(name, name)


def headline(report: Report) -> str:
    """The verdict in a sentence."""
    match report.verdict:
        case Verdict.PASSED:
            return f"Fit for {report.target}" if not report.reason else f"Fit for {report.target}, with reservations"
        case Verdict.FAILED:
            return f"Not fit for {report.target}"
        case Verdict.NOT_VALIDATED:
            return f"Not proven on {report.target}"


def reasons(report: Report) -> tuple[str, ...]:
    """Why, one reason each: the gates that decided, else what the report says."""
    if report.verdict is Verdict.PASSED:
        judged = [gate for gate in report.gates if gate.verdict is Verdict.PASSED]
        which = "" if len(judged) == len(report.gates) else " that could be judged"
        words = f"All {len(judged)} gates{which} passed, in the runtime that the bundle is made for."
        return (words if judged else "Every check passed.", *([report.reason] if report.reason else []))
    failed = [gate for gate in report.gates if gate.verdict is Verdict.FAILED]
    if report.verdict is Verdict.FAILED and failed:
        return tuple(_failure(gate) for gate in failed)
    return (report.reason or "Nothing was said about why.",)


def allowance(gate: Gate) -> float | None:
    """How much of what the limit leaves a gate's value takes: 1 is all, above it fails. None where that means nothing.

    Counted from what no change at all would give: 0, or 1 for agreements, cosines and ratios.
    """
    value, limit = gate.value, gate.limit
    if isinstance(value, str) or isinstance(limit, str) or value is None or limit is None:
        return None
    ideal = 1.0 if any(word in gate.name for word in _IDEAL_ONE) else 0.0
    if not math.isfinite(limit) or limit == ideal:
        return None
    if not math.isfinite(value):
        return math.inf
    return max(0.0, (value - ideal) / (limit - ideal))


def drift_sentence(part: Drift) -> str:
    """One part of the drift for a person."""
    if isinstance(part, ClassDrift):
        return _class_sentence(part)
    if not isinstance(part, LanguageDrift):
        worst = f"the worst of {part.sentences:,} has {part.cosine_min:.4f}"
        return (
            f"A sentence's vector keeps {part.cosine_mean:.4f} of its direction on average, where 1 is all; {worst}. "
            f"The order of similar sentences stays at {part.rank_correlation:.4f} of 1."
        )
    agree = round(100 * part.top1_agreement)
    if not math.isfinite(part.kld_mean):
        return "The predictions are broken: they give no chance at all to words that the original would write."
    less = -math.expm1(-part.kld_mean)
    chance = "less than 0.1 %" if less < 0.001 else f"{100 * less:.1f} %"
    return (
        f"{'All' if part.top1_agreement == 1 else agree} of 100 next tokens are the original's own first choice; "
        f"a token that the original would write loses {chance} of its probability on average."
    )


def _class_sentence(part: ClassDrift) -> str:
    if not math.isfinite(part.kld_mean):
        return "The answers are broken: they give no chance at all to classes that the original would choose."
    same = round(part.top1_agreement * part.answers)
    return (
        f"{same:,} of {part.answers:,} answers are the original's own first choice; probabilities move by "
        f"{number(part.kld_mean)} nats on average, {number(part.kld_max)} at most."
    )


def drift_origin(section: DriftSection) -> str:
    """Which of the two steps does the harm."""
    quantization, lowering = harm(section.quantization), harm(section.lowering)
    if not (math.isfinite(quantization) and math.isfinite(lowering)) or max(quantization, lowering) <= 0:
        return ""
    if lowering < quantization / 10:
        return "Nearly all of the change is the price of fewer bits; the runtime adds next to nothing."
    if lowering > quantization:
        return "Most of the change happens in the runtime, not by fewer bits: look for a fallback in the notes."
    return "Fewer bits and the runtime both have a share in the change."


def drift_figures(part: Drift) -> str:
    """The same in the units of the gates."""
    if isinstance(part, LanguageDrift):
        return (
            f"KL divergence {number(part.kld_mean)} nats per token on average, {number(part.kld_p999)} for the worst "
            f"in 1,000, {number(part.kld_max)} at most; same top token {percent(part.top1_agreement)}; "
            f"perplexity x {part.perplexity_ratio:.4f}"
        )
    if isinstance(part, ClassDrift):
        return (
            f"KL divergence {number(part.kld_mean)} nats per answer on average, {number(part.kld_max)} at most; same "
            f"first choice {percent(part.top1_agreement)}; largest difference of a logit {number(part.max_abs)}"
        )
    return (
        f"cosine {part.cosine_mean:.5f} on average, {part.cosine_min:.5f} at worst; largest difference "
        f"{number(part.max_abs)}"
    )


def harm(part: Drift) -> float:
    """The mean KL divergence, or 1 - the mean cosine."""
    return part.distance


def _failure(gate: Gate) -> str:
    what = GATE_WORDS.get(gate.name, "")
    why = gate.reason
    if not why:
        known = gate.value is not None
        why = f"{_value(gate.name, gate.value)}, limit {_value(gate.name, gate.limit)}" if known else "failed"
    return f"{gate.name}: {why}" + (f" ({what})" if what else "")


def _value(name: str, value: float | str | None) -> str:
    return size(value) if name.endswith("bytes") and isinstance(value, int | float) else number(value)
