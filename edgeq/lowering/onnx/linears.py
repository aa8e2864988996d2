"""Linears that read the same input on the same grid are one linear with their rows one below the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from edgeq.core.scheme import Scheme
from edgeq.lowering import operators

if TYPE_CHECKING:
    from edgeq.lowering.capture import CapturedModel
    from edgeq.lowering.onnx.weights import Weights

LINEARS = (operators.linear, torch.ops.aten.linear.default)


@dataclass(frozen=True)
class LinearGroup:
    """Quantized linears in graph order; the whole group is computed where the first one stands."""

    nodes: tuple[fx.Node, ...]
    weights: tuple[str, ...]
    has_bias: bool


class LinearGroups:
    """The group of each quantized linear of a graph whose bias, if it has one, is a weight too."""

    def __init__(self, captured: CapturedModel, weights: Weights) -> None:
        self.of: dict[fx.Node, LinearGroup] = {}
        candidates: dict[tuple[fx.Node, Scheme, bool, str | None], list[tuple[fx.Node, str]]] = {}
        uses = _use_counts(captured)
        for node in captured.program.graph.nodes:
            if node.op != "call_function" or node.target not in LINEARS:
                continue
            arguments: tuple[Any, ...] = node.args
            name = captured.weight_names.get(arguments[1].name)
            scheme = None if name is None else weights.scheme(name)
            if name is None or scheme is None:
                continue
            has_bias = len(arguments) > 2 and arguments[2] is not None
            if has_bias and arguments[2].name not in captured.weight_names:
                continue
            shared = weights.stored_name(name) if uses[arguments[1]] > 1 else None
            candidates.setdefault((arguments[0], scheme, has_bias, shared), []).append((node, name))
        for (_, _, has_bias, _), members in candidates.items():
            group = LinearGroup(tuple(n for n, _ in members), tuple(w for _, w in members), has_bias)
            self.of |= dict.fromkeys(group.nodes, group)


def _use_counts(captured: CapturedModel) -> dict[fx.Node, int]:
    """How many nodes read each placeholder: a weight that others read too must stay on its own."""
    return {node: len(node.users) for node in captured.program.graph.nodes if node.op == "placeholder"}
