"""The pipeline on one screen, and the verbs that run parts of it.

load -> plan -> quantize -> lower -> stage -> validate -> seal
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from edgeq import summary
from edgeq.bundle.golden import Golden, build_golden, text_decoder
from edgeq.bundle.manifest import read_manifest
from edgeq.bundle.seal import seal
from edgeq.bundle.stage import bundle_name, check_output, stage
from edgeq.composition import quantize_model
from edgeq.core.artifact import TokenizerForm
from edgeq.core.model import Task
from edgeq.core.recipe import Effort, Recipe
from edgeq.core.records import to_plain
from edgeq.core.report import Report
from edgeq.core.target import Architecture, Format, TargetProfile
from edgeq.errors import OutputError, RuntimeUnavailableError, SourceNotFoundError, UsageError
from edgeq.files import output_errors
from edgeq.lowering import check_task, check_tokenizer, check_tokenizer_form, with_tokenizer
from edgeq.lowering import lower as lower_to
from edgeq.models.demo_model import DEMO_NAME
from edgeq.models.evaluation import evaluation_inputs
from edgeq.models.reference import run_reference
from edgeq.models.source import SourceModel, load
from edgeq.models.tokens import TOKENIZER_FILE
from edgeq.planning import Auto, Budget, asked_recipe, budget_for, recipe_within
from edgeq.progress import Progress, SilentProgress
from edgeq.reports.json import read_report
from edgeq.runtimes.opening import runtime_of
from edgeq.store import QuantizedModel
from edgeq.summary import Origin
from edgeq.targets.profiles import ALL_FORMATS, formats_of, load_profile, with_accuracy_level
from edgeq.validation import validate_bundle
from edgeq.validation.gates import Criteria, check_drift_limit
from edgeq.validation.reference_set import ReferenceSet
from edgeq.values import mebibytes
from edgeq.workplace import STORE, check_text, created, undone, workplace

DEFAULT_TARGET = "android"
VALIDATION = "validation"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One export, resolved: what the flags and the profile come to."""

    recipe: Recipe
    target: TargetProfile
    formats: tuple[Format, ...]
    output: Path
    max_memory: int | None = None
    max_drift: float | None = None
    max_size: int | None = None
    calibration: Path | None = None
    evaluation: Path | None = None
    budget: Budget | None = None
    tokenizer: TokenizerForm = "files"
    validate: bool
    force: bool

    def output_of(self, format: Format) -> Path:
        """Where a format's bundle goes: `output` itself, or a directory in it where there are several formats."""
        return self.output if len(self.formats) == 1 else self.output / format


def build(model: SourceModel, job: Job, progress: Progress) -> tuple[Report, ...]:
    """From a model to a sealed bundle per format, whatever their verdicts; one store serves them all."""
    if job.validate:
        evaluation_inputs(model.directory, model.info, job.evaluation)  # raises before the work what it would after it
    check_tokenizer(job.tokenizer, model.directory, model.info, job.target)
    with workplace(job.output) as work:
        fitted = recipe_within(
            model,
            job.recipe,
            job.target,
            job.formats,
            budget=job.budget,
            calibration=job.calibration,
            progress=progress,
        )
        store, notes = quantize_model(
            model, fitted.recipe, job.target, job.formats, work / STORE, calibration=job.calibration, progress=progress
        )
        origin = Origin(notes=(*model.notes, *notes), frontier=fitted.frontier)
        return _bundles(store, model, job, work, origin=origin, progress=progress)


def _bundles(
    store: QuantizedModel, model: SourceModel | None, job: Job, work: Path, *, origin: Origin, progress: Progress
) -> tuple[Report, ...]:
    """The second half of the pipeline: from a store to sealed bundles."""
    references = make_references(store, model, job, work / "reference", progress)
    return tuple(make_bundle(store, references, job, one, origin, work=work, progress=progress) for one in job.formats)


def make_bundle(
    store: QuantizedModel,
    references: ReferenceSet | None,
    job: Job,
    format: Format,
    origin: Origin,
    *,
    work: Path,
    progress: Progress,
) -> Report:
    """From a store to one sealed bundle."""
    artifact = lower_to(store, job.target, format, created(work / f"artifact-{format}"), progress)
    artifact = with_tokenizer(artifact, job.tokenizer, store, job.target)
    golden = _golden(store, references, job.target)
    output = job.output_of(format)
    with stage(artifact, store, job.target, golden, output, force=job.force) as staged:
        if references is None:
            measurement = summary.not_measured("validation was not asked for", staged.manifest)
        else:
            references.write_subset(staged.directory / VALIDATION)
            measurement = validate_bundle(
                staged.directory,
                manifest=to_plain(staged.manifest),
                criteria=criteria_of(job, store, format),
                reference=references.directory,
                progress=progress,
            )
        origin = replace(origin, notes=(*origin.notes, *artifact.notes))
        report = summary.report_of(store, staged, job.target, measurement, origin)
        seal(staged, report, summary.report_texts(report, staged.manifest))
    progress.note(f"the bundle is at {output}")
    return report


