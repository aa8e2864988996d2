"""Block reconstruction: the codes and scales of one block, trained together until it does what the float block does.

The idea of BRECQ, https://arxiv.org/abs/2102.05426: not the error of each linear but that of the block's output counts.
Rounding is learned as SignRound, https://arxiv.org/abs/2309.05516, does, but from GPTQ's codes, with straight-through
gradients of codes that may move further than one step (`edgeq.quantization.trainable`), and with Adam. The block takes
what the quantized blocks before it hand over and answers what the float block makes of the float ones, so that it makes
up for their errors. Sequences that are not trained on decide whether the result is kept. One block is in memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.func import functional_call

from edgeq.core.tensor import QuantizedTensor
from edgeq.models.blocks import Activations, BlockRunner
from edgeq.quantization.trainable import BETAS, CODE_RATE, SCALE_RATE, TrainedGrid

STEPS = 200
HELD_OUT = 8
"""One in so many batches is not trained on."""
SEED = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What a block is to learn: per batch of the runner, `inputs` from the quantized blocks before it, and `wanted`
    from the float model."""

    runner: BlockRunner
    index: int
    inputs: Activations
    wanted: Activations


def reconstruct(task: Task, block: nn.Module, tensors: Mapping[str, QuantizedTensor]) -> dict[str, QuantizedTensor]:
    """Better codes and scales for `tensors` of the float `block`, by their stored names; the same where training does
    not help. All other weights of the block are those that it has; tensors with codebooks stay as they are.
    """
    linears = task.runner.linears(task.index, block)
    names = {id(part): path for path, part in block.named_modules()}
    grids = {
        f"{names[id(linears[name])]}.weight": (
            name,
            TrainedGrid.of(tensor, _values(linears[name]), turned=not isinstance(linears[name], nn.Linear)),
        )
        for name, tensor in tensors.items()
        if tensor.codebook is None
    }
    count = len(task.inputs)
    held, seen = range(0, count, HELD_OUT), [at for at in range(count) if at % HELD_OUT]
    if not seen or not grids:
        return dict(tensors)
    trained = {path: grid for path, (_, grid) in grids.items()}
    before = _measure(task, block, trained, held)
    _train(task, block, trained, seen)
    if not _measure(task, block, trained, held) < before:
        return dict(tensors)
    return {**tensors, **{name: grid.result() for name, grid in grids.values()}}


def _values(linear: nn.Module) -> npt.NDArray[np.float32]:
    weight = linear.weight
    assert isinstance(weight, Tensor)  # noqa: S101 - what makes a module a linear
    values: npt.NDArray[np.float32] = weight.detach().numpy()
    return values


def _loss(task: Task, block: nn.Module, grids: Mapping[str, TrainedGrid], batch: int) -> Tensor:
    """The squared error of the block's output, relative to its square."""
    weights = {path: grid.weight() for path, grid in grids.items()}

    def quantized(*arguments: object, **keywords: object) -> object:
        return functional_call(block, weights, arguments, keywords)

    found = task.runner.forward(quantized, task.index, batch, task.inputs[batch])
    wanted = task.wanted[batch]
    return (found - wanted).square().mean() / wanted.square().mean()


def _measure(task: Task, block: nn.Module, grids: Mapping[str, TrainedGrid], batches: Sequence[int]) -> float:
    with torch.no_grad():
        return sum(float(_loss(task, block, grids, batch)) for batch in batches) / len(batches)


def _train(task: Task, block: nn.Module, grids: Mapping[str, TrainedGrid], batches: Sequence[int]) -> None:
    codes, scales = [grid.codes for grid in grids.values()], [grid.growth for grid in grids.values()]
    peaks = (CODE_RATE[min(grid.tensor.scheme.bits for grid in grids.values())], SCALE_RATE)
    parts = [{"params": part, "lr": peak} for part, peak in zip((codes, scales), peaks, strict=True)]
    optimizer = torch.optim.Adam(parts, betas=BETAS)
    generator = torch.Generator().manual_seed(SEED)
    order: list[int] = []
    for step in range(STEPS):
        order = order or torch.randperm(len(batches), generator=generator).tolist()
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        optimizer.zero_grad()
        _loss(task, block, grids, batches[order.pop()]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
