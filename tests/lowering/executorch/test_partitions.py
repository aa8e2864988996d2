"""Groups of operators can be computed one after the other, and hold what belongs together."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import pytest
import torch
from torch import fx

from edgeq.lowering.executorch.partitions import UNSAFE, is_acyclic, partitioner, phases

IS_TAKEN = operator.add
"""Sums are what the backend takes in these graphs; products are not."""


class Graph:
    """`x` is an input, `p_w` a parameter; every node is named after its letter."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.nodes = {name: self.graph.placeholder(name) for name in ("p_w", "x")}

    def add(self, name: str, *inputs: str, taken: bool = True) -> Graph:
        arguments = tuple(self.nodes[one] for one in (*inputs, *inputs)[:2])
        function = IS_TAKEN if taken else operator.mul
        self.nodes[name] = self.graph.call_function(function, arguments)
        return self

    def done(self) -> Graph:
        self.graph.output(tuple(self.nodes.values()))
        return self

    def taken(self) -> set[fx.Node]:
        return {node for node in self.graph.nodes if node.target is IS_TAKEN}

    def names(self, groups: Sequence[Sequence[fx.Node]]) -> list[set[str]]:
        names = {node: name for name, node in self.nodes.items()}
        return [{names[node] for node in group} for group in groups]


@pytest.fixture
def crossed() -> Graph:
    """Two chains that change sides: a and b lead to d and c through operators that are not taken."""
    graph = Graph().add("a", "x").add("b", "x")
    graph.add("m", "a", taken=False).add("n", "b", taken=False)
    return graph.add("c", "n").add("d", "m").done()


def test_groups_that_need_each_other_are_seen(crossed: Graph) -> None:
    a, b, c, d = (crossed.nodes[name] for name in "abcd")
    assert not is_acyclic(crossed.graph, [[a, c], [b, d]])  # neither depends on itself, but each on the other
    assert not is_acyclic(crossed.graph, [[a, d]])
    assert is_acyclic(crossed.graph, [[a, b], [c, d]])
    assert is_acyclic(crossed.graph, [])


def test_phases_are_as_few_as_can_be(crossed: Graph) -> None:
    groups = phases(crossed.graph, crossed.taken())
    assert crossed.names(groups) == [{"a", "b"}, {"c", "d"}]


def test_constants_belong_to_their_first_user() -> None:
    graph = Graph().add("early", "p_w").add("late", "p_w").add("a", "x", "early").add("m", "a", taken=False)
    graph.add("b", "m", "late").done()
    assert graph.names(phases(graph.graph, graph.taken())) == [{"early", "a"}, {"late", "b"}]


@pytest.mark.parametrize("seed", range(60))
def test_random_graphs_become_acyclic_phases(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def below(limit: int) -> int:
        return int(torch.randint(limit, (1,), generator=generator))

    graph = Graph()
    for index in range(40):
        inputs = [list(graph.nodes)[below(len(graph.nodes))] for _ in range(2)]
        graph.add(f"n{index}", *inputs, taken=below(3) > 0)
    graph.done()
    groups = phases(graph.graph, graph.taken())
    assert is_acyclic(graph.graph, groups)
    assert sorted(node.name for group in groups for node in group) == sorted(node.name for node in graph.taken())


def test_the_configurations_that_miscompile_are_left_out() -> None:
    from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS

    assert set(UNSAFE) <= {config.__name__ for config in ALL_PARTITIONER_CONFIGS}, "renamed: look for their successors"
    used = {type(config).__name__ for config in partitioner().target_partitioner_configs.values()}
    assert not used & set(UNSAFE)
    assert {"LinearConfig", "SoftmaxConfig"} <= used
