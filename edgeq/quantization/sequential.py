"""Calibrated quantization: block after block, each from what the already quantized blocks before it hand over.

Linears of a block that read the same input are quantized together, in the order in which the block runs them, and the
ones behind see their errors. One block is in memory, and the hidden states of the calibration sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgeq.core.recipe import Assignment, Plan
from edgeq.core.tensor import QuantizedTensor
from edgeq.quantization.awq import awq, scale_block
from edgeq.quantization.codebook_gptq import gptq_codebook
from edgeq.quantization.codebook_refit import calibrated_codebook
from edgeq.quantization.gptq import gptq
from edgeq.quantization.methods import AWQ, CALIBRATED, GPTQ, RECONSTRUCT, SCALING, function_for
from edgeq.quantization.moments import Moments, MomentSums
from edgeq.quantization.refit import refit
from edgeq.quantization.threads import all_threads

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgeq.models.blocks import Activations, BlockRunner
    from edgeq.quantization.reconstruction import Task


@dataclass(frozen=True, kw_only=True, eq=False)
class Quantized:
    """Weights of one block by their stored names. floats: those that are not quantized and not the checkpoint's own, in
    the module's orientation, or any others of the block as they are stored."""

    tensors: dict[str, QuantizedTensor] = field(default_factory=dict)
    floats: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)


Known = Callable[[int], Quantized | None]
"""What an earlier run has stored of a block, the weights outside the plan with it; or None."""


class _ReachedError(Exception):
    """The linear whose input was wanted has it: what the block does behind it is not needed."""


def quantize_blocks(runner: BlockRunner, plan: Plan, pool: ThreadPoolExecutor, known: Known) -> Iterator[Quantized]:
    """Quantize the linears of one block after the other, those without a calibrated method as well: they are part of
    what the others are given.

    pool: each of its threads takes a matrix. Raises CorruptInputError for NaN and infinity, in the weights or in what
    the calibration sequences make of them.
    """
    import torch

    from edgeq.quantization.reconstruction import Task

    reconstructs = any(assignment.method == RECONSTRUCT for assignment in plan.assignments.values())
    with all_threads():
        hidden = runner.embed()
    wanted = hidden if reconstructs else None
    for index in range(runner.count):
        block = runner.load(index)
        linears, parameters = runner.linears(index, block), runner.parameters(index, block)
        stored = known(index)
        with all_threads():
            wanted = None if wanted is None else runner.run(block, index, wanted)
        if stored is None:
            stored = _quantize_block(runner, index, hidden, plan, pool)
            if wanted is not None:
                task = Task(runner=runner, index=index, inputs=hidden, wanted=wanted)
                stored = _reconstructed(task, stored, plan)
        for name in linears.keys() & stored.tensors.keys():
            _put(linears[name], stored.tensors[name])
        for name in parameters.keys() & stored.floats.keys():
            parameters[name].copy_(torch.from_numpy(stored.floats[name]))
        with all_threads():
            hidden = runner.run(block, index, hidden)
        yield stored


def _quantize_block(
    runner: BlockRunner, index: int, hidden: Activations, plan: Plan, pool: ThreadPoolExecutor
) -> Quantized:
    block = runner.load(index)
    linears = runner.linears(index, block)
    assignments = {name: plan.assignments[name] for name in runner.parameters(index, block) if name in plan.assignments}
    floats = {}
    if any(assignment.method in SCALING for assignment in assignments.values()):
        floats = scale_block(runner, index, block, hidden, assignments=assignments, pool=pool)
    found: dict[str, QuantizedTensor] = {}
    for names in _sharing_inputs(runner, index, block, hidden):
        chosen = {name: plan.assignments[name] for name in names if _is_quantized(plan.assignments.get(name))}
        moments = None
        if any(assignment.method in CALIBRATED for assignment in chosen.values()):
            with all_threads():
                moments = _moments(runner, index, block, linears[names[0]], hidden)
        futures = {
            name: pool.submit(_solve, _matrix(linears[name]), moments, assignment, name)
            for name, assignment in chosen.items()
        }
        for name, future in futures.items():
            found[name] = future.result()
            _put(linears[name], found[name])
    return Quantized(tensors=found, floats=floats)


def _reconstructed(task: Task, start: Quantized, plan: Plan) -> Quantized:
    """What training the block makes of `start`; the weights of other methods are part of the block."""
    from edgeq.quantization.reconstruction import reconstruct

    block = task.runner.load(task.index)
    linears = task.runner.linears(task.index, block)
    trained = {name: t for name, t in start.tensors.items() if plan.assignments[name].method == RECONSTRUCT}
    for name in start.tensors.keys() - trained.keys():
        _put(linears[name], start.tensors[name])
    with all_threads():
        found = reconstruct(task, block, trained)
    return replace(start, tensors={**start.tensors, **found})


def _is_quantized(assignment: Assignment | None) -> bool:
    return assignment is not None and not assignment.scheme.is_float


def _solve(weights: torch.Tensor, moments: Moments | None, assignment: Assignment, name: str) -> QuantizedTensor:
    scheme, method = assignment.scheme, assignment.method
    if moments is None or method not in CALIBRATED:
        return function_for(method, scheme)(weights.numpy(), scheme, name)
    if scheme.codebook is not None:
        fit = gptq_codebook if method == GPTQ else calibrated_codebook
        return fit(weights, moments, scheme, name)
    if method == AWQ:
        return awq(weights, moments, scheme, name)
    tensor = gptq(weights, moments, scheme, name)
    return tensor if method == GPTQ else refit(weights, moments, tensor, name=name)


def _sharing_inputs(runner: BlockRunner, index: int, block: nn.Module, hidden: Activations) -> list[list[str]]:
    """The block's linears in the order in which it runs them, those that are given the same tensor together."""
    groups: list[tuple[torch.Tensor, list[str]]] = []
    hooks = []
    for name, linear in runner.linears(index, block).items():

        def note(_linear: nn.Module, inputs: tuple[torch.Tensor, ...], name: str = name) -> None:
            for given, names in groups:
                if given is inputs[0]:
                    names.append(name)
                    return
            groups.append((inputs[0], [name]))

        hooks.append(linear.register_forward_pre_hook(note))
    try:
        runner.run_batch(block, index, 0, hidden[0])
    finally:
        for hook in hooks:
            hook.remove()
    return [names for _, names in groups]


def _moments(runner: BlockRunner, index: int, block: nn.Module, linear: nn.Module, hidden: Activations) -> Moments:
    """Of the inputs that `linear` is given when the block runs on all sequences."""
    sums: list[MomentSums] = []

    def add(_linear: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        tokens = inputs[0].reshape(-1, inputs[0].shape[-1])
        if not sums:
            sums.append(MomentSums(tokens.shape[1], cross=False))
        sums[0].add(tokens, tokens)
        raise _ReachedError

    hook = linear.register_forward_pre_hook(add)
    try:
        for batch, states in enumerate(hidden):
            try:
                runner.run_batch(block, index, batch, states)
            except _ReachedError:
                continue
    finally:
        hook.remove()
    return sums[0].result()


def _matrix(linear: nn.Module) -> torch.Tensor:
    """A copy [out, in] of the weight."""
    from edgeq.models.folding import by_output

    return by_output(linear).clone().contiguous()


def _put(linear: nn.Module, tensor: QuantizedTensor) -> None:
    import torch

    from edgeq.models.folding import by_output

    by_output(linear).copy_(torch.from_numpy(np.array(tensor.dequantize())))
