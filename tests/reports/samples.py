"""Reports with plausible numbers."""

from __future__ import annotations

import dataclasses

from edgeq.core.artifact import FileEntry
from edgeq.core.report import (
    ArchitectureDrift,
    ArtifactSection,
    BackendSection,
    ClassDrift,
    DriftSection,
    EmbeddingDrift,
    EnvironmentSection,
    Gate,
    LanguageDrift,
    MemorySection,
    ModelSection,
    RecipeSection,
    Report,
    SpeedSection,
    Verdict,
    WeightsSection,
)

DIGEST = "ab" * 32
MIB = 2**20


def language_drift(kld: float) -> LanguageDrift:
    return LanguageDrift(
        tokens=2048,
        kld_mean=kld,
        kld_p999=20 * kld,
        kld_max=40 * kld,
        top1_agreement=0.9412,
        perplexity=12.31,
        perplexity_float=12.0,
        perplexity_ratio=1.0258,
        max_abs=0.75,
        relative_error=0.02,
    )


def passed_report() -> Report:
    """A language model that passed."""
    return Report(
        edgeq_version="0.1.0",
        target="android",
        format="onnx",
        verdict=Verdict.PASSED,
        reason="",
        model=ModelSection(
            source="demo",
            revision="f" * 40,
            task="text-generation",
            architecture="LlamaForCausalLM",
            parameters=5_920_000,
        ),
        recipe=RecipeSection(
            bits=4, method="search", group_size=32, symmetric=True, embedding_bits=8, accuracy_level=4
        ),
        weights=WeightsSection(digest=DIGEST, bits_per_weight=5.21, bytes=int(3.7 * MIB), float_bytes=int(11.3 * MIB)),
        artifact=ArtifactSection(
            bytes=int(3.9 * MIB),
            files=(FileEntry(path="assets/edgeq/demo/model/model.onnx", bytes=100_000, sha256="cd" * 32),),
        ),
        memory=MemorySection(
            peak_dirty_bytes=512 * MIB,
            process_dirty_bytes=754 * MIB,
            baseline_dirty_bytes=274 * MIB,
            peak_rss_bytes=600 * MIB,
            limit_bytes=2048 * MIB,
            backend="cgroup v2",
            survived=True,
            phases={"load": 400 * MIB, "decode": 512 * MIB},
        ),
        drift=DriftSection(
            quantization=language_drift(0.0312), lowering=language_drift(0.0004), total=language_drift(0.0317)
        ),
        speed=SpeedSection(load_seconds=0.123, prefill_tokens_per_second=1812.4, decode_tokens_per_second=233.0),
        gates=(
            Gate(name="peak_dirty_bytes", value=512 * MIB, limit=2048 * MIB, verdict=Verdict.PASSED),
            Gate(name="drift_total_kld_mean", value=0.0317, limit=0.08, verdict=Verdict.PASSED),
        ),
        environment=EnvironmentSection(
            runtime="onnxruntime", runtime_version="1.32.0", platform="Linux x86_64", python="3.11.2"
        ),
        notes=("attention of layer 3 was not fused",),
    )


def encoder_report() -> Report:
    """A sentence encoder that failed."""
    drift = EmbeddingDrift(
        sentences=64, cosine_mean=0.9712, cosine_min=0.9123, rank_correlation=0.9876, max_abs=0.08, relative_error=0.1
    )
    report = passed_report()
    return dataclasses.replace(
        report,
        verdict=Verdict.FAILED,
        reason="drift_total_cosine_min 0.9123 is below 0.95",
        model=dataclasses.replace(report.model, task="feature-extraction", architecture="BertModel"),
        drift=DriftSection(quantization=drift, lowering=drift, total=drift),
        speed=SpeedSection(load_seconds=0.2, latency_ms=4.25),
        gates=(
            Gate(
                name="drift_total_cosine_min",
                value=0.9123,
                limit=0.95,
                verdict=Verdict.FAILED,
                reason="one sentence moved",
            ),
        ),
    )


