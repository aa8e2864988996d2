"""The quantize stage: block by block from the checkpoint into the store, two blocks in memory at most."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgeq.core.model import ModelInfo, WeightInfo
from edgeq.core.recipe import Assignment, Plan
from edgeq.core.tensor import QuantizedTensor
from edgeq.errors import CorruptInputError, InternalError, UnsupportedModelError
from edgeq.quantization.grid import FloatMatrix
from edgeq.quantization.methods import function_for
from edgeq.store import EncodedTensor, QuantizedModel, StoreWriter, encode_float, encode_quantized, store_key

ProgressFunction = Callable[[int, int, str], None]
"""`(parameters done, parameters in all, name of the unit just stored)`."""

CHUNK = 1 << 18
"""Weights that a thread quantizes at a time: its float32 working set then stays in the caches."""
MOST_THREADS = 8
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
    def parameters(self) -> int:
        return sum(int(np.prod(weight.shape)) for weight in self.weights)


def quantize(
    model: FloatModel, plan: Plan, directory: Path, *, progress: ProgressFunction | None = None
) -> QuantizedModel:
    """Write `model`, quantized as `plan` says, to the store `directory`, and open it.

    Weights outside the plan are stored as float32, those that it gives 16 bits as float16. A store that the same call
    left unfinished is continued and ends with the same bytes. Raises CorruptInputError for NaN and infinite weights,
    UnsupportedModelError for values that float16 cannot hold, OutputError where the directory cannot be written.
    """
    if unknown := sorted(set(plan.assignments) - set(model.info.weights)):
        raise InternalError(f"The plan names {unknown[0]!r}, which the model lacks.", remedy="Report this.")
    units = _units(model.info)
    total = sum(unit.parameters for unit in units)
    writer = StoreWriter(directory, key=store_key(model.info, plan, model.directory))
    done = 0
    for unit in _stored(model, plan, units, writer):
        done += unit.parameters
        if progress is not None:
            progress(done, total, unit.label)
    return writer.finish(model.info, plan, model.directory, model.companion_files())


def _stored(model: FloatModel, plan: Plan, units: tuple[Unit, ...], writer: StoreWriter) -> Iterator[Unit]:
    """Each unit once it is on disk. One is written while the next is quantized: two are in memory at most."""
    writing: tuple[Unit, Future[None]] | None = None
    with workers() as pool, ThreadPoolExecutor(1, thread_name_prefix="write") as disk:
        for index, unit in enumerate(units):
            known = writer.holds(index, unit.label)
            encoded = {} if known else _encode_unit(model, plan, unit, pool)
            if writing is not None:
                writing[1].result()
                yield writing[0]
            writing = None if known else (unit, disk.submit(writer.write, index, unit.label, encoded))
            if known:
                yield unit
        if writing is not None:
            writing[1].result()
            yield writing[0]


def _units(info: ModelInfo) -> tuple[Unit, ...]:
    """The model's weights in checkpoint order; a block stands where its first weight does."""
    members: dict[str, list[WeightInfo]] = {}
    for weight in info.weights.values():
        label = weight.name if weight.block is None else f"block-{weight.block}"
        members.setdefault(re.sub(r"[^A-Za-z0-9]+", "-", label).strip("-"), []).append(weight)
    return tuple(Unit(label=label, weights=tuple(weights)) for label, weights in members.items())


def _encode_unit(model: FloatModel, plan: Plan, unit: Unit, pool: ThreadPoolExecutor) -> dict[str, EncodedTensor]:
    """All tensors of a unit, ready to be written."""
    parts: dict[str, list[Future[QuantizedTensor]]] = {}
    encoded: dict[str, Future[EncodedTensor]] = {}
    for weight in unit.weights:
        assignment = plan.assignments.get(weight.name)
        values = model.read(weight.name)
        if assignment is None or assignment.scheme.is_float:
            encoded[weight.name] = pool.submit(_encode_float, values, weight, assignment)
        else:
            parts[weight.name] = _submit_chunks(values, weight, assignment, pool)
    for name, futures in parts.items():
        encoded[name] = pool.submit(_encode_parts, name, [future.result() for future in futures])
    return {weight.name: encoded[weight.name].result() for weight in unit.weights}


def _submit_chunks(
    values: npt.NDArray[Any], weight: WeightInfo, assignment: Assignment, pool: ThreadPoolExecutor
) -> list[Future[QuantizedTensor]]:
    """Start quantizing a matrix, a few rows or tables at a time, which do not influence one another."""
    matrix = values.T if weight.input_axis == 0 else values
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
    scheme = parts[0].scheme
    zero_points = [part.zero_points for part in parts if part.zero_points is not None]
    tables = [part.codebook for part in parts if part.codebook is not None]
    if scheme.palette_rows is None:
        tables = tables[:1]  # one table, the same in every part
    tensor = QuantizedTensor(
        scheme=scheme,
        codes=np.concatenate([part.codes for part in parts]),
        scales=np.concatenate([part.scales for part in parts]),
        zero_points=np.concatenate(zero_points) if zero_points else None,
        codebook=np.concatenate(tables) if tables else None,
    )
    return encode_quantized(name, tensor)


def _encode_float(values: npt.NDArray[Any], weight: WeightInfo, assignment: Assignment | None) -> EncodedTensor:
    """float16 where the plan says 16 bits, else float32; integers and booleans stay what they are."""
    if values.dtype.kind in "biu":
        return encode_float(weight.name, np.ascontiguousarray(values))
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


def to_float32(values: npt.NDArray[Any]) -> FloatMatrix:
    """A contiguous float32 copy or view of float weights of any dtype, ml_dtypes' bfloat16 included."""
    return np.ascontiguousarray(values.astype(np.float32, copy=False))


@contextmanager
def workers() -> Iterator[ThreadPoolExecutor]:
    """One thread per core, each running torch's operations alone: rows are better parallel than single additions."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    # glibc hands buffers of a few MB back to the system at every free until it has seen a larger one freed.
    large = torch.empty(6 << 20)
    del large
    pool = ThreadPoolExecutor(min(cores, MOST_THREADS), thread_name_prefix="quantize")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(before)