def export_formats(
    model: str | Path | None = None,
    *,
    target: str = DEFAULT_TARGET,
    bits: int | Auto = 4,
    method: str = "auto",
    effort: Effort = "default",
    calibration: Path | None = None,
    group_size: int | None = None,
    symmetric: bool | None = None,
    embedding_bits: int | None = None,
    format: str | None = None,
    task: Task | None = None,
    accuracy_level: int | None = None,
    max_memory: int | None = None,
    max_drift: float | None = None,
    max_size: int | None = None,
    recipe: Path | None = None,
    evaluation: Path | None = None,
    tokenizer: TokenizerForm = "files",
    output: Path | None = None,
    validate: bool = True,
    force: bool = False,
    progress: Progress | None = None,
) -> tuple[Report, ...]:
    """Quantize, lower, bundle and validate a model; the bundle is at `output` whatever the verdict.

    One report per format: a name, None for the target's first, or "all": directories in `output` with the same codes.
    model: a directory, a hub id, None for the demo. `bits` are the linears', `embedding_bits` those of embeddings and
    head. calibration: text or JSONL. Sizes in bytes, max_drift in nats per token or 1 - cosine. Raises EdgeqError.
    """
    profile = with_accuracy_level(load_profile(target), accuracy_level)
    job = Job(
        recipe=asked_recipe(
            bits, method, effort, group_size=group_size, symmetric=symmetric, embedding_bits=embedding_bits, path=recipe
        ),
        target=profile,
        formats=formats_of(profile, format),
        output=(output or _default_output(model, profile, bits)).resolve(),
        max_memory=max_memory,
        max_drift=max_drift,
        max_size=max_size,
        calibration=calibration,
        evaluation=evaluation,
        budget=budget_for(bits, max_size=max_size, max_memory=max_memory, max_drift=max_drift),
        tokenizer=tokenizer,
        validate=validate,
        force=force,
    )
    return _run(model, task, job, progress or SilentProgress())


def _default_output(model: str | Path | None, profile: TargetProfile, bits: int | Auto) -> Path:
    return Path(f"{bundle_name(DEMO_NAME if model is None else str(model))}-{profile.name}-{bits}bit")


def _run(model: str | Path | None, task: Task | None, job: Job, progress: Progress) -> tuple[Report, ...]:
    check_places(job)
    progress.stage("loading")
    source = load(model, task=task)
    for format in job.formats:
        check_task(source.info.task, format)
    return build(source, job, progress)


