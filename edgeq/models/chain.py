"""Which modules of a model are its blocks, and one forward in which something else stands in their place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from transformers.cache_utils import Cache

from edgeq.errors import UnsupportedModelError

Extras = tuple[bool, ...] | None
"""What a block returns beside its hidden states: None where it returns them bare, else for each further entry of the
tuple whether it is None."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """With what a block is called, its hidden states apart."""

    arguments: tuple[object, ...]
    keywords: dict[str, object]

    def tensors(self) -> Iterator[torch.Tensor]:
        return _tensors((self.arguments, self.keywords))


Step = Callable[[int, torch.Tensor, Call], torch.Tensor]
"""`(block, hidden states, call)` to the hidden states that the block hands on."""


class _Beside:
    """Stands for what a block returns beside its hidden states: nobody may take it for something."""


_BESIDE = _Beside()


def refusal(why: str) -> UnsupportedModelError:
    """The error for a model whose blocks are not a chain."""
    return UnsupportedModelError(
        f"The model cannot run block by block: {why}.",
        remedy="Use a method without calibration, such as rtn, mse or hqq.",
    )


def find_blocks(module: nn.Module) -> tuple[str, nn.ModuleList]:
    """The name and the list of the repeated blocks: the one outermost ModuleList that holds parameters.

    Raises UnsupportedModelError where there is none, or several.
    """
    found: dict[str, nn.ModuleList] = {}
    for name, part in module.named_modules():
        inner = any(name.startswith(f"{outer}.") for outer in found)
        if isinstance(part, nn.ModuleList) and not inner and next(part.parameters(), None) is not None:
            found[name] = part
    if len(found) != 1:
        raise refusal(f"it has {len(found)} lists of blocks" if found else "it has no list of blocks")
    return next(iter(found.items()))


def split_output(output: object, hidden: torch.Tensor) -> tuple[torch.Tensor, Extras]:
    """What a block returned, as the hidden states and what is beside them. Raises UnsupportedModelError."""
    parts: tuple[object, ...] = output if type(output) is tuple and output else (output,)
    first = parts[0]
    if not isinstance(first, torch.Tensor) or first.shape != hidden.shape:
        raise refusal(f"a block returns {type(first).__name__} of another kind than the hidden states that it takes")
    return first, tuple(extra is None for extra in parts[1:]) if parts is output else None


class Chain:
    """Runs a model's own forward with its blocks replaced, and refuses whatever is not a chain of blocks.

    `extras` are by the class of the block.
    """

    def __init__(self, blocks: nn.ModuleList, extras: Mapping[type[nn.Module], Extras]) -> None:
        self._blocks, self._extras = blocks, extras

    @contextmanager
    def replaced(self, step: Step) -> Iterator[None]:
        """For one forward: each block does what `step` says. Raises UnsupportedModelError."""
        walk = _Walk(step)
        for index, block in enumerate(self._blocks):
            block.forward = self._stand_in(walk, index, type(block))  # on the instance, before the class's own
        try:
            yield
        finally:
            for block in self._blocks:
                block.__dict__.pop("forward", None)
        if walk.next_index != len(self._blocks):
            raise refusal(f"it runs {walk.next_index} of its {len(self._blocks)} blocks")

    def _stand_in(self, walk: _Walk, index: int, kind: type[nn.Module]) -> Callable[..., object]:
        def forward(*arguments: object, **keywords: object) -> object:
            hidden = walk.take(index, arguments, keywords)
            extras = self._extras[kind]
            return hidden if extras is None else (hidden, *(None if none else _BESIDE for none in extras))

        return forward


class _Walk:
    """The way of the hidden states through one forward."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self._given: torch.Tensor | None = None
        self.next_index = 0

    def take(self, index: int, arguments: tuple[object, ...], keywords: dict[str, object]) -> torch.Tensor:
        if index != self.next_index:
            again = index < self.next_index
            raise refusal(f"block {index} runs {'more than once' if again else f'before block {self.next_index}'}")
        hidden = arguments[0] if arguments else keywords.pop("hidden_states", None)
        if not isinstance(hidden, torch.Tensor):
            raise refusal(f"block {index} does not take hidden states first")
        if self._given is not None and not _is_same(hidden, self._given):
            raise refusal(f"what block {index - 1} returns is changed before block {index} takes it")
        call = Call(arguments=arguments[1:], keywords=keywords)
        _refuse_ties(index, call)
        self.next_index += 1
        self._given = self._step(index, hidden, call)
        return self._given


def _refuse_ties(index: int, call: Call) -> None:
    """What a block takes beside the hidden states must be the same whatever the blocks before it computed."""
    for value in _leaves((call.arguments, call.keywords)):
        if isinstance(value, _Beside):
            raise refusal(f"block {index} takes more from block {index - 1} than its hidden states")
        if isinstance(value, Cache):
            raise refusal(f"block {index} keeps a cache even where none was asked for")


def _is_same(hidden: torch.Tensor, given: torch.Tensor) -> bool:
    return hidden is given or (hidden.shape == given.shape and hidden.data_ptr() == given.data_ptr())


def _leaves(value: object) -> Iterator[object]:
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        for entry in value:
            yield from _leaves(entry)
    else:
        yield value


def _tensors(value: object) -> Iterator[torch.Tensor]:
    return (leaf for leaf in _leaves(value) if isinstance(leaf, torch.Tensor))


def same_calls(left: Sequence[Call], right: Sequence[Call]) -> bool:
    """Whether the calls of all blocks agree, value for value."""
    return all(
        a.keywords.keys() == b.keywords.keys()
        and _equal((a.arguments, list(a.keywords.values())), (b.arguments, list(b.keywords.values())))
        for a, b in zip(left, right, strict=True)
    )


def _equal(left: object, right: object) -> bool:
    first, second = list(_leaves(left)), list(_leaves(right))
    return len(first) == len(second) and all(map(_equal_leaves, first, second))


def _equal_leaves(left: object, right: object) -> bool:
    if left is right:
        return True
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    return type(left) is type(right) and isinstance(left, bool | int | float | str) and left == right
