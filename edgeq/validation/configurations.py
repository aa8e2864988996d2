"""In which ways a bundle is run: once, or in a browser each variant on each execution provider."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeq.core.artifact import Variant
from edgeq.core.target import ExecutionProvider
from edgeq.runtimes.opening import runs_apart
from edgeq.validation.subject import Subject
from edgeq.validation.workplace import available_cores


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One run. `name` is "" where a bundle has only one.

    tokens: how much of the reference it answers, in whole sequences; None: all. is_required: the verdict is not whole
    without it.
    """

    name: str
    dtype: str
    model: Path
    execution_provider: ExecutionProvider
    threads: int
    tokens: int | None
    is_required: bool


FEWER_TOKENS = 256
"""What every run but the first answers: enough to see another kernel's rounding, which is what it is for."""


def configurations_of(subject: Subject) -> tuple[Configuration, ...]:
    """The runs of a bundle; the first is the one that memory, drift and speed in the report are from.

    float32 variants run on every provider, and on WASM with one thread and with several. float16 ones run on one WASM
    thread for their numerics; on WebGPU they need an adapter that computes in float16, which few CI machines have.
    """
    # More threads than cores would wait for each other, which no device does.
    threads = min(subject.threads, available_cores())
    if not runs_apart(subject.format):
        only = Configuration(
            name="",
            dtype="",
            model=subject.model,
            execution_provider="wasm",  # read by browsers only
            threads=threads,
            tokens=None,
            is_required=True,
        )
        return (only,)
    runs: list[Configuration] = []
    models = subject.models()
    for variant in sorted(subject.variants, key=_is_half):  # stable: the first float32 variant stays first
        model = models[variant.dtype]
        for provider in subject.execution_providers:
            counts = sorted({1, threads}) if provider == "wasm" and not _is_half(variant) else [1]
            for count in counts:
                runs.append(_of_variant(variant, model, provider, threads=count, is_first=not runs))
    return tuple(runs)


def _of_variant(
    variant: Variant, model: Path, provider: ExecutionProvider, *, threads: int, is_first: bool
) -> Configuration:
    where = "webgpu" if provider == "webgpu" else f"wasm, {threads} thread{'s' if threads > 1 else ''}"
    return Configuration(
        name=f"{variant.dtype} on {where}",
        dtype=variant.dtype,
        model=model,
        execution_provider=provider,
        threads=threads,
        tokens=None if is_first else FEWER_TOKENS,
        is_required=not (_is_half(variant) and provider == "webgpu"),
    )


def _is_half(variant: Variant) -> bool:
    return variant.float_dtype == "float16"