def quantize(
    model: str | Path | None = None,
    *,
    output: Path,
    target: str = DEFAULT_TARGET,
    bits: int | Auto = 4,
    method: str = "auto",
    effort: Effort = "default",
    calibration: Path | None = None,
    group_size: int | None = None,
    symmetric: bool | None = None,
    embedding_bits: int | None = None,
    format: str | None = None,
    task: Task | None = None,
    max_memory: int | None = None,
    max_drift: float | None = None,
    max_size: int | None = None,
    recipe: Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> QuantizedModel:
    """Write a store at `output`, for one `format` of the target or for "all". A run that was killed is continued.

    Raises EdgeqError as `export` does.
    """
    profile = load_profile(target)
    chosen = asked_recipe(
        bits, method, effort, group_size=group_size, symmetric=symmetric, embedding_bits=embedding_bits, path=recipe
    )
    budget = budget_for(bits, max_size=max_size, max_memory=max_memory, max_drift=max_drift)
    check_text(calibration, "--calibration")
    progress = progress or SilentProgress()
    with output_errors(output):
        is_new = not output.exists()
        if (output / "store.json").exists() and not force:
            raise OutputError(f"{output} holds a finished store.", remedy="Name another --output, or say --force.")
    progress.stage("loading")
    source = load(model, task=task)
    formats = formats_of(profile, format)
    fitted = recipe_within(source, chosen, profile, formats, budget=budget, calibration=calibration, progress=progress)
    with undone(output.resolve()) if is_new else nullcontext():
        made = quantize_model(
            source, fitted.recipe, profile, formats, output, calibration=calibration, progress=progress
        )
        return made[0]


def lower(
    store: Path,
    *,
    target: str = DEFAULT_TARGET,
    output: Path,
    format: str | None = None,
    tokenizer: TokenizerForm = "files",
    validate: bool = True,
    force: bool = False,
    progress: Progress | None = None,
) -> Report:
    """From a store to a bundle. The float original must still be where the store's model came from to be compared.

    Raises EdgeqError as `export` does.
    """
    if format == ALL_FORMATS:
        raise UsageError("A store is lowered to one format at a time.", remedy="Name one with --format.")
    profile = load_profile(target)
    quantized = QuantizedModel.open(store)
    job = Job(
        recipe=Recipe(),
        target=profile,
        formats=formats_of(profile, format)[:1],
        output=output.resolve(),
        tokenizer=tokenizer,
        validate=validate,
        force=force,
    )
    check_places(job)
    with workplace(job.output) as work:
        model = _original(quantized) if validate else None
        origin = Origin(notes=() if model is None else model.notes)
        return _bundles(quantized, model, job, work, origin=origin, progress=progress or SilentProgress())[0]


def validate(
    bundle: Path,
    *,
    memory_limit: int | None = None,
    max_drift: float | None = None,
    require: bool = False,
    arch: Architecture | None = None,
    all_cpus: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Judge a bundle again, by its own reference, under `memory_limit` bytes or its target's.

    arch and all_cpus as for `validate_bundle`. require: a verdict of `not_validated` raises RuntimeUnavailableError
    instead of being returned.
    Raises BadInputError where the bundle cannot be read.
    """
    manifest = read_manifest(bundle)
    report = read_report(bundle / "report.json")
    if not (bundle / VALIDATION).is_dir():
        measurement = summary.not_measured("the bundle was exported without a reference", manifest)
    else:
        measurement = validate_bundle(
            bundle,
            criteria=Criteria(
                bits=report.recipe.bits,
                parameters=report.model.parameters,
                accuracy_level=manifest.runtime.accuracy_level,
                format=manifest.format,
                memory_limit_bytes=manifest.profile.memory_budget_bytes if memory_limit is None else memory_limit,
                bundle_limit_bytes=mebibytes(manifest.profile.bundle_limit_mib),
                max_drift=max_drift,
            ),
            arch=arch,
            all_cpus=all_cpus,
            progress=progress,
        )
    if require and not summary.fully_judged(measurement):
        raise RuntimeUnavailableError(
            f"{bundle} could not be validated: {measurement.reason.rstrip('.')}.",
            remedy="See `edgeq doctor` for what is missing.",
        )
    return summary.remeasured(report, measurement)


def check_places(job: Job) -> None:
    """What can be known to fail is said before hours of work."""
    for format in job.formats:
        check_output(job.output_of(format), force=job.force)
        if format != "onnx":  # the packages that lower the others are extras
            runtime_of(format).version()
    check_tokenizer_form(job.tokenizer, job.formats)
    check_drift_limit(job.max_drift)
    check_text(job.evaluation, "--evaluation")
    check_text(job.calibration, "--calibration")


def _original(store: QuantizedModel) -> SourceModel:
    """The float model that a store was made from, for comparison."""
    source = None if store.info.source == DEMO_NAME else store.info.source
    try:
        model = load(source, task=store.info.task)
    except SourceNotFoundError as error:
        raise SourceNotFoundError(
            f"The store's original model is not at {store.info.source}, so there is nothing to compare with.",
            remedy="Run from where it was quantized, or say --no-validate.",
        ) from error
    if model.info.revision != store.info.revision:
        raise UsageError(f"{store.info.source} has changed since the store was made.", remedy="Quantize it again.")
    return model


def make_references(
    store: QuantizedModel, model: SourceModel | None, job: Job, directory: Path, progress: Progress
) -> ReferenceSet | None:
    """What the float and the dequantized model say in torch, or None where nobody asks."""
    if model is None or not job.validate:
        return None
    progress.stage("computing references")
    sequences = evaluation_inputs(model.directory, store.info, job.evaluation)
    with output_errors(directory):
        run_reference(
            source=model.directory,
            store=store.directory,
            task=store.info.task,
            sequences=sequences,
            output=created(directory),
        )
    return ReferenceSet.open(directory)


def _golden(store: QuantizedModel, references: ReferenceSet | None, target: TargetProfile) -> Golden:
    """Cases for the app's own smoke test; none without references."""
    if references is None:
        return Golden(task=store.info.task, tolerance=0.0, cases=())
    return build_golden(
        references.task,
        references.sequences,
        [references.dequantized_values(index) for index in range(len(references.sequences))],
        decode=text_decoder(store.source_directory / TOKENIZER_FILE),
        accuracy_level=target.accuracy_level,
        image=store.info.image,
    )


def criteria_of(job: Job, store: QuantizedModel, format: Format) -> Criteria:
    """What a new bundle is judged by."""
    return Criteria(
        bits=store.recipe.bits,
        parameters=store.info.parameters,
        accuracy_level=job.target.accuracy_level,
        format=format,
        memory_limit_bytes=job.target.memory_budget_bytes if job.max_memory is None else job.max_memory,
        bundle_limit_bytes=mebibytes(job.target.bundle_limit_mib) if job.max_size is None else job.max_size,
        max_drift=job.max_drift,
    )
