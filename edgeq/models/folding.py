"""Pairs of a block whose channels may be scaled: divided by s where they are made, multiplied where they are read.

A norm and the linears that read it, values and the output of attention, up and down of a gated MLP. Pairs are guessed
from shapes and from who reads whose tensor, and believed only after the block, scaled at random, answers as before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

TOLERANCE = 1e-5
"""How far, relative to its norm, the answer of a scaled block may be from before: what float32 rounds."""
NOISE = 1e-3
"""The same, relative to what scaling the producer alone changes: that must be seen for the test to say anything."""
NORM_RANGE, LINEAR_RANGE = 2.0, 1024.0
"""Trial scales lie between the inverse and it. Wide ones show a clamp, as some models have behind their values, even
where the probe does not reach it; for norms there is none, and 1 + weight would lose digits."""
SEED = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Fold:
    """One pair, by the names of its modules in the block.

    The producer's outputs from `first` on are the channels; column `i` of every consumer reads channel `columns[i]`
    (int64 [in]), several columns the same one with grouped queries. one_plus: the norm multiplies by 1 + its weight.
    """

    producer: str
    consumers: tuple[str, ...]
    columns: torch.Tensor
    first: int = 0
    one_plus: bool = False

    @property
    def channels(self) -> int:
        """How many scales the pair has."""
        return int(self.columns.max()) + 1


Answer = Callable[[nn.Module], torch.Tensor]


class Prober(Protocol):
    """What finding pairs needs of `edgeq.models.blocks.BlockRunner`."""

    def probe(self, block: nn.Module, index: int) -> torch.Tensor:
        """What the block makes of hidden states that are always the same."""
        ...


def find_folds(runner: Prober, index: int, block: nn.Module) -> list[Fold]:
    """The pairs of block `index`, as `runner.load` gave it, in the order in which they are read; it stays as it is.

    No two have a consumer in common, and none has a channel of a producer that another has.
    """

    def answer(block: nn.Module) -> torch.Tensor:
        return runner.probe(block, index)

    trace = _Trace.of(block, answer)
    plain = answer(block)
    found: list[Fold] = []
    for consumers in trace.sharing_inputs():
        for fold in _candidates(trace, consumers):
            if not any(_overlap(fold, other) for other in found) and _holds(fold, block, answer, plain):
                found.append(fold)
                break
    return found


def apply_fold(block: nn.Module, fold: Fold, scales: torch.Tensor) -> None:
    """Divide the producer's channels by `scales`, float32 [channels], > 0, and multiply the columns that read them."""
    _divide(block, fold, scales)
    _multiply(block, fold, scales)


def is_linear(module: nn.Module) -> bool:
    """Whether a module multiplies by a matrix: nn.Linear, or Conv1D, whose weight is [in, out]."""
    return isinstance(module, nn.Linear | Conv1D)


def by_output(linear: nn.Module) -> torch.Tensor:
    """A view [out, in] of a linear's weight."""
    weight = linear.get_parameter("weight").detach()
    return weight.t() if isinstance(linear, Conv1D) else weight


@torch.no_grad()
def _divide(block: nn.Module, fold: Fold, scales: torch.Tensor) -> None:
    producer = block.get_submodule(fold.producer)
    rows = slice(fold.first, fold.first + fold.channels)
    weight = producer.get_parameter("weight")
    if is_linear(producer):
        by_output(producer)[rows].div_(scales[:, None])
    elif fold.one_plus:
        weight.add_(1.0).div_(scales).sub_(1.0)
    else:
        weight.div_(scales)
    if producer._parameters.get("bias") is not None:
        producer.get_parameter("bias")[rows].div_(scales)


@torch.no_grad()
def _multiply(block: nn.Module, fold: Fold, scales: torch.Tensor) -> None:
    for name in fold.consumers:
        by_output(block.get_submodule(name)).mul_(scales[fold.columns])


def _is_norm(module: nn.Module) -> bool:
    """Whether all that a module has of its own is one weight, and perhaps one bias, per channel."""
    own = {name: value for name, value in module._parameters.items() if value is not None}
    if is_linear(module) or not {"weight"} <= own.keys() <= {"weight", "bias"}:
        return False
    return all(value.dim() == 1 and value.shape == own["weight"].shape for value in own.values())


