"""One pass over the float model that keeps, for every matrix, what it reads and how much its output matters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeq.core.model import ModelInfo

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

LENGTH = 64
"""Tokens of a sequence that the pass reads; the rest of a longer one is left out."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Call:
    """One use of a matrix on one sequence, float32. gradient: `[tokens, outputs]`, of the score by the output, or for a
    table `[tokens, inputs]`. inputs: `[tokens, inputs]`, or for a table the token ids, int64 `[tokens]`."""

    sequence: int
    inputs: Tensor
    gradient: Tensor

    @property
    def is_lookup(self) -> bool:
        return self.inputs.dim() == 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Observation:
    """calls: of every matrix that ran, by stored name. groups: the linears that read the same input, in the order of
    their first use, each matrix once. positions: how many outputs the score sums over."""

    calls: dict[str, list[Call]]
    groups: tuple[tuple[str, ...], ...]
    positions: int


class Subject:
    """The float model in torch, whole and in float32, as its task is run: `[positions, values]` of a sequence."""

    def __init__(self, directory: Path, info: ModelInfo) -> None:
        """Raises CorruptInputError where transformers refuses the files."""
        from edgeq.models.architecture import load_module
        from edgeq.models.pooling import SentenceEmbedding
        from edgeq.models.sentence_modules import read_pooling

        self.module, _ = load_module(directory, info.task, dtype="float32")
        self.module.requires_grad_(False)
        self.info = info
        is_encoder = info.task == "feature-extraction"
        self._encoder = SentenceEmbedding(self.module, *read_pooling(directory)) if is_encoder else None
        self.parameters: dict[str, Tensor] = dict(self.module.named_parameters())

    def outputs(self, sequence: Sequence[int]) -> Tensor:
        """Logits `[tokens, vocabulary]`, or the embedding `[1, dimension]` (`[tokens, dimension]` without pooling)."""
        import torch

        ids = torch.tensor([sequence], dtype=torch.int64)
        mask = torch.ones_like(ids)
        if self._encoder is None:
            logits: Tensor = self.module(input_ids=ids, attention_mask=mask, use_cache=False).logits
            return logits[0]
        embedding: Tensor = self._encoder(ids, mask)
        return embedding.reshape(-1, embedding.shape[-1])

    def score(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """A random number whose gradient `g` by the outputs has `E (g . d)^2 / 2` = the divergence that a small change
        `d` causes: the log-likelihood of tokens that the model itself draws, or a random direction of the unit vector
        (for 1 - cosine)."""
        import torch

        if self._encoder is None:
            log_p = outputs.log_softmax(-1)
            drawn = torch.multinomial(log_p.detach().exp(), 1, generator=generator)
            return log_p.gather(1, drawn).sum()
        unit = torch.nn.functional.normalize(outputs, dim=-1)
        return (unit * torch.randn(unit.shape, generator=generator)).sum()

    def divergence(self, reference: Tensor, outputs: Tensor) -> float:
        """Sum over positions of the KL divergence in nats, or of 1 - cosine."""
        import torch

        if self._encoder is not None:
            return float((1 - torch.cosine_similarity(reference.double(), outputs.double(), dim=-1)).sum())
        total = 0.0
        for p, q in zip(torch.split(reference, 64), torch.split(outputs, 64), strict=True):
            log_p, log_q = p.double().log_softmax(-1), q.double().log_softmax(-1)
            total += float((log_p.exp() * (log_p - log_q)).sum())
        return total


def observe(subject: Subject, sequences: Sequence[Sequence[int]]) -> Observation:
    """Run the first LENGTH tokens of each sequence forwards and backwards. Memory: inputs and gradients of all."""
    import torch

    generator = torch.Generator().manual_seed(0)
    calls: dict[str, list[Call]] = {}
    groups: dict[tuple[int | None, int], list[str]] = {}
    positions = 0
    for index, sequence in enumerate(sequences):
        with _watched(subject) as seen:
            outputs = subject.outputs(sequence[:LENGTH])
            subject.score(outputs, generator).backward()  # type: ignore[no-untyped-call]
        positions += len(outputs)
        for name, inputs, gradients in seen:
            if gradients:
                calls.setdefault(name, []).append(_call(index, inputs, gradients[0]))
        if index == 0:
            groups = _groups(subject.info, [(name, inputs) for name, inputs, _ in seen])
    return Observation(calls=calls, groups=tuple(map(tuple, groups.values())), positions=positions)


Seen = list[tuple[str, "Tensor", list["Tensor"]]]
"""Name of the weight, what its module read, and the gradient by what it gave, once there is one."""


@contextmanager
def _watched(subject: Subject) -> Iterator[Seen]:
    """Hooks on every module that owns a matrix. Holding on to the inputs keeps their identities apart."""
    seen: Seen = []
    handles = []
    names = {id(parameter): name for name, parameter in subject.parameters.items()}
    for part in subject.module.modules():
        name = names.get(id(getattr(part, "weight", None)))
        if name is not None and subject.info.weights[name].is_matrix:
            handles.append(part.register_forward_hook(_hook(name, seen)))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _hook(name: str, seen: Seen) -> Any:  # noqa: ANN401 - torch's hooks have no narrower type
    def keep(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        gradients: list[Tensor] = []
        if not output.requires_grad:  # the first table: nothing before it wants a gradient
            output.requires_grad_(True)
        output.register_hook(gradients.append)  # type: ignore[no-untyped-call]
        seen.append((name, arguments[0], gradients))

    return keep


def _call(sequence: int, inputs: Tensor, gradient: Tensor) -> Call:
    flat = gradient.reshape(-1, gradient.shape[-1])
    kept = inputs.detach()
    kept = kept.reshape(-1, kept.shape[-1]) if kept.is_floating_point() else kept.reshape(-1)
    return Call(sequence=sequence, inputs=kept, gradient=flat)


def _groups(info: ModelInfo, seen: list[tuple[str, Tensor]]) -> dict[tuple[int | None, int], list[str]]:
    """Linears of a block that read one and the same tensor; each table and head alone."""
    groups: dict[tuple[int | None, int], list[str]] = {}
    placed: set[str] = set()
    for name, inputs in seen:
        if name in placed:
            continue
        placed.add(name)
        weight = info.weights[name]
        key = (weight.block, id(inputs)) if weight.role == "linear" else (None, -len(placed))
        groups.setdefault(key, []).append(name)
    return groups
