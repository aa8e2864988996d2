"""Numbers of a report as people read them; shared by the terminal summary and Markdown."""

from __future__ import annotations

from dataclasses import dataclass

from edgeq.core.report import (
    ArchitectureDrift,
    BackendSection,
    ClassDrift,
    Drift,
    EmbeddingDrift,
    Gate,
    LanguageDrift,
    Report,
    SpeedSection,
    Verdict,
)
from edgeq.core.scheme import FLOAT_BITS

VERDICT_WORDS = {Verdict.PASSED: "passed", Verdict.FAILED: "failed", Verdict.NOT_VALIDATED: "not validated"}
DRIFT_PARTS = (
    ("quantization", "original against quantized weights"),
    ("lowering", "quantized weights against the runtime"),
    ("total", "original against the runtime"),
)

_LONGEST_TEXT = 24  # a digest is longer, and its beginning is enough


@dataclass(frozen=True, kw_only=True)
class FiguresTable:
    """Column headings, and rows that begin with a name."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def size(count: float) -> str:
    """Bytes in binary units: 3.4 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError


def number(value: float | str | None) -> str:
    """Four significant digits, no exponent where one can do without; long texts are cut."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value if len(value) <= _LONGEST_TEXT else f"{value[:12]}.."
    if value == 0 or 1e-4 <= abs(value) < 1e6:
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
    return f"{value:.2e}"


def percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def size_change(report: Report) -> str:
    """Bytes of all weights before and after."""
    weights = report.weights
    ratio = weights.bytes / weights.float_bytes if weights.float_bytes else 0.0
    return f"{size(weights.float_bytes)} at 16 bits -> {size(weights.bytes)} ({100 * ratio:.0f} %)"


def recipe(report: Report) -> str:
    """4 bits, group 32 ..., in words."""
    recipe = report.recipe
    if recipe.bits == FLOAT_BITS:
        return "float16, not quantized"
    group = "one scale per channel" if recipe.group_size is None else f"groups of {recipe.group_size}"
    grid = "symmetric" if recipe.symmetric else "zero points"
    words = {None: f"{group}, {grid}", "palette": "palettes", "nf4": f"{group}, NormalFloat"}[recipe.codebook]
    return f"{recipe.method}, {recipe.bits} bits, {words}; embeddings {recipe.embedding_bits} bits"


def memory(report: Report) -> tuple[float | None, str]:
    """Peak as a fraction of the limit, and the words beside it."""
    section = report.memory
    if section is None:
        planned = sum(report.planned_memory.values())
        return None, f"not measured; estimated {size(planned)}" if planned else "not measured"
    fraction = section.peak_dirty_bytes / section.limit_bytes if section.limit_bytes else None
    words = f"{size(section.peak_dirty_bytes)} of {size(section.limit_bytes)}"
    if fraction is not None:
        words += f" ({100 * fraction:.0f} %)"
    if not section.survived:
        words += ", killed at the limit"
    return fraction, words


def process(report: Report) -> str:
    """What the whole process held, and its part before the artifact was opened; empty where nothing was measured."""
    section = report.memory
    if section is None:
        return ""
    baseline = size(section.baseline_dirty_bytes)
    return f"process {size(section.process_dirty_bytes)}, of which baseline {baseline}{where_measured(report)}"


def where_measured(report: Report) -> str:
    """On what memory and speed were measured, where drift was on something else; to be appended."""
    rows = _architectures(report)
    return f", measured on {rows[0].architecture}" if any(row.difference is not None for row in rows) else ""


def drift(report: Report) -> FiguresTable | None:
    """The three parts of the drift; None where nothing ran."""
    section = report.drift
    if section is None:
        return None
    parts = (("quantization", section.quantization), ("lowering", section.lowering), ("total", section.total))
    if isinstance(section.total, LanguageDrift):
        columns: tuple[str, ...] = ("drift", "KL mean", "KL 99.9 %", "KL max", "same top-1", "perplexity")
    elif isinstance(section.total, ClassDrift):
        columns = ("drift", "KL mean", "KL max", "same top-1", "max |diff|")
    else:
        columns = ("drift", "cosine mean", "cosine min", "rank corr.", "max |diff|")
    return FiguresTable(columns=columns, rows=tuple((name, *_drift_cells(part)) for name, part in parts))


def _drift_cells(part: Drift) -> tuple[str, ...]:
    if isinstance(part, LanguageDrift):
        return (
            number(part.kld_mean),
            number(part.kld_p999),
            number(part.kld_max),
            percent(part.top1_agreement),
            f"x {part.perplexity_ratio:.4f}",
        )
    if isinstance(part, ClassDrift):
        return number(part.kld_mean), number(part.kld_max), percent(part.top1_agreement), number(part.max_abs)
    return (
        f"{part.cosine_mean:.5f}",
        f"{part.cosine_min:.5f}",
        f"{part.rank_correlation:.5f}",
        number(part.max_abs),
    )


def drift_sample(report: Report) -> str:
    """What the drift was measured on."""
    if report.drift is None:
        return ""
    total = report.drift.total
    if isinstance(total, LanguageDrift):
        return (
            f"KL divergence in nats per token over {total.tokens:,} tokens; "
            f"perplexity {number(total.perplexity_float)} -> {number(total.perplexity)}"
        )
    if isinstance(total, ClassDrift):
        return f"KL divergence of class probabilities in nats over {total.answers:,} answers"
    if total.outputs:
        errors = ", ".join(f"{name} {number(output.relative_error)}" for name, output in total.outputs.items())
        return f"of the worst output, over {total.sentences:,} answers; total relative error of each: {errors}"
    return f"over {total.sentences:,} {'pictures' if report.model.task.startswith('image') else 'sentences'}"


def architectures(report: Report) -> FiguresTable | None:
    """This machine's kernels beside the device's; None where those did not run."""
    rows = _architectures(report)
    if all(row.verdict is Verdict.NOT_VALIDATED for row in rows[1:]):
        return None
    columns = ("kernels", "lowering", "total", f"from {rows[0].architecture}", "relative", "verdict")
    return FiguresTable(columns=columns, rows=tuple(map(_architecture_cells, rows)))


def architecture_columns(report: Report) -> str:
    """What the columns of `architectures` are."""
    rows = _architectures(report)
    mean = "cosine" if rows and isinstance(rows[0].total, EmbeddingDrift) else "KL divergence"
    return f"mean {mean}; relative error against the answers on {rows[0].architecture}" if rows else ""


def architecture_facts(report: Report) -> tuple[str, ...]:
    """What ran the device's kernels, what is wrong with them, or why they did not run, in one line each."""
    rows = _architectures(report)[1:]
    runtimes = dict.fromkeys(f"{row.architecture}: {row.runtime}" for row in rows if row.runtime)
    not_run = [f"{_kernels(row)} was not run: {row.reason}" for row in rows if row.verdict is Verdict.NOT_VALIDATED]
    failed = [f"{_kernels(row)}: {row.reason}" for row in rows if row.verdict is Verdict.FAILED]
    return (*runtimes, *not_run, *failed)