def classifier_report() -> Report:
    """A classifier of images that passed."""
    drift = ClassDrift(
        answers=32, kld_mean=0.0012, kld_max=0.043, top1_agreement=0.96875, max_abs=0.31, relative_error=0.05
    )
    report = passed_report()
    return dataclasses.replace(
        report,
        model=dataclasses.replace(report.model, task="image-classification", architecture="ViTForImageClassification"),
        drift=DriftSection(quantization=drift, lowering=drift, total=drift),
        speed=SpeedSection(load_seconds=0.2, latency_ms=4.25),
    )


def killed_report() -> Report:
    """A model that the memory limit killed: nothing else was measured."""
    report = passed_report()
    assert report.memory is not None
    return dataclasses.replace(
        report,
        verdict=Verdict.FAILED,
        reason="killed at the limit",
        memory=dataclasses.replace(
            report.memory,
            peak_dirty_bytes=30 * MIB,
            process_dirty_bytes=30 * MIB,
            baseline_dirty_bytes=27 * MIB,
            limit_bytes=20 * MIB,
            survived=False,
        ),
        drift=None,
        speed=None,
        gates=(Gate(name="memory_survived", value=None, limit=None, verdict=Verdict.FAILED),),
        notes=(),
    )


def unvalidated_report() -> Report:
    """A bundle that was not run."""
    return dataclasses.replace(
        passed_report(),
        verdict=Verdict.NOT_VALIDATED,
        reason="--no-validate was given",
        memory=None,
        drift=None,
        speed=None,
        gates=(),
        notes=(),
    )


def arm64_report(*, ran: bool = True) -> Report:
    """A language model that passed on arm64's kernels; or whose emulator is missing."""
    report = passed_report()
    assert report.drift is not None
    here = ArchitectureDrift(
        architecture="x86_64",
        cpu="",
        runtime="onnxruntime 1.32.0",
        verdict=Verdict.PASSED,
        reason="",
        lowering=report.drift.lowering,
        total=report.drift.total,
    )
    there = dataclasses.replace(
        here,
        architecture="arm64",
        cpu="cortex-a76",
        runtime="onnxruntime 1.32.0, qemu 10.0.2",
        lowering=language_drift(0.0003),
        total=language_drift(0.0316),
        difference=dataclasses.replace(language_drift(0.0001), relative_error=0.00469),
    )
    if not ran:
        there = dataclasses.replace(
            there, runtime="", verdict=Verdict.NOT_VALIDATED, reason="It is not there.", lowering=None, total=None
        )
        there = dataclasses.replace(there, difference=None)
    return dataclasses.replace(report, drift=dataclasses.replace(report.drift, architectures=(here, there)))


def browser_report() -> Report:
    """A language model that passed on WASM and WebGPU; float16 on WebGPU could not be run."""
    report = passed_report()
    ran = BackendSection(
        name="q4 on wasm, 2 threads",
        dtype="q4",
        execution_provider="wasm",
        threads=2,
        is_required=True,
        verdict=Verdict.PASSED,
        reason="",
        memory=report.memory,
        drift=report.drift,
        speed=SpeedSection(
            load_seconds=1.412,
            first_token_seconds=0.533,
            prefill_tokens_per_second=240.2,
            decode_tokens_per_second=23.9,
        ),
        gates=report.gates,
        facts={"host": "Chromium 156.0.8078.79"},
    )
    webgpu = dataclasses.replace(
        ran,
        name="q4 on webgpu",
        execution_provider="webgpu",
        facts={**ran.facts, "adapter": "google/swiftshader", "fallback_nodes": "Range x2"},
    )
    half = dataclasses.replace(
        webgpu,
        name="q4f16 on webgpu",
        dtype="q4f16",
        is_required=False,
        verdict=Verdict.NOT_VALIDATED,
        reason="The adapter has no shader-f16.",
        memory=None,
        drift=None,
        speed=None,
        gates=(),
        facts={},
    )
    return dataclasses.replace(report, target="browser", format="transformersjs", backends=(ran, webgpu, half))
