"""Recipe: which scheme and method for which tensors. Plan: the recipe resolved for one model and one target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeq.core.scheme import Scheme

Role = Literal["linear", "embedding", "head", "convolution", "other"]
"""What a weight is for: `head` is the output projection to the vocabulary, `convolution` a filter bank over more than
one channel, `other` is never quantized."""
Effort = Literal["fast", "default", "best"]
"""How much time quantizing may take."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Tensors whose name matches the glob `tensors` get this scheme and method."""

    tensors: str
    scheme: Scheme
    method: str


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What the user asked for. None means: the default for these bits, this model and this target.

    `bits` applies to linears; `embedding_bits` to embeddings and the head. `effort` is for methods that calibrate.
    `rules` are applied last, in order.
    """

    bits: int = 4
    method: str = "auto"
    group_size: int | None = None
    symmetric: bool | None = None
    embedding_bits: int | None = None
    effort: Effort = "default"
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """The decision for one tensor."""

    scheme: Scheme
    method: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Assignments by tensor name; a tensor that is not named here keeps its float values. `effort`: how long trained
    methods may take."""

    assignments: dict[str, Assignment]
    effort: Effort = "default"

    def scheme(self, tensor: str) -> Scheme | None:
        assignment = self.assignments.get(tensor)
        return None if assignment is None else assignment.scheme
