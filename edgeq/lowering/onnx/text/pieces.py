"""A piece of text without special tokens to its ids: an operator of the extensions for each kind of tokenizer.

Android's package of them has fewer operators than others, so only BertTokenizer and HfJsonTokenizer are used; what they
do otherwise than the tokenizer that they stand for is done before them, by ONNX Runtime's own operators.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import assert_never

import onnx_ir as ir

from edgeq.lowering.onnx.graph import MICROSOFT, GraphBuilder
from edgeq.lowering.onnx.text.builder import EXTENSIONS, INT64, ML, cut, flat, integer, ints, join, strings
from edgeq.lowering.onnx.text.code_points import WHITESPACE, CodePoints, character_class, characters, code_points
from edgeq.lowering.onnx.text.specification import NUL, Specification, unsupported
from edgeq.lowering.onnx.text.stripping import CHARACTERS

Encode = Callable[[GraphBuilder, ir.Value], ir.Value]
"""Strings `[1]` to ids int64 `[n]`."""
_BLANK = " "
_PRIVATE = range(0xF0000, 0x10FFFE)
_REFUSED = (NUL, "\ufffe", "\uffff")
_MARK = "\t"
"""A word that no text has, as it parts words itself."""


def encoder(specification: Specification) -> Encode:
    """How the graph encodes one piece. Raises UnsupportedModelError."""
    match specification.kind:
        case "WordPiece":
            return _wordpiece(specification)
        case "BPE" | "Unigram":
            return _from_json(specification)
    assert_never(specification.kind)


def _wordpiece(specification: Specification) -> Encode:
    """Characters as the tokenizer makes them, joined into words, each followed by a mark, which BertTokenizer looks up;
    the special tokens that it puts around them are cut off."""
    points = _standing_in(code_points(specification.plain), set("".join(specification.model["vocab"])))
    attributes = _bert_attributes(specification)
    vocabulary = specification.model["vocab"]
    mark, unknown = len(vocabulary), int(vocabulary[specification.model["unk_token"]])

    def encode(graph: GraphBuilder, text: ir.Value) -> ir.Value:
        joined = join(graph, flat(graph, _characters(graph, text, points)))
        words, _ = graph.multi_op("StringSplit", joined, outputs=2)
        marked = join(graph, graph.op("StringConcat", flat(graph, words), strings(graph, f"{_BLANK}{_MARK}{_BLANK}")))
        ids, _, _ = graph.multi_op("BertTokenizer", marked, outputs=3, attributes=attributes, domain=EXTENSIONS)
        return _whole_words(graph, cut(graph, ids, ints(graph, 1), ints(graph, -1)), mark, unknown)

    return encode


def _whole_words(graph: GraphBuilder, ids: ir.Value, mark: int, unknown: int) -> ir.Value:
    """Ids of marked words without the marks. BertTokenizer keeps the pieces before one that it does not know; a word
    with such a piece is unknown as a whole."""
    is_mark = graph.op("Equal", ids, ints(graph, mark))
    is_unknown = graph.op("Equal", ids, ints(graph, unknown))
    word = graph.op("CumSum", graph.op("Cast", is_mark, attributes={"to": int(INT64)}), integer(graph, 0))
    lost = graph.op("Compress", word, is_unknown, attributes={"axis": 0})
    none_lost = graph.op("Expand", ints(graph, 0), graph.op("Add", graph.op("Shape", ids), ints(graph, 1)))
    ones = graph.op("Expand", ints(graph, 1), graph.op("Shape", lost))
    is_lost = graph.op("Gather", graph.op("ScatterElements", none_lost, lost, ones), word)
    is_kept = graph.op("Or", graph.op("Equal", is_lost, ints(graph, 0)), is_unknown)
    return graph.op("Compress", ids, graph.op("And", is_kept, graph.op("Not", is_mark)), attributes={"axis": 0})


def _characters(graph: GraphBuilder, text: ir.Value, points: CodePoints) -> ir.Value:
    """Strings `[1]` to `[1, n]`: what becomes of each character, with spaces around words of their own."""
    now = read = graph.op("Tokenizer", text, attributes=CHARACTERS, domain=MICROSOFT)
    blank = strings(graph, _BLANK)
    if points.isolated:
        alone = graph.op("StringConcat", graph.op("StringConcat", blank, read), blank)
        now = graph.op("Where", _within(graph, read, points.isolated), alone, now)
    if points.spaces:
        now = graph.op("Where", _within(graph, read, points.spaces), blank, now)
    if points.dropped:
        now = graph.op("Where", _within(graph, read, points.dropped), strings(graph, ""), now)
    if points.replaced:
        table = {
            "keys_strings": list(points.replaced),
            "values_strings": list(points.replaced.values()),
            "default_string": "",
        }
        other = graph.op("LabelEncoder", read, attributes=table, domain=ML)
        now = graph.op("Where", _within(graph, read, characters(points.replaced)), other, now)
    return now


def _within(graph: GraphBuilder, read: ir.Value, ranges: tuple[tuple[int, int], ...]) -> ir.Value:
    return graph.op("RegexFullMatch", read, attributes={"pattern": character_class(ranges)})


def _bert_attributes(specification: Specification) -> dict[str, str | int]:
    """A vocabulary by lines. Ids must count up from 0 without a gap; a token that no word can be is a line too."""
    vocabulary = {int(index): str(token) for token, index in specification.model["vocab"].items()}
    if sorted(vocabulary) != list(range(len(vocabulary))):
        raise unsupported("the ids of its vocabulary have gaps")
    if any(not token or set(token) & set("\r\n") for token in vocabulary.values()):
        raise unsupported("its vocabulary has an empty token or one with a line break")
    unknown = specification.model["unk_token"]
    names = ("sep_token", "pad_token", "cls_token", "mask_token", "unk_token")
    return {
        "vocab_file": "\n".join([*(vocabulary[index] for index in range(len(vocabulary))), _MARK]),
        "suffix_indicator": specification.model["continuing_subword_prefix"],
        "do_basic_tokenize": 0,
        **dict.fromkeys(names, unknown),
    }


def _from_json(specification: Specification) -> Encode:
    """HfJsonTokenizer reads the tokenizer's own JSON; special tokens and ids around a text are the graph's."""
    kept = ("version", "model", "normalizer", "pre_tokenizer", "decoder")
    plain = {key: specification.plain.get(key) for key in kept} | {"added_tokens": []}
    is_llama = specification.model.get("byte_fallback", False)
    name = (
        "XLMRobertaTokenizer" if specification.kind == "Unigram" else "LlamaTokenizer" if is_llama else "GPT2Tokenizer"
    )
    attributes = {
        "tokenizer_config": json.dumps({"tokenizer_class": name, "add_bos_token": False, "add_eos_token": False}),
        "tokenizer_vocab": json.dumps({key: value for key, value in plain.items() if value is not None}),
    }

    points = _before_unigram(specification) if specification.kind == "Unigram" else None

    def encode(graph: GraphBuilder, text: ir.Value) -> ir.Value:
        read = text if points is None else join(graph, flat(graph, _characters(graph, text, points)))
        return flat(graph, graph.op("HfJsonTokenizer", read, attributes=attributes, domain=EXTENSIONS))

    return encode


def _before_unigram(specification: Specification) -> CodePoints:
    """For the operator only U+0020 parts words; and it ends a text at NUL, and refuses one with U+FFFE or U+FFFF."""
    plain = specification.plain
    is_parted = "WhitespaceSplit" in json.dumps(plain.get("pre_tokenizer"))
    points = code_points({"normalizer": plain.get("normalizer"), "pre_tokenizer": WHITESPACE})
    letters = {letter for piece, _ in specification.model["vocab"] for letter in piece}
    only_spaces = replace(points, spaces=points.spaces if is_parted else (), isolated=(), replaced={})
    return _standing_in(only_spaces, letters, also=points.replaced)


def _standing_in(points: CodePoints, letters: set[str], also: Iterable[str] = ()) -> CodePoints:
    """With another character, of which the vocabulary with its `letters` knows as little, for those that the operators
    do not take. also: characters that are changed later, and can stand for nothing."""
    changed = {*also, *points.replaced}
    kept = [one for one in _REFUSED if one not in letters | changed and not points.drops(one)]
    free = map(chr, _PRIVATE)
    stand_in = next(one for one in free if one not in letters | changed and not points.drops(one))
    return replace(points, replaced={**points.replaced, **dict.fromkeys(kept, stand_in)})
