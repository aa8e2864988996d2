"""Groups of nodes joined to the largest that can be computed at once, as ExecuTorch's partitioner joins them.

That one keeps for each node the sets of all nodes before and after it, which grow as the square of the model, 1.1 GiB
for 30 layers, and walks the graph for each pair. Here sets are integers, a bit for each node.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import fx


@dataclass(frozen=True, kw_only=True)
class Group:
    """As sets of nodes: what is `inside`, what needs any of that, and what any of that needs."""

    number: int
    inside: int
    after: int
    before: int

    def with_(self, other: Group) -> Group:
        """Both together, under this one's number."""
        return Group(
            number=self.number,
            inside=self.inside | other.inside,
            after=self.after | other.after,
            before=self.before | other.before,
        )

    @property
    def is_whole(self) -> bool:
        """Whether no path leads out of the group and back."""
        return not self.after & self.before & ~self.inside


def joined(graph: fx.Graph, groups: Sequence[Sequence[fx.Node]]) -> dict[int, list[fx.Node]]:
    """Each of `groups`, the last to be computed first, with all that remain and make a whole of it. By the number of
    the first among all, nodes in their order."""
    remaining = _described(graph, groups)
    found = {}
    while remaining:
        first, others = remaining[0], remaining[1:]
        remaining = []
        for other in others:
            both = first.with_(other)
            if both.is_whole:
                first = both
            else:
                remaining.append(other)
        found[first.number] = [node for index, node in enumerate(graph.nodes) if first.inside >> index & 1]
    return found


def _described(graph: fx.Graph, groups: Sequence[Sequence[fx.Node]]) -> list[Group]:
    nodes = list(graph.nodes)
    bits = {node: 1 << index for index, node in enumerate(nodes)}
    before: dict[fx.Node, int] = {}
    for node in nodes:
        before[node] = _union(bits[one] | before[one] for one in node.all_input_nodes)
    after: dict[fx.Node, int] = {}
    for node in reversed(nodes):
        after[node] = _union(bits[one] | after[one] for one in node.users)
    ordered = sorted(groups, key=lambda group: max(bits[node] for node in group), reverse=True)
    return [
        Group(
            number=number,
            inside=_union(bits[node] for node in group),
            after=_union(after[node] for node in group),
            before=_union(before[node] for node in group),
        )
        for number, group in enumerate(ordered)
    ]


def _union(sets: Iterable[int]) -> int:
    return functools.reduce(operator.or_, sets, 0)
