"""Distillation: all codes, scales and norms of a quantized model, trained together to answer as the float model does.

Weights train as `edgeq.quantization.trainable` says. The loss is the KL divergence of the next token
(https://arxiv.org/abs/1503.02531), for encoders the error of the hidden states and of the sentence embedding. It starts
from a good quantization, whose codes it never leaves without a gradient, and ends there where unseen sequences are not
answered better. The whole model is in memory: for small ones.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeq.core.model import ModelInfo, Task
from edgeq.core.recipe import Effort
from edgeq.core.tensor import QuantizedTensor
from edgeq.errors import CorruptInputError, UnsupportedModelError
from edgeq.files import write_bytes_atomic
from edgeq.progress import Advance

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Adam

    from edgeq.models.blocks import BlockSource
    from edgeq.quantization.trainable import TrainedGrid
    from edgeq.store import QuantizedModel


BATCH_TOKENS = 2048
STEPS = {4: 150, 3: 300, 2: 400}
"""By the fewest bits: with more there is less to win."""
BEST_STEPS = 3
"""Times as many with the effort "best": on the demo model at 4 bits, symmetric, the divergence then ends at .00314
instead of .00338."""
HELD_OUT = 8
"""One in so many sequences is not trained on, and decides whether the result is kept."""
TRAINABLE_TASKS: tuple[Task, ...] = ("text-generation", "feature-extraction")
"""Those whose logits or vectors training moves towards the float model's."""
LARGEST_TRAINED = 300_000_000
"""Parameters up to which a model is distilled: about 24 bytes each are in memory, and a step takes seconds."""
SEED = 2
SAVED_EVERY = 50
"""Steps after which a killed training is continued."""
SAME = 1e-4
"""Relative difference up to which two computations of logits are one."""

Answers = Callable[[int], "Tensor"]
"""The float model's answer to a batch: logits or hidden states, [rows, length, ...]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Distilled:
    """Trained weights by their stored names; empty where training did not help. before, after: the loss on held-out
    sequences, KL divergence in nats per token, or for encoders the relative squared error of the hidden states plus
    1 - cosine of the embeddings."""

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
    *,
    effort: Effort = "default",
    state: Path | None = None,
) -> Distilled:
    """Train the quantized weights `names` of `store`, and all norms and biases, towards the float `model`.

    effort: how many steps it takes. state: a file from which a training that was killed goes on; the caller removes it.
    Raises UnsupportedModelError for models that are too large, CorruptInputError where weights are missing, OutputError
    where `state` cannot be written.
    """
    check_size(model.info)
    held, trained = list(sequences[::HELD_OUT]), [row for at, row in enumerate(sequences) if at % HELD_OUT]
    student = _Student.of(model, store, names)
    held_batches, batches = _batches(held), _batches(_shuffled(trained))
    unseen = student.model.answers(held_batches)
    before = student.measure(held_batches, unseen)
    if batches:
        steps = STEPS[student.bits] * (BEST_STEPS if effort == "best" else 1)
        _Training.of(student, state).run(batches, student.model.answers(batches), steps, progress)
    after = student.measure(held_batches, unseen)
    if not after < before:
        return Distilled(tensors={}, floats={}, before=before, after=before)
    return Distilled(
        tensors={name: grid.result() for name, grid in student.grids.items()},
        floats={name: values.detach().numpy() for name, values in student.norms.items()},
        before=before,
        after=after,
    )


def check_size(info: ModelInfo) -> None:
    """Raises UnsupportedModelError for models that are too large, or whose answers are no targets here."""
    if info.task not in TRAINABLE_TASKS:
        raise UnsupportedModelError(
            f"edgeq does not train models for {info.task}.", remedy="Use the method refit, or one without calibration."
        )
    if info.parameters > LARGEST_TRAINED:
        raise UnsupportedModelError(
            f"{info.parameters:,} parameters are too many to be trained together.",
            remedy="Use the method refit, or another effort than best.",
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Batch:
    """ids, mask: int64 [rows, longest], padded on the right."""

    ids: Tensor
    mask: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class _Model:
    """The float model, and what it says with other weights in it."""

    module: nn.Module
    info: ModelInfo

    @classmethod
    def load(cls, source: BlockSource) -> _Model:
        from edgeq.models.architecture import load_module

        directory = source.directory
        module, missing = load_module(directory, source.info.task, dtype="float32")
        if missing:
            raise CorruptInputError(f"{directory} lacks {missing[0]}.", remedy="Copy or download the model again.")
        return cls(module=module.train(mode=False).requires_grad_(False), info=source.info)

    @property
    def is_encoder(self) -> bool:
        return self.info.task == "feature-extraction"

    def __call__(self, batch: _Batch, weights: dict[str, Tensor] | None = None) -> Tensor:
        """Logits, or hidden states: [rows, length, ...]."""
        from torch.func import functional_call

        inputs: dict[str, Any] = {"input_ids": batch.ids, "attention_mask": batch.mask}
        if not self.is_encoder:
            inputs["use_cache"] = False
        output: Any = functional_call(self.module, weights or {}, kwargs=inputs)
        result: Tensor = output.last_hidden_state if self.is_encoder else output.logits
        return result

    def answers(self, batches: Sequence[_Batch]) -> Answers:
        """Computed once. Logits would be too many to keep: they are computed again from what the head was given, or by
        the whole model where the head is not all there is to them."""
        import torch

        with torch.no_grad():
            head = self._head()
            if self.is_encoder:
                known = [self(batch) for batch in batches]
                return lambda index: known[index]
            if head is None or not batches or not self._ends_with(head, batches[0]):
                return lambda index: self(batches[index])
            given = [self._given(head, batch)[0] for batch in batches]
            return lambda index: head(given[index])

    def _head(self) -> nn.Module | None:
        module: Any = self.module
        found: nn.Module | None = None if self.is_encoder else module.get_output_embeddings()
        return found

    def _given(self, head: nn.Module, batch: _Batch) -> tuple[Tensor, Tensor]:
        """What the head is given, and the logits."""
        seen: list[Tensor] = []
        hook = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            logits = self(batch)
        finally:
            hook.remove()
        return seen[-1], logits

    def _ends_with(self, head: nn.Module, batch: _Batch) -> bool:
        """Whether the head's output is the logits: some models bend them afterwards."""
        given, logits = self._given(head, batch)
        difference = (head(given) - logits).abs().max()
        return given.shape[:2] == batch.ids.shape and bool(difference <= SAME * logits.abs().max())


