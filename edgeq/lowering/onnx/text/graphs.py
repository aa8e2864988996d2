"""Whole graphs: text to ids, one text or a batch of them, and ids back to text."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from edgeq.lowering.onnx.graph import MICROSOFT, GraphBuilder
from edgeq.lowering.onnx.model import IR_VERSION, OPSET
from edgeq.lowering.onnx.text.builder import (
    EXTENSIONS,
    INT64,
    ML,
    STRING,
    Turn,
    concat,
    cut,
    flat,
    integer,
    ints,
    loop,
    size,
    strings,
)
from edgeq.lowering.onnx.text.detokenizer import decode
from edgeq.lowering.onnx.text.pieces import Encode, encoder
from edgeq.lowering.onnx.text.specification import Specification
from edgeq.lowering.onnx.text.stripping import stripped

OPSETS = {"": OPSET, MICROSOFT: 1, EXTENSIONS: 1, ML: 4}
TEXT, IDS, MASK = "text", "input_ids", "attention_mask"
_NO_TOKEN = -1


def text_input(dimension: str | int) -> ir.Value:
    """The strings that an app passes."""
    return ir.Value(name=TEXT, type=ir.TensorType(STRING), shape=ir.Shape([dimension]))


def tokenizer_model(specification: Specification) -> ir.Model:
    """One text `[1]` to `input_ids` and `attention_mask`, int64 `[1, n]`, not cut at any length."""
    graph = GraphBuilder()
    graph.scope = "tokenizer"
    text = text_input(1)
    ids = _encode(graph, text, specification, encoder(specification), longest=None)
    row = graph.op("Unsqueeze", ids, ints(graph, 0))
    mask = graph.op("Expand", ints(graph, 1), graph.op("Shape", row))
    return model_of(graph, [text], {IDS: row, MASK: mask}, [1, "length"])


def batch_tokenizer(
    graph: GraphBuilder, text: ir.Value, specification: Specification, longest: int
) -> dict[str, ir.Value]:
    """Texts `[batch]` to what an encoder reads, int64 `[batch, n]`: cut to `longest` tokens, padded on the right."""
    encode = encoder(specification)

    def one(inner: GraphBuilder, number: ir.Value, _: tuple[ir.Value, ...]) -> Turn:
        chosen = inner.op("Gather", text, inner.op("Reshape", number, ints(inner, 1)))
        ids = _encode(inner, chosen, specification, encode, longest=longest)
        length = inner.op("Shape", ids)
        missing = inner.op("Sub", ints(inner, longest), length)
        padded = inner.op("Pad", ids, concat(inner, ints(inner, 0), missing))
        return Turn(carried=(), collected=(padded, length))

    rows, lengths = loop(graph, [], [], one, count=size(graph, text))
    most = graph.op("ReduceMax", lengths, attributes={"keepdims": 0})
    ids = graph.op("Slice", rows, ints(graph, 0), graph.op("Reshape", most, ints(graph, 1)), ints(graph, 1))
    places = graph.op("Range", integer(graph, 0), most, integer(graph, 1))
    mask = graph.op("Cast", graph.op("Less", places, lengths), attributes={"to": int(INT64)})
    return {IDS: ids, MASK: mask, "token_type_ids": graph.op("Mul", ids, ints(graph, 0))}


def detokenizer_model(specification: Specification) -> ir.Model:
    """`ids` int64 `[n]` to one `text` `[1]`, without special tokens."""
    graph = GraphBuilder()
    graph.scope = "detokenizer"
    ids = ir.Value(name="ids", type=ir.TensorType(INT64), shape=ir.Shape(["length"]))
    return model_of(graph, [ids], {TEXT: decode(graph, ids, specification)}, [1])


def model_of(
    graph: GraphBuilder, inputs: Sequence[ir.Value], outputs: dict[str, ir.Value], shape: list[int | str]
) -> ir.Model:
    """A model of its own. The outputs are of one shape; text is a string, all else int64."""
    for name, value in outputs.items():
        value.name = name
        value.type = ir.TensorType(STRING if name == TEXT else INT64)
        value.shape = ir.Shape(shape)
    whole = ir.Graph(
        inputs,
        list(outputs.values()),
        nodes=graph.nodes,
        initializers=list(graph.initializers.values()),
        opset_imports=OPSETS,
        name=graph.scope,
    )
    return ir.Model(whole, ir_version=IR_VERSION, producer_name="edgeq")


def _encode(
    graph: GraphBuilder, text: ir.Value, specification: Specification, encode: Encode, *, longest: int | None
) -> ir.Value:
    """One text `[1]` to all its ids `[n]`, of which there are at most `longest`."""
    pieces, special = _pieces(graph, text, specification.special)
    if specification.strips_left or specification.strips_right:
        pieces = stripped(graph, pieces, special, specification)

    def one(inner: GraphBuilder, number: ir.Value, given: tuple[ir.Value, ...]) -> Turn:
        index = inner.op("Reshape", number, ints(inner, 1))
        token = inner.op("Gather", special, index)
        is_token = inner.op("Greater", token, ints(inner, _NO_TOKEN))
        found = encode(inner, inner.op("Gather", pieces, index))
        return Turn(
            carried=(concat(inner, given[0], found, inner.op("Compress", token, is_token, attributes={"axis": 0})),)
        )

    (ids,) = loop(graph, [ints(graph)], [INT64], one, count=size(graph, pieces))
    if longest is not None:
        room = max(0, longest - len(specification.prefix) - len(specification.suffix))
        ids = cut(graph, ids, ints(graph, 0), ints(graph, room))
    around = [ints(graph, *part) if part else None for part in (specification.prefix, specification.suffix)]
    parts = [part for part in (around[0], ids, around[1]) if part is not None]
    return concat(graph, *parts) if len(parts) > 1 else ids


def _pieces(graph: GraphBuilder, text: ir.Value, tokens: Sequence[tuple[str, int]]) -> tuple[ir.Value, ir.Value]:
    """A text `[1]`, parted at special tokens: strings `[n]`, and the ids of special tokens, -1 for all other pieces.

    A special token's piece is the empty string.
    """
    pieces, special = text, ints(graph, _NO_TOKEN)
    for token, index in tokens:
        pieces, special = _part(graph, pieces, special, token, index)
    return pieces, special


def _part(
    graph: GraphBuilder, pieces: ir.Value, special: ir.Value, token: str, index: int
) -> tuple[ir.Value, ir.Value]:
    """Part every piece at one token.

    pieces [n] -> StringSplit -> [n, k] -> each followed by the token -> [n, k, 2] -> those that are there, in a row
    """
    found, counts = graph.multi_op("StringSplit", pieces, outputs=2, attributes={"delimiter": token})
    # One column more than the most parts: where all pieces are empty there would be none.
    column = graph.op("Expand", strings(graph, ""), graph.op("Shape", graph.op("Unsqueeze", pieces, ints(graph, 1))))
    texts = concat(graph, found, column, axis=1)
    shape = graph.op("Shape", texts)
    columns = graph.op("Squeeze", cut(graph, shape, ints(graph, 1), ints(graph, 2)))
    places = graph.op("Range", integer(graph, 0), columns, integer(graph, 1))
    count = graph.op("Unsqueeze", counts, ints(graph, 1))
    # An empty piece stays one: it may stand for a special token that was found before.
    is_piece = graph.op("Less", places, graph.op("Max", count, ints(graph, 1)))
    is_token = graph.op("Less", places, graph.op("Sub", count, ints(graph, 1)))
    before = graph.op("Unsqueeze", special, ints(graph, 1))
    nothing = graph.op("Expand", strings(graph, ""), shape)
    ids = graph.op("Expand", before, shape)
    token_ids = graph.op("Expand", ints(graph, index), shape)
    there = _in_turn(graph, is_piece, is_token)
    return (
        graph.op("Compress", _in_turn(graph, texts, nothing), there, attributes={"axis": 0}),
        graph.op("Compress", _in_turn(graph, ids, token_ids), there, attributes={"axis": 0}),
    )


def _in_turn(graph: GraphBuilder, first: ir.Value, second: ir.Value) -> ir.Value:
    """Two tables as one row, an element of each in turn."""
    pair = [graph.op("Unsqueeze", value, ints(graph, 2)) for value in (first, second)]
    return flat(graph, concat(graph, *pair, axis=2))
