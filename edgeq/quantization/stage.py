"""The quantize stage: block by block from the checkpoint into the store, two blocks in memory at most."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgeq.core.model import ModelInfo, WeightInfo
from edgeq.core.recipe import Assignment, Plan
from edgeq.core.tensor import QuantizedTensor
from edgeq.errors import CorruptInputError, InternalError, UnsupportedModelError
from edgeq.progress import Advance, SilentProgress
from edgeq.quantization.distillation import Distilled, check_size, distill
from edgeq.quantization.grid import FloatMatrix, stack
from edgeq.quantization.methods import CALIBRATED, DEFAULT_METHOD, DISTILL, REFIT, function_for
from edgeq.quantization.sequential import Quantized, quantize_blocks
from edgeq.quantization.threads import workers
from edgeq.store import (
    DRAFT,
    TRAINING,
    EncodedTensor,
    QuantizedModel,
    StoreWriter,
    encode_float,
    encode_quantized,
    store_key,
)

CHUNK = 1 << 18
"""Weights that a thread quantizes at a time: its float32 working set then stays in the caches."""
FLOAT16_MAX = 65504.0


class FloatModel(Protocol):
    """What quantizing needs of a model; `edgeq.models.source.SourceModel` is one."""

    @property
    def info(self) -> ModelInfo: ...

    @property
    def directory(self) -> Path: ...

    def read(self, name: str) -> npt.NDArray[Any]:
        """One weight as the checkpoint stores it: native dtype and shape."""
        ...

    def companion_files(self) -> tuple[Path, ...]:
        """Configuration, tokenizer and licence, relative to `directory`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What is written at once: the weights of one repeated block, or one weight outside of them."""

    label: str
    weights: tuple[WeightInfo, ...]

    @property
    def is_block(self) -> bool:
        return self.weights[0].block is not None

    @property
    def parameters(self) -> int:
        return sum(int(np.prod(weight.shape)) for weight in self.weights)


def quantize(
    model: FloatModel,
    plan: Plan,
    directory: Path,
    *,
    calibration: Sequence[Sequence[int]] = (),
    progress: Advance | None = None,
) -> QuantizedModel:
    """Write `model`, quantized as `plan` says, to the store `directory`, and open it.

    calibration: token ids, for plans that `needs_calibration` names.

    Weights outside the plan are stored as float32, those that it gives 16 bits as float16. A store that the same call
    left unfinished is continued and ends with the same bytes. Raises CorruptInputError for NaN and infinite weights,
    UnsupportedModelError for values that float16 cannot hold, OutputError where the directory cannot be written.
    """
    if unknown := sorted(set(plan.assignments) - set(model.info.weights)):
        raise InternalError(f"The plan names {unknown[0]!r}, which the model lacks.", remedy="Report this.")
    progress = progress or SilentProgress().advance
    if not calibration and needs_calibration(plan):
        raise InternalError("A calibrated method was given nothing to read.", remedy="Report this.")
    trained = [name for name, assignment in plan.assignments.items() if assignment.method == DISTILL]
    if trained:
        check_size(model.info)
    writer = StoreWriter(directory, key=store_key(model.info, plan, model.directory, calibration))
    draft, distilled = None, Distilled.nothing()
    if trained:
        draft_plan = _draft(plan, model.info)
        draft = quantize(model, draft_plan, directory / DRAFT, calibration=calibration, progress=progress)
        distilled = distill(
            model, draft, trained, calibration, progress, effort=plan.effort, state=directory / TRAINING
        )
    units = _units(model.info)
    total, done = sum(unit.parameters for unit in units), 0
    with workers() as pool:
        given = _Given(model=model, plan=plan, pool=pool, writer=writer, units=units, distilled=distilled, draft=draft)
        for unit in _stored(given, calibration):
            done += unit.parameters
            progress(done, total, unit.label)
    return writer.finish(model.info, plan, model.directory, model.companion_files())


def needs_calibration(plan: Plan) -> bool:
    """Whether a method of the plan reads calibration sequences."""
    return any(assignment.method in CALIBRATED for assignment in plan.assignments.values())


def trains(plan: Plan) -> bool:
    """Whether a method of the plan trains all its weights together."""
    return any(assignment.method == DISTILL for assignment in plan.assignments.values())


def _draft(plan: Plan, info: ModelInfo) -> Plan:
    """The same schemes, with the methods that training starts from."""
    return replace(
        plan,
        assignments={
            name: replace(assignment, method=_before_training(info.weights[name]))
            if assignment.method == DISTILL
            else assignment
            for name, assignment in plan.assignments.items()
        },
    )


def _before_training(weight: WeightInfo) -> str:
    return REFIT if weight.is_block_linear else DEFAULT_METHOD


@dataclass(frozen=True, kw_only=True, eq=False)
class _Given:
    """All that encoding a unit takes. draft: the store whose codes are taken where the plan says that they are trained
    and `distilled` has no better ones."""

    model: FloatModel
    plan: Plan
    pool: ThreadPoolExecutor
    writer: StoreWriter
    units: tuple[Unit, ...]
    distilled: Distilled
    draft: QuantizedModel | None

    def quantized(self, unit: Unit) -> Quantized:
        """What is known of the unit before it is encoded."""
        if self.draft is None:
            return Quantized()
        draft, better = self.draft, self.distilled
        names = [weight.name for weight in unit.weights]
        floats = [name for name in names if not draft.is_quantized(name) and draft.floating_dtype(name) == np.float32]
        return Quantized(
            tensors={
                name: better.tensors.get(name) or draft.quantized(name) for name in names if draft.is_quantized(name)
            },
            floats={name: better.floats[name] if name in better.floats else draft.floating(name) for name in floats},
        )


def _stored(given: _Given, calibration: Sequence[Sequence[int]]) -> Iterator[Unit]:
    """Each unit once it is on disk. One is written while the next is quantized: two are in memory at most."""
    writing: tuple[Unit, Future[None]] | None = None
    blocks = _blocks(given, calibration)
    with ThreadPoolExecutor(1, thread_name_prefix="write") as disk:
        for index, unit in enumerate(given.units):
            known = given.writer.holds(index, unit.label)
            quantized = next(blocks) if unit.is_block and blocks is not None else given.quantized(unit)
            encoded = {} if known else _encode_unit(given, unit, quantized)
            if writing is not None:
                writing[1].result()
                yield writing[0]
            writing = None if known else (unit, disk.submit(given.writer.write, index, unit.label, encoded))
            if known:
                yield unit
        if writing is not None:
            writing[1].result()
            yield writing[0]


def _blocks(given: _Given, calibration: Sequence[Sequence[int]]) -> Iterator[Quantized] | None:
    """The blocks one after the other, where a method reads what the blocks before hand over."""
    if given.draft is not None or not needs_calibration(given.plan):
        return None
    from edgeq.models.blocks import BlockRunner

    places = [(index, unit) for index, unit in enumerate(given.units) if unit.is_block]

    def known(block: int) -> Quantized | None:
        index, unit = places[block]
        if not given.writer.holds(index, unit.label):
            return None
        writer, label = given.writer, unit.label
        return Quantized(tensors=writer.quantized(index, label), floats=writer.floats(index, label))

    return quantize_blocks(BlockRunner(given.model, calibration), given.plan, given.pool, known)


def _units(info: ModelInfo) -> tuple[Unit, ...]:
    """The model's weights in checkpoint order; a block stands where its first weight does."""
    members: dict[str, list[WeightInfo]] = {}
    for weight in info.weights.values():
        label = weight.name if weight.block is None else f"block-{weight.block}"
        members.setdefault(re.sub(r"[^A-Za-z0-9]+", "-", label).strip("-"), []).append(weight)
    return tuple(Unit(label=label, weights=tuple(weights)) for label, weights in members.items())