@dataclass(frozen=True, kw_only=True, eq=False)
class _Student:
    """The quantized model in training; `model` holds the float weights. fixed: what is quantized and not trained."""

    model: _Model
    fixed: dict[str, Tensor]
    grids: dict[str, TrainedGrid]
    norms: dict[str, Tensor]

    @classmethod
    def of(cls, source: BlockSource, store: QuantizedModel, names: Sequence[str]) -> _Student:
        import torch

        from edgeq.quantization.trainable import TrainedGrid

        model, info = _Model.load(source), source.info
        return cls(
            model=model,
            fixed={
                name: torch.from_numpy(store.dequantized(name))
                for name in store.names()
                if store.is_quantized(name) and name not in names
            },
            grids={
                name: TrainedGrid.of(
                    store.quantized(name), source.read(name), turned=info.weights[name].input_axis == 0
                )
                for name in names
            },
            norms={
                name: torch.from_numpy(store.dequantized(name)).requires_grad_()
                for name, parameter in model.module.named_parameters()
                if parameter.dim() == 1 and name in info.weights and not store.is_quantized(name)
            },
        )

    @property
    def bits(self) -> int:
        """The fewest."""
        return min(grid.tensor.scheme.bits for grid in self.grids.values())

    def loss(self, batch: _Batch, wanted: Tensor) -> Tensor:
        """With gradients, mean over the tokens that are not padding."""
        weights = {**self.fixed, **{name: grid.weight() for name, grid in self.grids.items()}, **self.norms}
        found = self.model(batch, weights)
        if not self.model.is_encoder:
            return _mean(kl_divergence(wanted, found), batch.mask)
        return _mean(_error(wanted, found), batch.mask) + self._turned_away(wanted, found, batch.mask)

    def _turned_away(self, wanted: Tensor, found: Tensor, mask: Tensor) -> Tensor:
        """1 - cosine of the sentence embeddings, or of each token's where nothing is pooled."""
        import torch

        from edgeq.models.pooling import pool

        pooling = self.model.info.pooling
        apart = 1 - torch.cosine_similarity(pool(wanted, mask, pooling), pool(found, mask, pooling), dim=-1)
        return _mean(apart, mask) if pooling == "none" else apart.mean()

    def measure(self, batches: Sequence[_Batch], answers: Answers) -> float:
        """The loss over all tokens."""
        import torch

        with torch.no_grad():
            losses = [(int(b.mask.sum()), float(self.loss(b, answers(index)))) for index, b in enumerate(batches)]
        return sum(tokens * value for tokens, value in losses) / sum(tokens for tokens, _ in losses)