def _architectures(report: Report) -> tuple[ArchitectureDrift, ...]:
    return () if report.drift is None else report.drift.architectures


def _architecture_cells(row: ArchitectureDrift) -> tuple[str, ...]:
    parts = (row.lowering, row.total, row.difference)
    means = ("-" if part is None else _mean(part) for part in parts)
    relative = "-" if row.difference is None else number(row.difference.relative_error)
    return (_kernels(row), *means, relative, VERDICT_WORDS[row.verdict])


def _kernels(row: ArchitectureDrift) -> str:
    return f"{row.architecture}, {row.cpu}" if row.cpu else row.architecture


def tokenizer(report: Report) -> str:
    """What reads text, and how well; empty where an app does it with the tokenizer's files."""
    section = report.tokenizer
    if section.form == "files":
        return ""
    equal = f"{section.equal} of {section.strings} strings equal" if section.strings else "not compared"
    peak = "" if section.peak_dirty_bytes is None else f", memory {size(section.peak_dirty_bytes)}"
    return f"{section.form}, {equal}, onnxruntime-extensions {section.extensions}{peak}"


def speed(section: SpeedSection | None) -> str:
    if section is None:
        return "not measured"
    parts = [f"load {section.load_seconds:.2f} s"]
    if section.prefill_tokens_per_second is not None:
        parts.append(f"prefill {section.prefill_tokens_per_second:,.0f} tokens/s")
    if section.decode_tokens_per_second is not None:
        parts.append(f"decode {section.decode_tokens_per_second:,.0f} tokens/s")
    if section.latency_ms is not None:
        parts.append(f"{number(section.latency_ms)} ms per input")
    return ", ".join(parts)


