"""A model run block by block: one block in memory at a time, whatever the architecture.

The model's own forward embeds the tokens and turns the last hidden states into its output; nothing here knows a norm.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from edgeq.core.model import ModelInfo
from edgeq.errors import EdgeqError, InternalError, UsageError
from edgeq.models.architecture import build_module, parameters_on_meta
from edgeq.models.chain import Call, Chain, Extras, Step, find_blocks, refusal, same_calls, split_output
from edgeq.models.roles import shared_names, stored_tensors
from edgeq.models.task_modules import task_module
from edgeq.models.tokens import LARGEST_LOGITS

BATCH_TOKENS = 2048
PROBE_TOKENS = 16

Activations = list[torch.Tensor]
"""Hidden states, float32 `[batch, length, hidden]`, in the order of the runner's batches."""
Read = Callable[[str], npt.NDArray[Any]]
"""A weight by its stored name, in the module's shape and any float dtype."""


class BlockSource(Protocol):
    """What running a model needs of it; `edgeq.models.source.SourceModel` is one."""

    @property
    def info(self) -> ModelInfo: ...

    @property
    def directory(self) -> Path: ...

    def read(self, name: str) -> npt.NDArray[Any]:
        """One weight as the checkpoint stores it: native dtype and shape."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Sequences of one length: `rows` are their places among the runner's sequences, `tokens` int64 [rows, length]."""

    rows: tuple[int, ...]
    tokens: torch.Tensor


