"""Distillation: all codes, scales and norms of a quantized model, trained together to answer as the float model does.

Rounding passes gradients straight through (https://arxiv.org/abs/1308.3432), codes move as real numbers of which the
nearest integer counts, and scales are rounded to what is stored in every step (LSQ, https://arxiv.org/abs/1902.08153).
It starts from a good quantization, whose codes it never leaves without a gradient, and ends there where unseen
sequences are not answered better. The float model and both copies of the codes are in memory: for small models.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeq.core.model import ModelInfo, Task
from edgeq.core.tensor import QuantizedTensor
from edgeq.errors import CorruptInputError, UnsupportedModelError
from edgeq.progress import Advance
from edgeq.quantization.grid import storable

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from edgeq.models.blocks import BlockSource
    from edgeq.store import QuantizedModel


BATCH_TOKENS = 2048
STEPS = {4: 200, 3: 300, 2: 400}
"""By the fewest bits: with more there is less to win."""
CODE_RATE = {4: 0.003, 3: 0.006, 2: 0.012}
"""Adam's step for codes, in codes. On the demo model .02 ended worse than it began at 4 bits, .003 22 % better."""
SCALE_RATE = 5e-4
"""Adam's step for the logarithms of scales, and for norms and biases."""
BETAS = (0.9, 0.99)
INSIDE = 0.49
"""How far a code may lie from its integer at the start."""
HELD_OUT = 8
"""One in so many sequences is not trained on, and decides whether the result is kept."""
LARGEST_TRAINED = 300_000_000
"""Parameters up to which a model is distilled: about 24 bytes each are in memory, and a step takes seconds."""
SEED = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Distilled:
    """Trained weights by their stored names; empty where training did not help. before, after: the loss on held-out
    sequences, KL divergence in nats per token, or for encoders the relative squared error of the hidden states."""

    tensors: dict[str, QuantizedTensor]
    floats: dict[str, npt.NDArray[np.float32]]
    before: float
    after: float

    @classmethod
    def nothing(cls) -> Distilled:
        """Where no weight is trained."""
        return cls(tensors={}, floats={}, before=0.0, after=0.0)


def distill(
    model: BlockSource,
    store: QuantizedModel,
    names: Sequence[str],
    sequences: Sequence[Sequence[int]],
    progress: Advance,
) -> Distilled:
    """Train the quantized weights `names` of `store`, and all norms and biases, towards the float `model`.

    Raises UnsupportedModelError for models that are too large, CorruptInputError where weights are missing.
    """
    import torch

    info, directory = model.info, model.directory
    check_size(info)
    teacher, copied = _Model.load(directory, info.task), _Model.load(directory, info.task)
    student = _Student(
        teacher=teacher,
        model=copied,
        fixed={name: torch.from_numpy(store.dequantized(name)) for name in store.names() if store.is_quantized(name)},
        grids={name: _Grid.of(store, name, model.read(name)) for name in names},
        norms={
            name: parameter.detach().clone().requires_grad_()
            for name, parameter in copied.module.named_parameters()
            if parameter.dim() == 1 and name in info.weights and not store.is_quantized(name)
        },
    )
    held, trained = list(sequences[::HELD_OUT]), [row for at, row in enumerate(sequences) if at % HELD_OUT]
    before = student.measure(held)
    if trained:
        student.train(trained, progress)
    after = student.measure(held)
    if not after < before:
        return Distilled(tensors={}, floats={}, before=before, after=before)
    return Distilled(
        tensors={name: grid.result() for name, grid in student.grids.items()},
        floats={name: values.detach().numpy() for name, values in student.norms.items()},
        before=before,
        after=after,
    )


