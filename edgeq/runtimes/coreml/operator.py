"""What the interpreter knows of one operation: which arguments are tensors, and how to compute it in torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Operator:
    """`run(*operands, **settings)`: the arguments named in `operands` come in that order as torch tensors (a tuple of
    values as a list of them, an absent one as None), every other one by its name as a plain Python value.

    float16 and float32 are both computed in float32; a result of another dtype than the program says is converted.
    """

    operands: tuple[str, ...]
    run: Callable[..., Any]


def on(operands: str, run: Callable[..., Any]) -> Operator:
    """An Operator; `operands` are separated by spaces."""
    return Operator(operands=tuple(operands.split()), run=run)
