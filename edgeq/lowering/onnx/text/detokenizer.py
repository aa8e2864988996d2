"""Ids of byte-level BPE to text, of ONNX Runtime's own operators: bytes in a row, and UTF-8 out of them.

The extensions' BpeDecoder ends a text at NUL, writes half a character where ids end within one, and divides by the
number of ids. Here, as in the tokenizer itself, what is no UTF-8 becomes U+FFFD: one for each longest beginning of a
character, as the Unicode Standard recommends (chapter 3.9, table 3-11).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeq.lowering.onnx.graph import GraphBuilder
from edgeq.lowering.onnx.text.builder import INT64, concat, cut, flat, integer, ints, join, strings
from edgeq.lowering.onnx.text.specification import Specification, unsupported

REPLACEMENT = "\ufffd"
_BYTES = 256
_CONTINUATION = (0x80, 0xBF)
_SECOND = {0xE0: (0xA0, 0xBF), 0xED: (0x80, 0x9F), 0xF0: (0x90, 0xBF), 0xF4: (0x80, 0x8F)}
"""The bytes that may follow these first ones; all others are followed by any continuation byte (table 3-7)."""
_LONGEST = 4


def decode(graph: GraphBuilder, ids: ir.Value, specification: Specification) -> ir.Value:
    """Ids int64 `[n]` to one string `[1]`. Raises UnsupportedModelError for a vocabulary that is not byte-level."""
    read = _bytes(graph, ids, _spelling(specification))
    needed = graph.op("Gather", graph.constant(_needed()), read)
    found = _found(graph, read, needed)
    is_whole = graph.op("And", _positive(graph, needed), graph.op("Equal", found, needed))
    is_inside, is_inside_whole = _inside(graph, needed, found, is_whole)
    letters = graph.op("Gather", _single_bytes(graph), read)
    otherwise = graph.op("Where", is_inside, strings(graph, ""), strings(graph, REPLACEMENT))
    return join(graph, graph.op("Where", graph.op("Or", is_whole, is_inside_whole), letters, otherwise))


def _bytes(graph: GraphBuilder, ids: ir.Value, spelling: list[bytes]) -> ir.Value:
    """The bytes of all ids in a row, int64 `[m]`; ids that nothing is known of have none."""
    starts = np.cumsum([0, *(len(token) for token in spelling)]).astype(np.int64)
    together = np.frombuffer(b"".join(spelling) + b"\0", dtype=np.uint8)
    last = len(spelling) - 1
    known = graph.op("Clip", ids, integer(graph, 0), integer(graph, last))
    start = graph.op("Unsqueeze", graph.op("Gather", graph.constant(starts), known), ints(graph, 1))
    after = graph.op("Add", known, ints(graph, 1))
    stop = graph.op("Unsqueeze", graph.op("Gather", graph.constant(starts), after), ints(graph, 1))
    length = graph.op("Sub", stop, start)
    most = graph.op("ReduceMax", concat(graph, flat(graph, length), ints(graph, 0)), attributes={"keepdims": 0})
    places = graph.op("Range", integer(graph, 0), most, integer(graph, 1))
    is_known = graph.op("Unsqueeze", graph.op("Equal", ids, known), ints(graph, 1))
    is_there = graph.op("And", graph.op("Less", places, length), is_known)
    index = graph.op("Where", is_there, graph.op("Add", start, places), integer(graph, 0))
    table = graph.op("Gather", graph.constant(together), index)
    found = graph.op("Compress", flat(graph, table), flat(graph, is_there), attributes={"axis": 0})
    return graph.op("Cast", found, attributes={"to": int(INT64)})


def _found(graph: GraphBuilder, read: ir.Value, needed: ir.Value) -> ir.Value:
    """How many bytes of a character are there from each byte on, if one begins there: itself, and those that fit."""
    second = _ahead(graph, read, 1)
    lowest, highest = (graph.op("Gather", graph.constant(table), read) for table in _seconds())
    third, fourth = (
        _between(graph, _ahead(graph, read, distance), *(integer(graph, end) for end in _CONTINUATION))
        for distance in (2, 3)
    )
    fits = (_between(graph, second, lowest, highest), third, fourth)
    count = integer(graph, 1)
    for position in range(_LONGEST, 1, -1):
        asked = graph.op("GreaterOrEqual", needed, integer(graph, position))
        fitting = graph.op("Cast", graph.op("And", asked, fits[position - 2]), attributes={"to": int(INT64)})
        count = graph.op("Add", graph.op("Mul", count, fitting), integer(graph, 1))
    return count


def _inside(graph: GraphBuilder, needed: ir.Value, found: ir.Value, is_whole: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Whether each byte continues what a byte before it began, and whether that is a whole character."""
    begins = _positive(graph, needed)
    parts, wholes = [], []
    for distance in range(1, _LONGEST):
        reach = graph.op("Greater", _behind(graph, found, distance), integer(graph, distance))
        part = graph.op("And", reach, _flag_behind(graph, begins, distance))
        parts.append(part)
        wholes.append(graph.op("And", part, _flag_behind(graph, is_whole, distance)))
    return tuple(graph.op("Or", graph.op("Or", one, two), three) for one, two, three in (parts, wholes))  # type: ignore[return-value]


