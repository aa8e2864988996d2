"""What each candidate of each unit would cost in divergence: predicted from gradients, scaled to direct measurements.

A change `dW` of a matrix changes the outputs by a divergence of about `E (g . dW x)^2 / 2`, `g` the gradient of a
random score (see `Subject.score`). Rounding errors are independent of one another, so what counts is the sum over the
weights of `F dW^2 / 2`, `F` the square of the score's gradient by the weight (the diagonal of the Fisher information).
Where the model is small enough, one candidate for each number of bits is also measured: the unit alone is quantized in
the whole model. That catches what the quadratic form misses, and the prediction only interpolates to other group sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgeq.core.scheme import Scheme
from edgeq.progress import Advance
from edgeq.quantization.candidates import Candidate, Unit
from edgeq.quantization.methods import METHODS, plain_method
from edgeq.quantization.observation import Call, Observation, Subject
from edgeq.quantization.stage import to_float32
from edgeq.quantization.threads import workers

if TYPE_CHECKING:
    from torch import Tensor

Floats = npt.NDArray[np.float32]
Costs = tuple[tuple[float, ...], ...]
"""Per unit and candidate, in nats per token or 1 - cosine per sentence."""

METHOD = "mse"
"""Stands for every method without a codebook: those with calibration lose less, but in about the same proportions."""
MEASURED_BITS = (2, 3, 4)
"""More bits are in the range of the quadratic form: they take the ratio that 4 bits give."""
DIRECT_WORK = 4e12
"""Operations (2 per parameter, token and unit measured) up to which units are measured: about two minutes on two cores.
Above it, prediction alone: one pass forwards and backwards over 1,024 tokens, and each unit's largest rows quantized
once per candidate."""
TINY = 1e-30
ROWS = 1 << 20
"""Weights of a matrix whose error is predicted from, the rows with the most gradient; all others are scaled up."""


def predicted(
    subject: Subject, units: Sequence[Unit], observation: Observation, progress: Advance | None = None
) -> Costs:
    """The cost of every candidate by the quadratic form alone; 0 for what never ran."""
    costs = []
    with workers() as pool:
        for index, unit in enumerate(units):
            total = np.zeros(len(unit.candidates))
            for name in unit.tensors:
                total += _matrix_costs(subject, name, unit.candidates, observation.calls.get(name, []), pool)
            costs.append(tuple((total / (2 * observation.positions)).tolist()))
            if progress is not None:
                progress(index + 1, len(units), unit.name)
    return tuple(costs)


def direct_work(subject: Subject, units: Sequence[Unit], sequences: Sequence[Sequence[int]]) -> float:
    """Operations that measuring the units takes."""
    passes = sum(len(_anchors(unit)) for unit in units)
    return 2.0 * subject.info.parameters * passes * sum(map(len, sequences))


def measured(
    subject: Subject,
    units: Sequence[Unit],
    costs: Costs,
    sequences: Sequence[Sequence[int]],
    progress: Advance | None = None,
) -> Costs:
    """`costs` scaled, unit by unit, to what a candidate for each of MEASURED_BITS costs in the whole model."""
    references = _outputs(subject, sequences)
    scaled = []
    for index, (unit, prediction) in enumerate(zip(units, costs, strict=True)):
        ratios = {}
        for bits, anchor in _anchors(unit).items():
            schemes = dict.fromkeys(unit.tensors, unit.candidates[anchor].scheme)
            found = _divergence(subject, schemes, sequences, references)
            ratios[bits] = found / max(prediction[anchor], TINY)
        scaled.append(tuple(_scaled(unit, prediction, ratios)))
        if progress is not None:
            progress(index + 1, len(units), unit.name)
    return tuple(scaled)


def divergence_of(subject: Subject, schemes: Mapping[str, Scheme], sequences: Sequence[Sequence[int]]) -> float:
    """What a whole plan costs per position, in nats or 1 - cosine, with METHOD for all its matrices."""
    return _divergence(subject, schemes, sequences, _outputs(subject, sequences))


def _outputs(subject: Subject, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
    import torch

    with torch.no_grad():
        return [subject.outputs(sequence) for sequence in sequences]


def _divergence(
    subject: Subject, schemes: Mapping[str, Scheme], sequences: Sequence[Sequence[int]], references: list[Tensor]
) -> float:
    """Mean over positions, with the matrices of `schemes` quantized; they are as before afterwards."""
    import torch

    before = {name: subject.parameters[name].clone() for name in schemes}
    with torch.no_grad():
        try:
            for name, scheme in schemes.items():
                values = torch.from_numpy(_dequantized(_matrix(subject, name), scheme, name))
                is_turned = subject.info.weights[name].input_axis == 0
                subject.parameters[name].copy_(values.T if is_turned else values)
            found = sum(map(subject.divergence, references, _outputs(subject, sequences)))
        finally:
            for name, values in before.items():
                subject.parameters[name].copy_(values)
    return found / sum(map(len, references))


def _anchors(unit: Unit) -> dict[int, int]:
    """By bits, the index of the candidate that is measured: the middle one of those without zero points or with."""
    anchors = {}
    for bits in MEASURED_BITS:
        fitting = [index for index, candidate in enumerate(unit.candidates) if candidate.scheme.bits == bits]
        if fitting:
            anchors[bits] = fitting[len(fitting) // 2]
    return anchors


def _scaled(unit: Unit, prediction: Sequence[float], ratios: Mapping[int, float]) -> list[float]:
    """Each prediction times the ratio of its bits, or of the most bits that were measured."""
    most = ratios[max(ratios)] if ratios else 1.0
    pairs = zip(unit.candidates, prediction, strict=True)
    return [cost * ratios.get(candidate.scheme.bits, most) for candidate, cost in pairs]


def _matrix_costs(
    subject: Subject, name: str, candidates: Sequence[Candidate], calls: Sequence[Call], pool: ThreadPoolExecutor
) -> npt.NDArray[np.float64]:
    """Per candidate, the sum of `F dW^2` over a matrix."""
    if not calls:
        return np.zeros(len(candidates))
    matrix = _matrix(subject, name)
    rows, scale = _telling_rows(calls, *matrix.shape)
    fisher = _fisher(calls, rows, *matrix.shape)
    kept = np.ascontiguousarray(matrix[rows])

    def cost(candidate: Candidate) -> float:
        error = _dequantized(kept, candidate.scheme, name) - kept
        return scale * float(np.einsum("oi,oi,oi->", fisher, error, error, dtype=np.float64, optimize=False))

    return np.array(list(pool.map(cost, candidates)))


def _telling_rows(calls: Sequence[Call], outputs: int, inputs: int) -> tuple[npt.NDArray[np.intp], float]:
    """The rows with the most gradient, in order, as many as ROWS has room for; and all rows' share over theirs."""
    import torch

    energy = torch.zeros(outputs, dtype=torch.float64)
    for call in calls:
        if call.is_lookup:
            energy.index_add_(0, call.inputs, call.gradient.double().square().sum(1))
        else:
            energy += (call.gradient.double().square() * call.inputs.double().square().sum(1, keepdim=True)).sum(0)
    count = min(outputs, max(1, ROWS // inputs))
    rows = energy.topk(count).indices.sort().values
    kept = float(energy[rows].sum())
    return rows.numpy(), float(energy.sum()) / kept if kept > 0 else 1.0


def _fisher(calls: Sequence[Call], rows: npt.NDArray[np.intp], outputs: int, inputs: int) -> Floats:
    """Sum over sequences of the squared gradient by the rows, float32 `[rows, inputs]`."""
    import torch

    index = torch.from_numpy(rows)
    place = torch.full((outputs,), -1)
    place[index] = torch.arange(len(rows))
    fisher = torch.zeros(len(rows), inputs)
    for sequence in sorted({call.sequence for call in calls}):
        gradient = torch.zeros(len(rows), inputs)
        for call in calls:
            if call.sequence != sequence:
                continue
            if call.is_lookup:
                where = place[call.inputs]
                gradient.index_add_(0, where[where >= 0], call.gradient[where >= 0])
            else:
                gradient += call.gradient[:, index].T @ call.inputs
        fisher += gradient.square_()
    return fisher.numpy()


def _matrix(subject: Subject, name: str) -> Floats:
    """A matrix as `[outputs, inputs]`, float32."""
    values = subject.parameters[name].detach().numpy()
    return to_float32(values.T if subject.info.weights[name].input_axis == 0 else values)


def _dequantized(matrix: Floats, scheme: Scheme, name: str) -> Floats:
    if scheme.is_float:
        return matrix.astype(np.float16).astype(np.float32)
    return METHODS[METHOD if scheme.codebook is None else plain_method(scheme)](matrix, scheme, name).dequantize()
