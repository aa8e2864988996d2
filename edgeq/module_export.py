"""The pipeline of a plain torch module: capture -> plan -> quantize -> lower -> stage -> validate -> seal.

The graph comes first here, as it alone shows what each weight is for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeq import summary
from edgeq.bundle.golden import Golden, module_golden
from edgeq.bundle.seal import seal
from edgeq.bundle.stage import bundle_name, stage
from edgeq.core.recipe import Effort
from edgeq.core.records import to_plain
from edgeq.core.report import Report
from edgeq.core.target import TargetProfile
from edgeq.errors import UsageError
from edgeq.models.examples import (
    Answers,
    ExampleInputs,
    Examples,
    Tensors,
    answers_to,
    check_module,
    evaluating,
    flat_outputs,
    read_examples,
)
from edgeq.models.module_source import ModuleSource, module_source
from edgeq.pipeline import VALIDATION, Job, check_places, criteria_of
from edgeq.planning import AUTO_BITS, Auto, asked_recipe
from edgeq.progress import Progress, SilentProgress
from edgeq.quantization import allocate, quantize
from edgeq.quantization.methods import AUTO, CALIBRATED, METHODS
from edgeq.store import QuantizedModel
from edgeq.targets.profiles import ALL_FORMATS, formats_of, load_profile, with_accuracy_level
from edgeq.validation import validate_bundle
from edgeq.validation.tensor_cases import DEQUANTIZED, FLOAT, INPUTS, TensorCases, write_index, write_tensors
from edgeq.workplace import STORE, created, workplace

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgeq.lowering.module_capture import CapturedModule

BLIND = ("rtn", "mse", "hqq")
"""Methods that read weights alone: a plain module has no text to calibrate on, and no blocks."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Loaded:
    """A module in evaluation mode, what its graph shows, and what it says as it is."""

    module: nn.Module
    examples: Examples
    captured: CapturedModule
    source: ModuleSource
    answers: Answers

    @property
    def notes(self) -> tuple[str, ...]:
        fixed = self.captured.note
        batch = (f"the batch is fixed as in the example inputs: {fixed}",) if fixed else ()
        matrices = [weight for weight in self.source.info.weights.values() if weight.is_matrix]
        none = () if matrices else ("nothing was quantized: the graph has no linear and no embedding",)
        used = {id(tensor) for tensor in self.source.weights.tensors.values()}
        unused = [name for name, tensor in self.module.named_parameters() if id(tensor) not in used]
        left_out = (f"forward does not use {len(unused)} weights, {unused[0]} for one",) if unused else ()
        return (*batch, *none, *left_out, *self.answers.notes)


def export_module(
    module: object,
    example_inputs: ExampleInputs | None,
    *,
    target: str,
    bits: int | Auto,
    method: str,
    effort: Effort,
    group_size: int | None,
    symmetric: bool | None,
    embedding_bits: int | None,
    format: str | None,
    accuracy_level: int | None,
    max_memory: int | None,
    max_drift: float | None,
    max_size: int | None,
    recipe: Path | None,
    output: Path | None,
    validate: bool,
    force: bool,
    progress: Progress | None,
) -> Report:
    """From a torch module to one sealed ONNX bundle, whatever its verdict. The module is left as it was.

    Raises EdgeqError: UsageError for inputs, methods and formats that do not go with a plain module,
    UnsupportedModelError for what torch cannot trace or edgeq cannot write.
    """
    module, example_inputs = _checked(module, example_inputs)
    if bits == AUTO_BITS or format == ALL_FORMATS:
        what = "bits='auto' measures text" if bits == AUTO_BITS else "format='all' needs other formats than ONNX"
        raise UsageError(f"{what}, and a plain torch module has none.", remedy="Give a number of bits, and no format.")
    profile = with_accuracy_level(load_profile(target), accuracy_level)
    name = bundle_name(type(module).__name__)
    job = Job(
        recipe=asked_recipe(
            bits, method, effort, group_size=group_size, symmetric=symmetric, embedding_bits=embedding_bits, path=recipe
        ),
        target=profile,
        formats=formats_of(profile, format),
        output=(output or Path(f"{name}-{profile.name}-{bits}bit")).resolve(),
        max_memory=max_memory,
        max_drift=max_drift,
        max_size=max_size,
        validate=validate,
        force=force,
    )
    _check_job(job)
    check_places(job)
    check_module(module)
    return _export(module, read_examples(module, example_inputs), job, progress or SilentProgress())


def _export(module: nn.Module, examples: Examples, job: Job, progress: Progress) -> Report:
    with workplace(job.output) as work, evaluating(module):
        progress.stage("capturing the graph")
        loaded = _load(module, examples, created(work / "module"))
        plan = allocate(loaded.source, job.recipe, job.target, job.formats)
        progress.stage("quantizing")
        store = quantize(loaded.source, plan, work / STORE, progress=progress.advance)
        return _bundle(loaded, store, job, work, progress)