def _encode_unit(given: _Given, unit: Unit, known: Quantized) -> dict[str, EncodedTensor]:
    """All weights of a unit, ready to be written; what is `known` is taken as it is."""
    parts: dict[str, list[Future[QuantizedTensor]]] = {}
    encoded: dict[str, Future[EncodedTensor]] = {}
    for weight in unit.weights:
        assignment = given.plan.assignments.get(weight.name)
        if weight.name in known.tensors:
            encoded[weight.name] = given.pool.submit(encode_quantized, weight.name, known.tensors[weight.name])
            continue
        values = known.floats.get(weight.name)
        values = given.model.read(weight.name) if values is None else values
        if assignment is None or assignment.scheme.is_float:
            encoded[weight.name] = given.pool.submit(_encode_float, values, weight, assignment)
        else:
            parts[weight.name] = _submit_chunks(values, weight, assignment, given.pool)
    for name, futures in parts.items():
        encoded[name] = given.pool.submit(_encode_parts, name, [future.result() for future in futures])
    return {weight.name: encoded[weight.name].result() for weight in unit.weights}


def _submit_chunks(
    values: npt.NDArray[Any], weight: WeightInfo, assignment: Assignment, pool: ThreadPoolExecutor
) -> list[Future[QuantizedTensor]]:
    """Start quantizing a matrix, a few rows or tables at a time, which do not influence one another."""
    matrix = as_matrix(values, weight)
    outputs, inputs = matrix.shape
    scheme = assignment.scheme
    chunks = max(1, -(-outputs * inputs // CHUNK))
    rows = max(1, -(-outputs // chunks))
    if scheme.codebook == "palette":
        together = scheme.palette_rows or outputs
        rows = -(-rows // together) * together
    method = function_for(assignment.method, scheme)

    def work(start: int) -> QuantizedTensor:
        return method(to_float32(matrix[start : start + rows]), scheme, weight.name)

    return [pool.submit(work, start) for start in range(0, outputs, rows)]


def _encode_parts(name: str, parts: list[QuantizedTensor]) -> EncodedTensor:
    """Put the rows of a matrix together again."""
    return encode_quantized(name, stack(parts))


def _encode_float(values: npt.NDArray[Any], weight: WeightInfo, assignment: Assignment | None) -> EncodedTensor:
    """float16 where the plan says 16 bits, else float32; integers and booleans stay what they are."""
    if values.dtype.kind in "biu":
        return encode_float(weight.name, np.asarray(values, order="C"))  # ascontiguousarray gives a number an axis
    floats = to_float32(values)
    # Buffers such as attention masks hold -inf on purpose.
    broken = ~np.isfinite(floats) if weight.is_matrix else np.isnan(floats)
    if broken.any():
        raise CorruptInputError(
            f"The weight {weight.name!r} contains NaN or infinity.", remedy="Take another copy of the checkpoint."
        )
    if assignment is None:
        return encode_float(weight.name, floats)
    if floats.size and float(np.abs(floats).max()) > FLOAT16_MAX:
        raise UnsupportedModelError(
            f"The weight {weight.name!r} holds values above 65504, which float16 cannot.",
            remedy="Give it 8 bits with a rule, or the whole model with --bits 8.",
        )
    return encode_float(weight.name, floats.astype(np.float16))


def as_matrix(values: npt.NDArray[Any], weight: WeightInfo) -> npt.NDArray[Any]:
    """`[outputs, inputs]`, whichever way round the checkpoint stores it; of a convolution, one filter in each row."""
    if weight.role == "convolution":
        return values.reshape(weight.outputs_inputs)
    return values.T if weight.input_axis == 0 else values


def to_float32(values: npt.NDArray[Any]) -> FloatMatrix:
    """A contiguous float32 copy or view of float weights of any dtype, ml_dtypes' bfloat16 included."""
    return np.asarray(values.astype(np.float32, copy=False), order="C")