def backends(report: Report) -> FiguresTable | None:
    """One row for each way in which the bundle was run; None where there was only one."""
    if not report.backends:
        return None
    language = any(one.drift is not None and isinstance(one.drift.total, LanguageDrift) for one in report.backends)
    speed_columns = ("first", "tok/s") if language else ("ms",)
    columns = ("run", "load", *speed_columns, "memory", "lowering", "total", "verdict")
    return FiguresTable(columns=columns, rows=tuple(_backend_cells(one, language=language) for one in report.backends))


def _backend_cells(backend: BackendSection, *, language: bool) -> tuple[str, ...]:
    speed, memory, drift = backend.speed, backend.memory, backend.drift
    if language:
        seconds = None if speed is None else speed.first_token_seconds
        pace: tuple[str, ...] = (
            "-" if seconds is None else f"{seconds:.2f} s",
            number(None if speed is None else speed.decode_tokens_per_second),
        )
    else:
        pace = (number(None if speed is None else speed.latency_ms),)
    return (
        backend.name,
        "-" if speed is None else f"{speed.load_seconds:.2f} s",
        *pace,
        "-" if memory is None else size(memory.peak_dirty_bytes),
        "-" if drift is None else _mean(drift.lowering),
        "-" if drift is None else _mean(drift.total),
        VERDICT_WORDS[backend.verdict],
    )


def _mean(part: Drift) -> str:
    return f"{part.cosine_mean:.5f}" if isinstance(part, EmbeddingDrift) else number(part.kld_mean)


def backend_columns(report: Report) -> str:
    """What the columns of `backends` are, for a reader who has not seen them before."""
    if any(one.drift is not None and isinstance(one.drift.total, LanguageDrift) for one in report.backends):
        return "first: from a prompt to its first token; lowering and total: mean KL divergence"
    if any(one.drift is not None and isinstance(one.drift.total, ClassDrift) for one in report.backends):
        return "ms: one input; lowering and total: mean KL divergence"
    return "ms: one sentence; lowering and total: mean cosine"


def backend_facts(report: Report) -> tuple[str, ...]:
    """What each run says of its surroundings, and why one could not be judged, in one line each."""
    lines = []
    for backend in report.backends:
        words = [f"{name.replace('_', ' ')} {value}" for name, value in backend.facts.items() if value]
        words += [backend.reason] if backend.reason else []
        if words:
            lines.append(f"{backend.name}: {'; '.join(words)}")
    return tuple(lines)


def gate_cells(gate: Gate) -> tuple[str, str, str]:
    """Value, limit and verdict of a gate. A value whose name ends in `bytes` is shown as a size."""
    return _gate_value(gate.name, gate.value), _gate_value(gate.name, gate.limit), VERDICT_WORDS[gate.verdict]


def _gate_value(name: str, value: float | str | None) -> str:
    if name.endswith("bytes") and isinstance(value, int | float):
        return size(value)
    return number(value)