def check_size(info: ModelInfo) -> None:
    """Raises UnsupportedModelError for models that are too large."""
    if info.parameters > LARGEST_TRAINED:
        raise UnsupportedModelError(
            f"{info.parameters:,} parameters are too many to be trained together.",
            remedy="Use the method refit, or another effort than best.",
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Student:
    """The quantized model in training beside the float model, its teacher."""

    teacher: _Model
    model: _Model
    fixed: dict[str, Tensor]
    grids: dict[str, _Grid]
    norms: dict[str, Tensor]

    @property
    def bits(self) -> int:
        """The fewest."""
        return min(grid.tensor.scheme.bits for grid in self.grids.values())

    def loss(self, ids: Tensor, mask: Tensor) -> Tensor:
        """With gradients, mean over the tokens that are not padding."""
        weights = {**self.fixed, **{name: grid.weight() for name, grid in self.grids.items()}, **self.norms}
        return _loss(self.teacher, self.model, weights, ids, mask)

    def measure(self, sequences: Sequence[Sequence[int]]) -> float:
        """The loss over all tokens of `sequences`."""
        import torch

        with torch.no_grad():
            losses = [(int(mask.sum()), float(self.loss(ids, mask))) for ids, mask in _batches(sequences, [])]
        return sum(tokens * value for tokens, value in losses) / sum(tokens for tokens, _ in losses)

    def train(self, sequences: Sequence[Sequence[int]], progress: Advance) -> None:
        import torch

        steps, rate = STEPS[self.bits], CODE_RATE[self.bits]
        grids = self.grids.values()
        parts = (
            ([grid.codes for grid in grids], rate),
            ([grid.growth for grid in grids], SCALE_RATE),
            ([*self.norms.values()], SCALE_RATE),
        )
        optimizer = torch.optim.Adam([{"params": part, "lr": lr} for part, lr in parts if part], betas=BETAS)
        peaks = [group["lr"] for group in optimizer.param_groups]
        for step, (ids, mask) in zip(range(steps), _forever(sequences), strict=False):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * 0.5 * (1 + math.cos(math.pi * step / steps))
            optimizer.zero_grad()
            self.loss(ids, mask).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            progress(step + 1, steps, "distilling")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Grid:
    """One weight: `codes` float32 [out, in] around the integers `code - zero point`, `growth` the logarithm of what its
    scales have grown by."""

    tensor: QuantizedTensor
    codes: Tensor
    growth: Tensor
    scale: Tensor
    least: Tensor
    turned: bool

    @classmethod
    def of(cls, store: QuantizedModel, name: str, values: npt.NDArray[Any]) -> _Grid:
        """The codes start where the float weights `values` lie, as near as rounds to the codes of the store."""
        import torch

        tensor, turned = store.quantized(name), store.info.weights[name].input_axis == 0
        integers = torch.from_numpy(tensor.integers().astype(np.float32))
        scale = torch.from_numpy(tensor.scales.copy())
        floats = torch.from_numpy(np.array(values.T if turned else values, dtype=np.float32))
        codes = torch.clamp(floats / _per_input(scale, tensor), integers - INSIDE, integers + INSIDE)
        zero = tensor.zero_points
        middle = np.full(tensor.scales.shape, tensor.scheme.default_zero_point) if zero is None else zero
        least = -_per_input(torch.from_numpy(middle.astype(np.float32)), tensor)
        return cls(
            tensor=tensor,
            codes=codes.requires_grad_(),
            growth=torch.zeros(tensor.scales.shape, requires_grad=True),
            scale=scale,
            least=least,
            turned=turned,
        )

    def _scales(self) -> Tensor:
        """As they will be stored; the gradient passes the rounding."""
        wanted = self.scale * self.growth.exp()
        stored = storable(wanted.detach().abs(), self.tensor.scheme.scale_dtype) * wanted.detach().sign()
        return wanted + (stored - wanted.detach())

    def _integers(self) -> Tensor:
        bounded = self.codes.clamp(self.least, self.least + (self.tensor.scheme.levels - 1))
        return bounded + (bounded.detach().round() - bounded.detach())

    def weight(self) -> Tensor:
        """In the module's own orientation, with gradients."""
        values = self._integers() * _per_input(self._scales(), self.tensor)
        return values.t() if self.turned else values

    def result(self) -> QuantizedTensor:
        codes = (self._integers() - self.least).detach().round().numpy().astype(np.uint8)
        return QuantizedTensor(
            scheme=self.tensor.scheme,
            codes=np.ascontiguousarray(codes),
            scales=np.ascontiguousarray(self._scales().detach().numpy()),
            zero_points=self.tensor.zero_points,
        )


def _per_input(per_group: Tensor, tensor: QuantizedTensor) -> Tensor:
    """`[out, groups]` repeated along the inputs to `[out, in]`."""
    inputs = tensor.shape[1]
    size = tensor.scheme.group_size or inputs
    repeated = per_group[:, :, None].expand(-1, -1, size).flatten(1)
    return repeated if repeated.shape[1] == inputs else repeated[:, :inputs]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Model:
    """What a module says about token ids, with other weights in it if need be."""

    module: nn.Module
    task: Task

    @classmethod
    def load(cls, directory: Path, task: Task) -> _Model:
        from edgeq.models.architecture import load_module

        module, missing = load_module(directory, task, dtype="float32")
        if missing:
            raise CorruptInputError(f"{directory} lacks {missing[0]}.", remedy="Copy or download the model again.")
        return cls(module=module.train(mode=False).requires_grad_(False), task=task)

    def __call__(self, ids: Tensor, mask: Tensor, weights: dict[str, Tensor] | None = None) -> Tensor:
        """Logits, or hidden states: [rows, length, ...]."""
        from torch.func import functional_call

        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        if self.task == "text-generation":
            inputs["use_cache"] = False
        output: Any = functional_call(self.module, weights or {}, kwargs=inputs)
        result: Tensor = output.logits if self.task == "text-generation" else output.last_hidden_state
        return result


def _loss(teacher: _Model, student: _Model, weights: dict[str, Tensor], ids: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens that are not padding."""
    import torch

    with torch.no_grad():
        wanted = teacher(ids, mask)
    found = student(ids, mask, weights)
    if teacher.task == "text-generation":
        expected = wanted.log_softmax(-1)
        per_token = (expected.exp() * (expected - found.log_softmax(-1))).sum(-1)
    else:
        per_token = (found - wanted).square().sum(-1) / wanted.square().sum(-1)
    return (per_token * mask).sum() / mask.sum()


def _forever(sequences: Sequence[Sequence[int]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without end, in another order each time round."""
    import torch

    generator = torch.Generator().manual_seed(SEED)
    while True:
        yield from _batches(sequences, torch.randperm(len(sequences), generator=generator).tolist())


def _batches(sequences: Sequence[Sequence[int]], order: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """Token ids and mask, int64 [rows, longest], padded on the right; in the given order, or else as they are."""
    import torch

    rows = max(1, BATCH_TOKENS // max(map(len, sequences)))
    ordered = [sequences[index] for index in order] or list(sequences)
    batches = []
    for start in range(0, len(ordered), rows):
        chosen = ordered[start : start + rows]
        longest = max(map(len, chosen))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in chosen])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in chosen])
        batches.append((ids, mask))
    return batches
