"""White space around special tokens that take it along, `lstrip` and `rstrip` in a `tokenizer.json`: <mask>, mostly."""

from __future__ import annotations

import onnx_ir as ir

from edgeq.lowering.onnx.graph import MICROSOFT, Attributes, GraphBuilder
from edgeq.lowering.onnx.text.builder import (
    INT64,
    STRING,
    Turn,
    concat,
    cut,
    flat,
    integer,
    ints,
    join,
    loop,
    size,
    strings,
)
from edgeq.lowering.onnx.text.code_points import WHITESPACE, character_class, code_points
from edgeq.lowering.onnx.text.specification import Specification

CHARACTERS: Attributes = {"mark": 0, "mincharnum": 1, "pad_value": "", "separators": [""]}
"""Attributes with which ONNX Runtime's Tokenizer parts strings `[n]` into characters `[n, longest]`."""
_NO_TOKEN = -1


def stripped(graph: GraphBuilder, pieces: ir.Value, special: ir.Value, specification: Specification) -> ir.Value:
    """The pieces `[n]` without the white space that tokens beside them take. special: ids of those that are tokens."""
    pattern = character_class(code_points({"pre_tokenizer": WHITESPACE}).spaces)
    none = ints(graph, _NO_TOKEN)
    following = concat(graph, cut(graph, special, ints(graph, 1), graph.op("Shape", special)), none)
    before = concat(graph, none, cut(graph, special, ints(graph, 0), ints(graph, -1)))
    ends = _one_of(graph, following, specification.strips_left)
    starts = _one_of(graph, before, specification.strips_right)

    def one(inner: GraphBuilder, number: ir.Value, given: tuple[ir.Value, ...]) -> Turn:
        index = inner.op("Reshape", number, ints(inner, 1))
        letters = inner.op("Tokenizer", inner.op("Gather", pieces, index), attributes=CHARACTERS, domain=MICROSOFT)
        row = flat(inner, letters)
        is_word = inner.op("Not", inner.op("RegexFullMatch", row, attributes={"pattern": pattern}))
        words = inner.op("Cast", is_word, attributes={"to": int(INT64)})
        left = inner.op("Greater", inner.op("CumSum", words, integer(inner, 0)), integer(inner, 0))
        right = inner.op("CumSum", words, integer(inner, 0), attributes={"reverse": 1})
        right = inner.op("Greater", right, integer(inner, 0))
        keep_left = inner.op("Or", left, inner.op("Not", inner.op("Gather", starts, index)))
        keep_right = inner.op("Or", right, inner.op("Not", inner.op("Gather", ends, index)))
        kept = inner.op("Compress", row, inner.op("And", keep_left, keep_right), attributes={"axis": 0})
        return Turn(carried=(concat(inner, given[0], join(inner, kept)),))

    nothing = cut(graph, strings(graph, ""), ints(graph, 1), ints(graph, 1))
    (found,) = loop(graph, [nothing], [STRING], one, count=size(graph, pieces))
    return found


def _one_of(graph: GraphBuilder, ids: ir.Value, chosen: tuple[int, ...]) -> ir.Value:
    """Whether each id is one of the chosen, bool `[n]`."""
    pairs = graph.op("Equal", graph.op("Unsqueeze", ids, ints(graph, 1)), ints(graph, *(chosen or (_NO_TOKEN - 1,))))
    counts = graph.op(
        "ReduceSum", graph.op("Cast", pairs, attributes={"to": int(INT64)}), ints(graph, 1), attributes={"keepdims": 0}
    )
    return graph.op("Greater", counts, integer(graph, 0))