class BlockRunner:
    """Runs `sequences` through a model whose blocks take hidden states first and hand them on.

    Sequences of equal length share a batch of about 2,048 tokens (fewer where the logits would pass 600 MB); there is
    no padding. `read`, wherever a method takes one, replaces the model's own weights, such as by dequantized ones.
    Raises UnsupportedModelError, with the reason, where the blocks are not a chain; UsageError without sequences.
    """

    def __init__(self, model: BlockSource, sequences: Sequence[Sequence[int]]) -> None:
        info = model.info
        self._info, self._read = info, model.read
        with parameters_on_meta():
            self._module = build_module(model.directory, info.task, device="cpu")
        self._prefix, self._blocks = find_blocks(self._module)
        self._names = _stored_names(self._module)
        self._refuse_shared_blocks()
        self._encoder = task_module(info.task, self._module, info.pooling, info.normalize)
        self.batches = _batches(sequences, self._batch_tokens())
        self._calls: list[Sequence[Call]] = []
        self._probe_calls: list[Call] = []
        self._extras: dict[type[nn.Module], Extras] = {}
        self._chain = Chain(self._blocks, self._extras)
        self._probe(self.batches[0].tokens[:1, :PROBE_TOKENS])

    @property
    def count(self) -> int:
        """How many blocks the model has."""
        return len(self._blocks)

    @torch.no_grad()
    def embed(self, read: Read | None = None) -> Activations:
        """What the first block takes. The first call also keeps what else each block is called with, for `run`."""
        outer = self._outer(read)
        activations: Activations = []
        kept = list(self._calls)
        for batch in self.batches:
            calls: list[Call] = []

            def step(index: int, hidden: torch.Tensor, call: Call, calls: list[Call] = calls) -> torch.Tensor:
                if index == 0:
                    activations.append(hidden)
                calls.append(call)
                return hidden

            self._forward(batch.tokens, outer, step)
            if not kept:
                self._calls.append(self._shared_calls(batch, calls))
        return activations

    def load(self, index: int, read: Read | None = None) -> nn.Module:
        """The block with its weights, float32 on the CPU, in evaluation mode, without gradients; the caller's own."""
        block = copy.deepcopy(self._blocks[index])
        block.__dict__.pop("forward", None)  # a stand-in, where the copy is taken in the middle of a forward
        self._fill(block, f"{self._prefix}.{index}.", read or self._read)
        return block

    def forward(self, block: Callable[..., Any], index: int, batch: int, hidden: torch.Tensor) -> torch.Tensor:
        """Block `index`, as `load` gave it or changed since, on one batch. Gradients flow to whatever asks for them."""
        if not self._calls:
            raise InternalError("A block was run before the tokens were embedded.", remedy="Report this.")
        call = self._calls[batch][index]
        output = block(hidden, *call.arguments, **call.keywords)
        return split_output(output, hidden)[0]

    @torch.no_grad()
    def run_batch(self, block: nn.Module, index: int, batch: int, hidden: torch.Tensor) -> torch.Tensor:
        """`forward` without gradients."""
        return self.forward(block, index, batch, hidden)

    @torch.no_grad()
    def probe(self, block: nn.Module, index: int) -> torch.Tensor:
        """What block `index` makes of a few random hidden states, always the same: [1, tokens, hidden]."""
        call = self._probe_calls[index]
        return split_output(block(self._noise, *call.arguments, **call.keywords), self._noise)[0]

    @torch.no_grad()
    def run(self, block: nn.Module, index: int, activations: Iterable[torch.Tensor]) -> Activations:
        """Block `index` on all batches, without gradients."""
        pairs = zip(range(len(self.batches)), activations, strict=True)
        return [self.forward(block, index, batch, hidden) for batch, hidden in pairs]

    def finish(self, activations: Iterable[torch.Tensor], read: Read | None = None) -> Iterator[torch.Tensor]:
        """From what the last block returns, per batch: logits [rows, length, vocabulary], or embeddings
        [rows, dimension] (pooled and normalised; [rows, length, dimension] without pooling). Gradients flow."""
        outer = self._outer(read)
        for batch, last in zip(self.batches, activations, strict=True):

            def step(index: int, hidden: torch.Tensor, call: Call, last: torch.Tensor = last) -> torch.Tensor:
                return last if index == self.count - 1 else hidden

            yield self._forward(batch.tokens, outer, step)

    def linears(self, index: int, block: nn.Module) -> dict[str, nn.Module]:
        """The linears of a block (nn.Linear, or Conv1D whose weight is [in, out]) by their weights' stored names."""
        parts = {f"{self._prefix}.{index}.{name}.weight": part for name, part in block.named_modules()}
        return {self._names[name]: part for name, part in parts.items() if isinstance(part, nn.Linear | Conv1D)}

    def parameters(self, index: int, block: nn.Module) -> dict[str, nn.Parameter]:
        """The weights of a block by their stored names."""
        prefix = f"{self._prefix}.{index}"
        return {self._names[f"{prefix}.{name}"]: parameter for name, parameter in block.named_parameters()}

    def _batch_tokens(self) -> int:
        head = self._module.get_output_embeddings()  # type: ignore[no-untyped-call]
        if head is None or self._encoder is not None:
            return BATCH_TOKENS
        return max(1, min(BATCH_TOKENS, LARGEST_LOGITS // (4 * int(head.weight.shape[0]))))

    def _refuse_shared_blocks(self) -> None:
        owners: dict[str, str] = {}
        for name, stored in self._names.items():
            owner = _owner(name, self._prefix)
            if owners.setdefault(stored, owner) != owner:
                raise refusal(f"{stored} belongs to several of its blocks")

    def _probe(self, tokens: torch.Tensor) -> None:
        """Learn what the blocks return, and prove on a few tokens that they are a chain: nothing but the last one's
        hidden states may reach the output, and nothing but hidden states the next block."""
        given: list[torch.Tensor] = []

        def step(index: int, hidden: torch.Tensor, call: Call) -> torch.Tensor:
            if any(tensor.requires_grad for tensor in call.tensors()):
                raise refusal(f"block {index} takes more from the blocks before it than their hidden states")
            kind = type(self._blocks[index])
            if kind not in self._extras:
                with torch.no_grad():
                    output = self.load(index)(hidden, *call.arguments, **call.keywords)
                self._extras[kind] = split_output(output, hidden)[1]
            self._probe_calls.append(call)
            given.append(hidden.detach().clone().requires_grad_())
            return given[-1] * 1.0  # no leaf, so that it may be written into

        with torch.enable_grad():
            output = self._forward(tokens, self._outer(None), step)
            if not output.requires_grad:
                raise refusal("its output does not depend on its last block")
            used = torch.autograd.grad(output.sum(), given, allow_unused=True)
        reached = [index for index, gradient in enumerate(used) if gradient is not None]
        if reached != [self.count - 1]:
            raise refusal(f"its output takes what blocks {reached} return, not only the last")
        self._noise = torch.randn(given[0].shape, generator=torch.Generator().manual_seed(0))

    def _shared_calls(self, batch: Batch, calls: Sequence[Call]) -> Sequence[Call]:
        """The calls of an earlier batch, where they are the same: masks and rotations depend on the shape alone."""
        for earlier, known in zip(self.batches, self._calls, strict=False):
            if earlier.tokens.shape == batch.tokens.shape and same_calls(known, calls):
                return known
        return calls

    def _forward(self, tokens: torch.Tensor, outer: dict[str, torch.Tensor], step: Step) -> torch.Tensor:
        """The model's own forward, with `outer` in it for that time and `step` in place of its blocks."""
        mask = torch.ones_like(tokens)
        try:
            with _installed(self._module, outer), self._chain.replaced(step):
                if self._encoder is not None:
                    result: torch.Tensor = self._encoder(tokens, mask)
                else:
                    result = self._module(input_ids=tokens, attention_mask=mask, use_cache=False).logits
        except (EdgeqError, MemoryError):
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise refusal(f"{type(error).__name__} between its blocks: {reason}") from error
        return result

    def _outer(self, read: Read | None) -> dict[str, torch.Tensor]:
        """The weights outside of the blocks by their names in the module; shared ones are one tensor."""
        read = read or self._read
        names = {name: stored for name, stored in self._names.items() if not _owner(name, self._prefix)}
        values = {stored: _tensor(read(stored)) for stored in names.values()}
        return {name: values[stored] for name, stored in names.items()}

    def _fill(self, block: nn.Module, prefix: str, read: Read) -> None:
        names = {name.removeprefix(prefix): stored for name, stored in self._names.items() if name.startswith(prefix)}
        values = {stored: _parameter(read(stored)) for stored in names.values()}
        for name, stored in names.items():
            _set(block, name, values[stored])


def _stored_names(module: nn.Module) -> dict[str, str]:
    """Every name of a weight in the module, shared ones included, and the name under which it is stored."""
    return {name: name for name in stored_tensors(module)} | shared_names(module)


def _owner(name: str, prefix: str) -> str:
    """The name of the block that holds a weight; empty outside of the blocks."""
    inside = name.removeprefix(f"{prefix}.")
    return "" if inside == name else inside.split(".", 1)[0]


def _batches(sequences: Sequence[Sequence[int]], tokens: int) -> tuple[Batch, ...]:
    by_length: dict[int, list[int]] = {}
    for row, sequence in enumerate(sequences):
        by_length.setdefault(len(sequence), []).append(row)
    if not by_length or 0 in by_length:
        raise UsageError("There are no tokens to calibrate on.", remedy="Name a longer text with --calibration.")
    batches = []
    for length, rows in by_length.items():
        size = max(1, tokens // length)
        for start in range(0, len(rows), size):
            chosen = tuple(rows[start : start + size])
            values = torch.tensor([list(sequences[row]) for row in chosen], dtype=torch.int64)
            batches.append(Batch(rows=chosen, tokens=values))
    return tuple(batches)


def _tensor(values: npt.NDArray[Any]) -> torch.Tensor:
    """A copy in float32; integers and booleans stay what they are."""
    return torch.from_numpy(np.array(values, dtype=values.dtype if values.dtype.kind in "biu" else np.float32))


def _parameter(values: npt.NDArray[Any]) -> torch.Tensor:
    return nn.Parameter(_tensor(values), requires_grad=False)


def _set(module: nn.Module, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Put a tensor where the module has a parameter or buffer of this name; what was there."""
    path, _, leaf = name.rpartition(".")
    part = module.get_submodule(path)
    before: torch.Tensor = getattr(part, leaf)
    if leaf in part._buffers:
        part._buffers[leaf] = tensor.detach()
    else:
        part._parameters[leaf] = tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, False)
    return before


@contextmanager
def _installed(module: nn.Module, tensors: dict[str, torch.Tensor]) -> Iterator[None]:
    before = {name: _set(module, name, tensor) for name, tensor in tensors.items()}
    try:
        yield
    finally:
        for name, tensor in before.items():
            _set(module, name, tensor)
