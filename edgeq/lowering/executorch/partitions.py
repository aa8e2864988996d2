"""XNNPACK's partitions without its two faults: products that it miscompiles, and groups that depend on themselves.

It joins neighbouring operators without asking whether a path leads from one group to another and back, as the masks of
windowed attention do; torch then refuses the groups as a cycle. Such graphs are grouped in the order of computation.
"""

from __future__ import annotations

from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

from torch import fx

from edgeq.lowering.executorch.joining import joined

UNSAFE = ("AddmmConfig", "MMConfig")
"""XNNPACK's configurations that take the integer codes of a weight-only linear for its weights, and drop the scales."""


def partitioner() -> Any:  # noqa: ANN401 - executorch has no types
    """XNNPACK's partitioner without the configurations that miscompile quantized weights silently."""
    from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from torch.fx.passes.infra.partitioner import Partition

    class AcyclicPartitioner(XnnpackPartitioner):  # type: ignore[misc]
        def partition(self, exported_program: Any) -> Any:  # noqa: ANN401
            """Without XNNPACK's own word before it, a warning that there is a newer way to call it."""
            return super(XnnpackPartitioner, self).partition(exported_program)

        def generate_partitions(self, ep: Any) -> list[Partition]:  # noqa: ANN401
            groups = joined(ep.graph, self.get_matched_nodes_from_configs(ep))
            if not is_acyclic(ep.graph, list(groups.values())):
                delegated = {node for group in groups.values() for node in group}
                groups = dict(enumerate(phases(ep.graph, delegated)))
            return [Partition(id=number, nodes=dict.fromkeys(group)) for number, group in groups.items()]

    safe = [config for config in ALL_PARTITIONER_CONFIGS if config.__name__ not in UNSAFE]
    return AcyclicPartitioner(configs=safe)


def is_acyclic(graph: fx.Graph, groups: Sequence[Sequence[fx.Node]]) -> bool:
    """Whether the graph can be computed when each group is computed at once."""
    owner: dict[fx.Node, Any] = {node: index for index, group in enumerate(groups) for node in group}
    needs: dict[Any, set[Any]] = {}
    for node in graph.nodes:
        mine = owner.get(node, node)
        needs.setdefault(mine, set()).update(
            other for one in node.all_input_nodes if (other := owner.get(one, one)) != mine
        )
    try:
        TopologicalSorter(needs).prepare()
    except CycleError:
        return False
    return True


def phases(graph: fx.Graph, nodes: set[fx.Node]) -> list[list[fx.Node]]:
    """`nodes` in as few groups as can be computed one after the other, with all other nodes in between.

    A phase begins with what needs a result of other nodes that needs the phase before. What depends on constants alone
    belongs to its first user, as the weights of products do.
    """
    phase: dict[fx.Node, int] = {}
    varying: set[fx.Node] = set()
    for node in graph.nodes:
        inputs = [one for one in node.all_input_nodes if one in varying]
        is_constant = node.op == "placeholder" and node.name.startswith(("p_", "b_", "c_"))
        if inputs or (node not in nodes and not is_constant):
            varying.add(node)
        phase[node] = max((phase[one] + (node in nodes and one not in nodes) for one in inputs), default=0)
    for node in reversed(graph.nodes):
        if node in nodes and node not in varying:
            phase[node] = min((phase[user] for user in node.users if user.op != "output"), default=0)
    groups: dict[int, list[fx.Node]] = {}
    for node in graph.nodes:
        if node in nodes:
            groups.setdefault(phase[node], []).append(node)
    return [groups[number] for number in sorted(groups)]