def _flag_behind(graph: GraphBuilder, flags: ir.Value, distance: int) -> ir.Value:
    return _positive(graph, _behind(graph, graph.op("Cast", flags, attributes={"to": int(INT64)}), distance))


def _ahead(graph: GraphBuilder, values: ir.Value, distance: int) -> ir.Value:
    """The value so many places further on; 0 beyond the end."""
    longer = concat(graph, values, ints(graph, *[0] * distance))
    return cut(graph, longer, ints(graph, distance), ints(graph, np.iinfo(np.int64).max))


def _behind(graph: GraphBuilder, values: ir.Value, distance: int) -> ir.Value:
    """The value so many places before; 0 before the start."""
    return cut(graph, concat(graph, ints(graph, *[0] * distance), values), ints(graph, 0), ints(graph, -distance))


def _between(graph: GraphBuilder, values: ir.Value, lowest: ir.Value, highest: ir.Value) -> ir.Value:
    return graph.op("And", graph.op("GreaterOrEqual", values, lowest), graph.op("LessOrEqual", values, highest))


def _positive(graph: GraphBuilder, values: ir.Value) -> ir.Value:
    return graph.op("Greater", values, integer(graph, 0))


def _needed() -> npt.NDArray[np.int64]:
    """Bytes of the character that each first byte begins; 0 for one that begins none."""
    table = np.zeros(_BYTES, dtype=np.int64)
    table[:0x80], table[0xC2:0xE0], table[0xE0:0xF0], table[0xF0:0xF5] = 1, 2, 3, 4
    return table


def _seconds() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The lowest and the highest second byte for each first one."""
    ends = np.array([_SECOND.get(first, _CONTINUATION) for first in range(_BYTES)], dtype=np.int64)
    return ends[:, 0].copy(), ends[:, 1].copy()


def _single_bytes(graph: GraphBuilder) -> ir.Value:
    """256 strings of one byte each. Only whole characters of them leave the graph."""
    tensor = ir.StringTensor([bytes([value]) for value in range(_BYTES)], shape=ir.Shape([_BYTES]), name="single_bytes")
    value = ir.Value(name=tensor.name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.initializers[str(tensor.name)] = value
    return value


def _spelling(specification: Specification) -> list[bytes]:
    """What each id is written as: nothing for special tokens."""
    decoder = specification.plain.get("decoder") or {}
    if specification.kind != "BPE" or decoder.get("type") != "ByteLevel":
        raise unsupported("only the ids of byte-level BPE can be turned into text")
    byte_of = {letter: byte for byte, letter in enumerate(byte_letters())}
    special = {int(token["id"]) for token in specification.plain.get("added_tokens", []) if token["special"]}
    names = {index: token for token, index in specification.tokenizer.get_vocab(with_added_tokens=True).items()}
    spelling = [b""] * (max(names) + 1)
    for index, token in names.items():
        if index not in special:
            is_bytes = all(letter in byte_of for letter in token)
            spelling[index] = bytes(byte_of[letter] for letter in token) if is_bytes else token.encode()
    return spelling


def byte_letters() -> list[str]:
    """The letter that byte-level BPE writes each byte as: itself where it is printable, else one from U+0100 on."""
    shown = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
    hidden = iter(range(0x100, 0x100 + _BYTES))
    return [chr(byte) if byte in shown else chr(next(hidden)) for byte in range(_BYTES)]
