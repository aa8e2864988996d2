"""Small pieces of string graphs: constants, loops, and the one thing that ONNX lacks, joining a list of strings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from edgeq.lowering.onnx.graph import GraphBuilder

EXTENSIONS = "ai.onnx.contrib"
ML = "ai.onnx.ml"
INT64, STRING, BOOL = ir.DataType.INT64, ir.DataType.STRING, ir.DataType.BOOL


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What one turn of a loop computes: whether to go on (None: until the count is reached), what the next turn is
    given, and what is collected from all turns."""

    carried: tuple[ir.Value, ...]
    collected: tuple[ir.Value, ...] = ()
    go_on: ir.Value | None = None


Body = Callable[[GraphBuilder, ir.Value, tuple[ir.Value, ...]], Turn]


def ints(graph: GraphBuilder, *numbers: int) -> ir.Value:
    """int64 `[n]`. Nodes, not initializers: bodies of loops have their own, whose names must not meet."""
    return graph.op("Constant", attributes={"value_ints": list(numbers)}) if numbers else _empty(graph)


def integer(graph: GraphBuilder, number: int) -> ir.Value:
    """int64 `[]`."""
    return graph.op("Constant", attributes={"value_int": number})


def strings(graph: GraphBuilder, *texts: str) -> ir.Value:
    """Strings `[n]`."""
    return graph.op("Constant", attributes={"value_strings": list(texts)})


def flat(graph: GraphBuilder, value: ir.Value) -> ir.Value:
    """All elements in a row."""
    return graph.op("Reshape", value, ints(graph, -1))


def size(graph: GraphBuilder, value: ir.Value) -> ir.Value:
    """The number of elements, int64 `[]`."""
    return graph.op("Size", value)


def concat(graph: GraphBuilder, *values: ir.Value, axis: int = 0) -> ir.Value:
    return graph.op("Concat", *values, attributes={"axis": axis})


def cut(graph: GraphBuilder, value: ir.Value, start: ir.Value, stop: ir.Value, step: int = 1) -> ir.Value:
    """Elements `start` to `stop`, both int64 `[1]`, of the first axis."""
    return graph.op("Slice", value, start, stop, ints(graph, 0), ints(graph, step))


def loop(
    graph: GraphBuilder,
    carried: Sequence[ir.Value],
    types: Sequence[ir.DataType],
    body: Body,
    *,
    count: ir.Value | None = None,
    while_true: ir.Value | None = None,
) -> tuple[ir.Value, ...]:
    """Turns up to `count` (int64 `[]`) while the condition (bool `[]`) holds: what is carried, then what is collected,
    one row a turn. body: given a builder for its nodes, the turn's number, and what is carried."""
    inner = GraphBuilder()
    inner.scope = f"{graph.scope}/loop{len(graph.nodes)}"
    number = ir.Value(name=f"{inner.scope}/turn", type=ir.TensorType(INT64), shape=ir.Shape([]))
    condition = ir.Value(name=f"{inner.scope}/condition", type=ir.TensorType(BOOL), shape=ir.Shape([]))
    given = tuple(
        ir.Value(name=f"{inner.scope}/carried{index}", type=ir.TensorType(dtype)) for index, dtype in enumerate(types)
    )
    turn = body(inner, number, given)
    go_on = inner.op("Identity", condition if turn.go_on is None else turn.go_on)
    go_on.type, go_on.shape = ir.TensorType(BOOL), ir.Shape([])
    results = [go_on, *(inner.op("Identity", value) for value in (*turn.carried, *turn.collected))]
    subgraph = ir.Graph([number, condition, *given], results, nodes=inner.nodes, name=inner.scope)
    return graph.multi_op(
        "Loop",
        count,
        while_true,
        *carried,
        outputs=len(turn.carried) + len(turn.collected),
        attributes={"body": subgraph},
    )


def join(graph: GraphBuilder, texts: ir.Value) -> ir.Value:
    """Strings `[n]` to the one string `[1]` that they make: neighbours are joined until one is left."""
    whole = concat(graph, strings(graph, ""), texts)

    def halve(inner: GraphBuilder, _: ir.Value, given: tuple[ir.Value, ...]) -> Turn:
        (now,) = given
        half = inner.op("Div", inner.op("Add", size(inner, now), integer(inner, 1)), integer(inner, 2))
        stop = inner.op("Mul", inner.op("Reshape", half, ints(inner, 1)), ints(inner, 2))
        even = concat(inner, now, strings(inner, ""))
        first = cut(inner, even, ints(inner, 0), stop, 2)
        second = cut(inner, even, ints(inner, 1), stop, 2)
        joined = inner.op("StringConcat", first, second)
        return Turn(carried=(joined,), go_on=_several(inner, joined))

    (joined,) = loop(graph, [whole], [STRING], halve, while_true=_several(graph, whole))
    return joined


def _several(graph: GraphBuilder, value: ir.Value) -> ir.Value:
    return graph.op("Greater", size(graph, value), integer(graph, 1))


def _empty(graph: GraphBuilder) -> ir.Value:
    """int64 `[0]`: an attribute of no integers has no type."""
    return cut(graph, graph.op("Constant", attributes={"value_ints": [0]}), ints(graph, 1), ints(graph, 1))