@dataclass(frozen=True, kw_only=True)
class _Visit:
    """The first call of a module. The tensors are kept so that no later one takes their place in memory."""

    name: str
    module: nn.Module
    given: torch.Tensor
    made: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class _Trace:
    """Norms and linears in the order in which a block ran them."""

    visits: list[_Visit]

    @classmethod
    def of(cls, block: nn.Module, answer: Answer) -> _Trace:
        visits: dict[str, _Visit] = {}
        hooks = []
        for name, module in block.named_modules():
            if not is_linear(module) and not _is_norm(module):
                continue

            def note(module: nn.Module, inputs: tuple[object, ...], output: object, name: str = name) -> None:
                given = inputs[0] if inputs else None
                if name not in visits and isinstance(given, torch.Tensor) and isinstance(output, torch.Tensor):
                    visits[name] = _Visit(name=name, module=module, given=given, made=output)

            hooks.append(module.register_forward_hook(note))
        try:
            answer(block)
        finally:
            for hook in hooks:
                hook.remove()
        return cls(visits=list(visits.values()))

    def sharing_inputs(self) -> list[list[_Visit]]:
        """The linears, those that read one tensor together."""
        groups: list[list[_Visit]] = []
        for visit in self.visits:
            if not is_linear(visit.module):
                continue
            of_same = [group for group in groups if _same_memory(group[0].given, visit.given)]
            if of_same:
                of_same[0].append(visit)
            else:
                groups.append([visit])
        return groups

    def before(self, consumers: list[_Visit]) -> list[_Visit]:
        """What ran before any of them, the latest first."""
        return self.visits[: min(map(self.visits.index, consumers))][::-1]


def _same_memory(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether two tensors hold the same values in the same place, whatever their leading axes."""
    return left.data_ptr() == right.data_ptr() and left.numel() == right.numel() and left.shape[-1] == right.shape[-1]


def _candidates(trace: _Trace, consumers: list[_Visit]) -> Iterator[Fold]:
    """Pairs that shapes allow, the norm whose output the consumers read before all others."""
    names = tuple(visit.name for visit in consumers)
    inputs = consumers[0].given.shape[-1]
    before = trace.before(consumers)
    for visit in before:
        if _is_norm(visit.module) and _same_memory(visit.made, consumers[0].given):
            for one_plus in (False, True):
                columns = torch.arange(inputs)
                yield Fold(producer=visit.name, consumers=names, columns=columns, one_plus=one_plus)
    for visit in before:
        if is_linear(visit.module):
            for first, channels in _slices(visit.made.shape[-1], inputs):
                for columns in _readings(channels, inputs):
                    yield Fold(producer=visit.name, consumers=names, columns=columns, first=first)


def _slices(outputs: int, inputs: int) -> Iterator[tuple[int, int]]:
    """`(first, channels)`: all outputs; or one part of a fused linear, such as the values behind queries and keys."""
    if outputs <= inputs:
        if inputs % outputs == 0:
            yield 0, outputs
        return
    if outputs % inputs == 0:
        yield from ((first, inputs) for first in reversed(range(0, outputs, inputs)))
    shared, odd = divmod(outputs - inputs, 2)
    if not odd and shared < inputs and inputs % shared == 0:
        yield outputs - shared, shared


def _readings(channels: int, inputs: int) -> Iterator[torch.Tensor]:
    """Which channel each input reads: its own, or with grouped queries, for any size of a head, that of its group."""
    places = torch.arange(inputs)
    if channels == inputs:
        yield places
        return
    together = inputs // channels
    for size in range(channels, 0, -1):
        if channels % size == 0:
            yield places // (size * together) * size + places % size


def _overlap(one: Fold, other: Fold) -> bool:
    """Whether two pairs scale a channel that one producer makes."""
    if one.producer != other.producer:
        return False
    return one.first < other.first + other.channels and other.first < one.first + one.channels


def _holds(fold: Fold, block: nn.Module, answer: Answer, plain: torch.Tensor) -> bool:
    """Whether the block answers as before with random scales, and otherwise without those of the consumers."""
    random = torch.rand(fold.channels, generator=torch.Generator().manual_seed(SEED))
    widest = LINEAR_RANGE if is_linear(block.get_submodule(fold.producer)) else NORM_RANGE
    scales = widest ** (2 * random - 1)
    with _restored(block, (fold.producer, *fold.consumers)):
        apply_fold(block, fold, scales)
        error = float((answer(block) - plain).norm())
        if not error <= TOLERANCE * float(plain.norm()):
            return False
    with _restored(block, (fold.producer,)):
        _divide(block, fold, scales)
        return error < NOISE * float((answer(block) - plain).norm())


@contextmanager
def _restored(block: nn.Module, names: Iterable[str]) -> Iterator[None]:
    """Put the weights of these modules back afterwards, bit for bit."""
    parameters = [parameter for name in names for parameter in block.get_submodule(name).parameters()]
    before = [parameter.detach().clone() for parameter in parameters]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, values in zip(parameters, before, strict=True):
                parameter.copy_(values)