def _checked(module: object, example_inputs: ExampleInputs | None) -> tuple[nn.Module, ExampleInputs]:
    from torch import nn

    if not isinstance(module, nn.Module):
        raise UsageError(
            f"Example inputs go with a torch module, not with {module!r}.",
            remedy="Leave them out, or give a torch.nn.Module.",
        )
    if example_inputs is None:
        raise UsageError(
            f"{type(module).__name__} is a torch module, which cannot be traced without inputs.",
            remedy="Give example inputs: edgeq.export(module, (x,), target=...).",
        )
    return module, example_inputs


def _check_job(job: Job) -> None:
    if job.formats != ("onnx",):
        raise UsageError(
            f"A plain torch module is exported to ONNX alone, not to {job.formats[0]}.",
            remedy='Use a target with that format, such as "android", "rpi5-8gb" or "edge".',
        )
    for method in (job.recipe.method, *(rule.method for rule in job.recipe.rules)):
        if method not in (AUTO, *BLIND) and method in (*METHODS, *CALIBRATED):
            raise UsageError(
                f"The method {method!r} does not go with a plain torch module: it needs calibration, or a codebook.",
                remedy=f"Use one of: {', '.join(BLIND)}.",
            )


def _load(module: nn.Module, examples: Examples, directory: Path) -> _Loaded:
    from edgeq.lowering.module_capture import capture_module, weight_uses
    from edgeq.lowering.onnx.module import simplified

    names = answers_to(module, examples, batch=False).names  # and whether it runs at all
    captured = simplified(capture_module(module, examples, names))
    source = module_source(module, weight_uses(captured.graph), directory)
    answers = answers_to(module, examples, batch=captured.has_free_batch)
    return _Loaded(module=module, examples=examples, captured=captured, source=source, answers=answers)


def _bundle(loaded: _Loaded, store: QuantizedModel, job: Job, work: Path, progress: Progress) -> Report:
    from edgeq.lowering.onnx.module import lower_module

    cases = None
    if job.validate:
        progress.stage("computing references")
        cases = _references(loaded, store, created(work / "reference"))
    artifact = lower_module(loaded.captured, store, job.target, created(work / "artifact"), progress)
    golden = _golden(loaded, cases, job.target)
    with stage(artifact, store, job.target, golden, job.output, force=job.force) as staged:
        if cases is None:
            measurement = summary.not_measured("validation was not asked for", staged.manifest)
        else:
            cases.write_subset(staged.directory / VALIDATION)
            measurement = validate_bundle(
                staged.directory,
                manifest=to_plain(staged.manifest),
                criteria=criteria_of(job, store, "onnx"),
                reference=cases.directory,
                progress=progress,
            )
        origin = summary.Origin(notes=(*loaded.notes, *artifact.notes))
        report = summary.report_of(store, staged, job.target, measurement, origin)
        seal(staged, report, summary.report_texts(report, staged.manifest))
    progress.note(f"the bundle is at {job.output}")
    return report


def _references(loaded: _Loaded, store: QuantizedModel, directory: Path) -> TensorCases:
    """All cases with what the module says with its own weights and with the store's."""
    from edgeq.lowering.module_capture import BATCH

    outputs = loaded.captured.outputs
    cases = TensorCases(
        directory=directory,
        outputs=tuple(spec.name for spec in outputs),
        by_row=tuple(spec.shape[:1] == (BATCH,) for spec in outputs),
        input_count=len(loaded.examples.names),
        count=len(loaded.answers.cases),
    )
    for index, (case, said) in enumerate(zip(loaded.answers.cases, loaded.answers.outputs, strict=True)):
        write_tensors(directory / INPUTS, index, _arrays(case))
        write_tensors(directory / FLOAT, index, _arrays(said))
    for index, said in enumerate(dequantized_answers(loaded.module, loaded.examples, loaded.answers.cases, store)):
        write_tensors(directory / DEQUANTIZED, index, _arrays(said))
    write_index(directory, cases)
    return cases


def _golden(loaded: _Loaded, cases: TensorCases | None, target: TargetProfile) -> Golden:
    """The example inputs, for the app's own smoke test; nothing without references."""
    if cases is None:
        return Golden(task="module", tolerance=0.0, cases=())
    inputs = dict(zip(loaded.examples.names, cases.tensors(INPUTS, 0), strict=True))
    outputs = dict(zip(cases.outputs, cases.tensors(DEQUANTIZED, 0), strict=True))
    return module_golden(inputs, outputs, accuracy_level=target.accuracy_level)


def dequantized_answers(
    module: nn.Module, examples: Examples, cases: Sequence[Tensors], store: QuantizedModel
) -> Iterator[Tensors]:
    """What the module says with the store's weights in place of its own, which are put back."""
    import torch

    parameters = dict(module.named_parameters())
    own = {name: parameters[name].data for name in store.names()}
    try:
        for name in own:
            stored = store.dequantized(name) if store.is_quantized(name) else store.floating(name)
            parameters[name].data = torch.from_numpy(np.array(stored, dtype=np.float32))
        for case in cases:
            yield tuple(flat_outputs(examples.call(module, case)).values())
    finally:
        for name, values in own.items():
            parameters[name].data = values


def _arrays(tensors: Sequence[torch.Tensor]) -> list[npt.NDArray[Any]]:
    return [tensor.detach().numpy() for tensor in tensors]