def _mean(per_token: Tensor, mask: Tensor) -> Tensor:
    """Over the tokens that are not padding."""
    return (per_token * mask).sum() / mask.sum()


def kl_divergence(wanted: Tensor, found: Tensor) -> Tensor:
    """Of logits [..., vocabulary], in nats: [...]."""
    expected = wanted.log_softmax(-1)
    return (expected.exp() * (expected - found.log_softmax(-1))).sum(-1)


def _error(wanted: Tensor, found: Tensor) -> Tensor:
    """Relative squared error of hidden states, [rows, length]."""
    return (found - wanted).square().sum(-1) / wanted.square().sum(-1)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Training:
    """Adam with a rate that falls to nothing as half a cosine. state: where it is saved now and then."""

    student: _Student
    optimizer: Adam
    peaks: tuple[float, ...]
    state: Path | None

    @classmethod
    def of(cls, student: _Student, state: Path | None) -> _Training:
        import torch

        from edgeq.quantization.trainable import BETAS, CODE_RATE, SCALE_RATE

        grids = student.grids.values()
        parts = (
            ([grid.codes for grid in grids], CODE_RATE[student.bits]),
            ([grid.growth for grid in grids], SCALE_RATE),
            ([*student.norms.values()], SCALE_RATE),
        )
        optimizer = torch.optim.Adam([{"params": part, "lr": lr} for part, lr in parts if part], betas=BETAS)
        peaks = tuple(group["lr"] for group in optimizer.param_groups)
        return cls(student=student, optimizer=optimizer, peaks=peaks, state=state)

    def run(self, batches: Sequence[_Batch], answers: Answers, steps: int, progress: Advance) -> None:
        done = self._resumed()
        for step, index in zip(range(steps), _forever(len(batches)), strict=False):
            if step < done:
                continue
            for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
                group["lr"] = peak * 0.5 * (1 + math.cos(math.pi * step / steps))
            self.optimizer.zero_grad()
            self.student.loss(batches[index], answers(index)).backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            if self.state is not None and (step + 1) % SAVED_EVERY == 0:
                self._save(self.state, step + 1)
            progress(step + 1, steps, "distilling")

    def _trained(self) -> list[Tensor]:
        return [tensor.detach() for group in self.optimizer.param_groups for tensor in group["params"]]

    def _save(self, path: Path, step: int) -> None:
        import torch

        buffer = io.BytesIO()
        torch.save({"step": step, "trained": self._trained(), "adam": self.optimizer.state_dict()}, buffer)
        write_bytes_atomic(path, buffer.getvalue())

    def _resumed(self) -> int:
        """How many steps an earlier run has saved; everything is then as it left it."""
        import torch

        if self.state is None or not self.state.is_file():
            return 0
        try:
            saved = torch.load(self.state, weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError):  # cut short, or another torch's
            return 0
        for tensor, value in zip(self._trained(), saved["trained"], strict=True):
            tensor.copy_(value)
        self.optimizer.load_state_dict(saved["adam"])
        return int(saved["step"])


def _shuffled(sequences: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    import torch

    order = torch.randperm(len(sequences), generator=torch.Generator().manual_seed(SEED)).tolist()
    return [sequences[index] for index in order]


def _forever(count: int) -> Iterator[int]:
    """Batches without end, in another order each time round."""
    import torch

    generator = torch.Generator().manual_seed(SEED)
    while True:
        yield from torch.randperm(count, generator=generator).tolist()


def _batches(sequences: Sequence[Sequence[int]]) -> list[_Batch]:
    """About BATCH_TOKENS tokens each, in the given order."""
    import torch

    rows = max(1, BATCH_TOKENS // max(map(len, sequences), default=1))
    batches = []
    for start in range(0, len(sequences), rows):
        chosen = sequences[start : start + rows]
        longest = max(map(len, chosen))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in chosen])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in chosen])
        batches.append(_Batch(ids=ids, mask=mask))
    return batches
