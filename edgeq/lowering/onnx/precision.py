"""Which nodes of a captured graph stay float32 in a float16 graph: what sums, squares or normalises."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

aten = torch.ops.aten
ACCUMULATING = frozenset(
    {
        aten.pow.Tensor_Scalar,
        aten.pow.Tensor_Tensor,
        aten.square.default,
        aten.mean.dim,
        aten.sum.dim_IntList,
        aten.sum.default,
        aten.cumsum.default,
        aten.linalg_vector_norm.default,
        aten.norm.ScalarOpt_dim,
        aten.exp.default,
        aten.expm1.default,
        aten.softplus.default,
    }
)
"""Whose results leave the range of float16 for arguments that lie well inside it, or lose digits term by term."""
CARRYING = frozenset(
    {
        aten.add.Tensor,
        aten.add.Scalar,
        aten.sub.Tensor,
        aten.sub.Scalar,
        aten.mul.Tensor,
        aten.mul.Scalar,
        aten.div.Tensor,
        aten.div.Scalar,
        aten.sqrt.default,
        aten.rsqrt.default,
        aten.reciprocal.default,
        aten.log.default,
        aten.clamp.default,
        aten.clamp_min.default,
        aten.maximum.default,
        aten.neg.default,
        aten.expand.default,
        aten.expand_as.default,
        aten.unsqueeze.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.view.default,
        aten.reshape.default,
        operator.getitem,
    }
)
"""Whose results stay float32 where all of their arguments are, so that an epsilon is added before it is rounded."""


def precise_nodes(program: torch.export.ExportedProgram) -> frozenset[fx.Node]:
    """The nodes whose results are float32. Behind an encoder's token vectors that is every node without a weight: the
    pooling is cheap, and its epsilons are too small for float16."""
    output = program.graph.output_node()
    outputs: Any = output.args[0]
    behind = _behind({node for node in outputs[1:] if isinstance(node, fx.Node)})
    precise: set[fx.Node] = set()
    for node in program.graph.nodes:
        if node.op != "call_function" or not _is_float(node):
            continue
        is_pooling = node in behind and not any(_is_parameter(one) for one in node.all_input_nodes)
        if is_pooling or node.target in ACCUMULATING or _carries(node, precise):
            precise.add(node)
    return frozenset(precise)


def _behind(nodes: set[fx.Node]) -> set[fx.Node]:
    """What reads `nodes`, and what reads that."""
    found: set[fx.Node] = set()
    waiting = list(nodes)
    while waiting:
        users = set(waiting.pop().users) - found
        found |= users
        waiting += users
    return found


def _carries(node: fx.Node, precise: set[fx.Node]) -> bool:
    floats = [one for one in node.all_input_nodes if _is_float(one)]
    return node.target in CARRYING and bool(floats) and precise.issuperset(floats)


def _is_parameter(node: fx.Node) -> bool:
    return node.op == "placeholder" and _is_float(node)


def _is_float(node: fx.Node) -> bool:
    value: Any = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.dtype == torch.float32
