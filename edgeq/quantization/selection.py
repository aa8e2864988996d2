"""Selection: calibration is kept only where unseen sequences gain by it, over plain rounding to nearest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeq.core.model import Task
from edgeq.core.recipe import Plan
from edgeq.core.scheme import Scheme
from edgeq.progress import Advance
from edgeq.quantization.distillation import kl_divergence
from edgeq.quantization.methods import CALIBRATED, function_for, plain_method
from edgeq.quantization.stage import FloatModel, as_matrix, needs_calibration, quantize, to_float32
from edgeq.store import QuantizedModel

if TYPE_CHECKING:
    from torch import Tensor

    from edgeq.models.blocks import Read

HELD_OUT = 8
"""One in so many sequences is not calibrated on, but judges."""
ROUNDING = "rtn"


@dataclass(frozen=True, kw_only=True)
class Selected:
    """The store, and what was decided. calibrated, rounded: divergence on held-out sequences, in nats per token or as
    1 - cosine; None where the plan has no calibrated method."""

    store: QuantizedModel
    calibrated: float | None = None
    rounded: float | None = None

    @property
    def note(self) -> str | None:
        """What a report should say of it."""
        if self.calibrated is None or self.rounded is None or self.calibrated <= self.rounded:
            return None
        return (
            f"calibration was not kept: on held-out text it drifts {self.calibrated:.2g}, rounding {self.rounded:.2g}"
        )


def quantize_selected(
    model: FloatModel, plan: Plan, directory: Path, *, calibration: Sequence[Sequence[int]], progress: Advance
) -> Selected:
    """`quantize` as `plan` says, and again by rounding alone should that answer held-out sequences better.

    One in HELD_OUT of the `calibration` sequences is held out. Raises as `quantize` does.
    """
    held, seen = calibration[::HELD_OUT], [row for at, row in enumerate(calibration) if at % HELD_OUT]
    if not needs_calibration(plan) or not seen:
        return Selected(store=quantize(model, plan, directory, calibration=calibration, progress=progress))
    store = quantize(model, plan, directory, calibration=seen, progress=progress)
    calibrated, rounded = divergences(model, held, [store.dequantized, _rounding(model, plan)])
    if not calibrated <= rounded:  # NaN is no gain either
        store = quantize(model, _rounded(plan), directory, progress=progress)
    return Selected(store=store, calibrated=calibrated, rounded=rounded)


def divergences(model: FloatModel, sequences: Sequence[Sequence[int]], reads: Sequence[Read]) -> list[float]:
    """How far the model, with the weights that each of `reads` gives, is from the float model: KL divergence in nats
    per token, for encoders 1 - cosine. One block of each is in memory. Raises UnsupportedModelError as BlockRunner."""
    from edgeq.models.blocks import BlockRunner

    runner = BlockRunner(model, sequences)
    all_reads = (model.read, *reads)
    streams = [runner.embed(read) for read in all_reads]
    for index in range(runner.count):
        streams = [
            runner.run(runner.load(index, read), index, hidden) for read, hidden in zip(all_reads, streams, strict=True)
        ]
    wanted, *found = [runner.finish(hidden, read) for read, hidden in zip(all_reads, streams, strict=True)]
    return _means(wanted, found, model.info.task)


def _means(wanted: Iterator[Tensor], found: Sequence[Iterator[Tensor]], task: Task) -> list[float]:
    import torch

    totals, positions = [0.0] * len(found), 0
    with torch.no_grad():
        for expected, *others in zip(wanted, *found, strict=True):
            positions += expected[..., 0].numel()
            for at, other in enumerate(others):
                totals[at] += float(_divergence(expected, other, task).sum())
    return [total / positions for total in totals]


def _divergence(expected: Tensor, found: Tensor, task: Task) -> Tensor:
    import torch

    if task != "text-generation":
        return 1 - torch.cosine_similarity(expected.double(), found.double(), dim=-1)
    return kl_divergence(expected, found)


def _rounded(plan: Plan) -> Plan:
    return replace(
        plan,
        assignments={
            name: replace(assignment, method=_without_text(assignment.scheme))
            if assignment.method in CALIBRATED
            else assignment
            for name, assignment in plan.assignments.items()
        },
    )


def _without_text(scheme: Scheme) -> str:
    return ROUNDING if scheme.codebook is None else plain_method(scheme)


def _rounding(model: FloatModel, plan: Plan) -> Read:
    """The float weights as `_rounded(plan)` leaves them, rounded whenever they are read."""
    rounded = _rounded(plan)

    def read(name: str) -> npt.NDArray[Any]:
        assignment, weight = rounded.assignments.get(name), model.info.weights[name]
        values = model.read(name)
        if assignment is None:
            return values
        if assignment.scheme.is_float:
            return to_float32(values).astype(np.float16)
        matrix = to_float32(as_matrix(values, weight))
        found = function_for(assignment.method, assignment.scheme)(matrix, assignment.scheme, name).dequantize()
        return found.T if weight.input_axis == 0 else found.reshape(values.shape)

    return read
