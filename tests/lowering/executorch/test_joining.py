"""Groups are joined as ExecuTorch's own partitioner joins them, which keeps tables of all paths."""

from __future__ import annotations

import operator

import pytest
import torch
from torch import fx

from edgeq.lowering.executorch.joining import joined

Groups = list[list[fx.Node]]


def library_joined(graph: fx.Graph, groups: Groups) -> Groups:
    from executorch.exir.backend.canonical_partitioners.group_partitioner import GroupBasedPartitioner
    from torch.fx.passes.operator_support import OperatorSupportBase

    grouped = {node for group in groups for node in group}

    class Grouped(OperatorSupportBase):
        def is_node_supported(self, submodules: object, node: fx.Node) -> bool:
            return node in grouped

    module = fx.GraphModule({}, graph)
    found = GroupBasedPartitioner(module, Grouped(), allows_single_node_partition=True, node_groups=groups)
    return [list(one.nodes) for one in found.propose_partitions()]


def chain(*inputs: tuple[int, ...]) -> tuple[fx.Graph, list[fx.Node]]:
    """One node for each tuple: a sum of the earlier nodes with these numbers; number 0 is the graph's input."""
    graph = fx.Graph()
    nodes = [graph.placeholder("x")]
    for numbers in inputs:
        first, *rest = (nodes[number] for number in numbers)
        nodes.append(graph.call_function(operator.add, (first, *(rest or [first]))))
    graph.output(nodes[-1])
    return graph, nodes


def test_neighbours_become_one_group() -> None:
    graph, nodes = chain((0,), (1,), (2,))
    assert joined(graph, [[nodes[1]], [nodes[2]], [nodes[3]]]) == {0: nodes[1:]}


def test_a_path_out_and_back_keeps_groups_apart() -> None:
    graph, nodes = chain((0,), (1,), (2, 1))
    assert joined(graph, [[nodes[1]], [nodes[3]]]) == {0: [nodes[3]], 1: [nodes[1]]}


def test_without_groups_there_is_none() -> None:
    graph, _ = chain((0,))
    assert joined(graph, []) == {}


@pytest.mark.parametrize("seed", range(40))
def test_random_groups_are_joined_as_the_library_does(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def below(limit: int) -> int:
        return int(torch.randint(limit, (1,), generator=generator))

    graph, nodes = chain(*[(below(number), below(number)) for number in range(1, 40)])
    groups: Groups = []
    for node in nodes[1:]:
        if below(4) == 0:
            continue
        if groups and below(3) == 0 and groups[-1][-1] in node.all_input_nodes:
            groups[-1].append(node)
        else:
            groups.append([node])
    found = [set(group) for group in joined(graph, groups).values()]
    assert found == [set(group) for group in library_joined(graph, groups)]
    assert len(found) < len(groups)
