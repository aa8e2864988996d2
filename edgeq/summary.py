"""From what was built and measured to the report."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace

import edgeq
from edgeq.bundle.manifest import REPORT_FILES, Manifest
from edgeq.bundle.stage import StagedBundle
from edgeq.bundle.weight_groups import weight_groups
from edgeq.core.details import Details
from edgeq.core.frontier import Frontier
from edgeq.core.report import (
    ArtifactSection,
    EnvironmentSection,
    ModelSection,
    RecipeSection,
    Report,
    Verdict,
    WeightsSection,
)
from edgeq.core.target import TargetProfile
from edgeq.reports.html import Page, reports_to_html
from edgeq.reports.json import report_to_json
from edgeq.reports.markdown import report_to_markdown
from edgeq.store import QuantizedModel
from edgeq.validation import RUNTIMES, Measurement
from edgeq.validation.text_run import section_of


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a report should say of how its store came about. frontier: where a budget chose the recipe."""

    notes: tuple[str, ...] = ()
    frontier: Frontier | None = None


def report_of(
    store: QuantizedModel,
    staged: StagedBundle,
    target: TargetProfile,
    measurement: Measurement,
    origin: Origin,
) -> Report:
    """All that the report says about a new bundle."""
    info, recipe = store.info, store.recipe
    return Report(
        edgeq_version=edgeq.__version__,
        target=target.name,
        format=staged.manifest.format,
        verdict=measurement.verdict,
        reason=measurement.reason,
        model=ModelSection(
            source=info.source,
            revision=info.revision,
            task=info.task,
            architecture=info.architecture,
            parameters=info.parameters,
        ),
        recipe=RecipeSection(
            bits=recipe.bits,
            method=recipe.method,
            group_size=recipe.group_size,
            symmetric=recipe.symmetric,
            embedding_bits=recipe.embedding_bits,
            codebook=recipe.codebook,
            accuracy_level=target.accuracy_level,
        ),
        weights=WeightsSection(
            digest=store.weights_digest,
            bits_per_weight=8 * store.weights_bytes / info.parameters,
            bytes=store.weights_bytes,
            float_bytes=info.float_bytes,
        ),
        artifact=_artifact(staged),
        memory=measurement.memory,
        drift=measurement.drift,
        speed=measurement.speed,
        gates=measurement.gates,
        tokenizer=measurement.tokenizer,
        planned_memory=measurement.planned_memory,
        backends=measurement.backends,
        environment=measurement.environment,
        frontier=origin.frontier,
        notes=origin.notes,
    )


def page_of(report: Report, manifest: Manifest | None) -> Page:
    """The report with what the manifest tells of where the bytes are."""
    if manifest is None:
        return Page(report=report)
    return Page(report=report, details=Details(weight_groups=weight_groups(manifest)))


def report_texts(report: Report, manifest: Manifest) -> dict[str, str]:
    """The report's files in a bundle, by name. The page shows the export; a later validation leaves it as it is."""
    texts = (report_to_json(report), report_to_markdown(report), reports_to_html([page_of(report, manifest)]))
    return dict(zip(REPORT_FILES, texts, strict=True))


def _artifact(staged: StagedBundle) -> ArtifactSection:
    return ArtifactSection(bytes=sum(entry.bytes for entry in staged.model_files), files=tuple(staged.model_files))


def remeasured(report: Report, measurement: Measurement) -> Report:
    """The report of an existing bundle with a new measurement in it."""
    return replace(
        report,
        verdict=measurement.verdict,
        reason=measurement.reason,
        memory=measurement.memory,
        drift=measurement.drift,
        speed=measurement.speed,
        gates=measurement.gates,
        tokenizer=measurement.tokenizer,
        planned_memory=measurement.planned_memory,
        backends=measurement.backends,
        environment=measurement.environment,
    )


def fully_judged(measurement: Measurement) -> bool:
    """Whether the artifact ran in its own runtime, in all ways that count: a pass with a reason has reservations."""
    return measurement.verdict is Verdict.FAILED or (measurement.verdict is Verdict.PASSED and not measurement.reason)


def not_measured(reason: str, manifest: Manifest) -> Measurement:
    """Nothing ran."""
    return Measurement(
        verdict=Verdict.NOT_VALIDATED,
        reason=reason,
        memory=None,
        drift=None,
        speed=None,
        gates=(),
        tokenizer=section_of(manifest.text),
        planned_memory={},
        environment=EnvironmentSection(
            runtime=RUNTIMES[manifest.format],
            runtime_version=manifest.runtime.version,
            platform=platform.platform(),
            python=platform.python_version(),
        ),
    )
