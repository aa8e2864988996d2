"""The graphs that read text, checked against the tokenizer that they stand for and written beside `model.onnx`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import onnx_ir as ir

from edgeq.core.artifact import Artifact, Interface, TextGraphs
from edgeq.core.model import ModelInfo
from edgeq.core.target import TargetProfile
from edgeq.errors import CorruptInputError
from edgeq.files import write_atomic
from edgeq.lowering.onnx.graph import GraphBuilder
from edgeq.lowering.onnx.model import context_length
from edgeq.lowering.onnx.text.builder import ints, strings
from edgeq.lowering.onnx.text.graphs import (
    IDS,
    OPSETS,
    batch_tokenizer,
    detokenizer_model,
    model_of,
    text_input,
    tokenizer_model,
)
from edgeq.lowering.onnx.text.specification import Specification, read_specification, unsupported
from edgeq.runtimes import extensions
from edgeq.runtimes.hard_texts import first_difference, hard_texts
from edgeq.runtimes.text import DetokenizerGraph, TokenizerGraph

MODEL_FILE = "model_text.onnx"
TOKENIZER_FILE = "tokenizer.onnx"
DETOKENIZER_FILE = "detokenizer.onnx"
_SHOWN = 60


def check_text_graphs(directory: Path, info: ModelInfo, target: TargetProfile) -> None:
    """What a graph would make of texts on which tokenizers differ, before any work is done for the model itself.

    Raises UnsupportedModelError with the first text that the graph reads otherwise than the model's own tokenizer, or
    where there are no operators for it; RuntimeUnavailableError without ONNX Runtime Extensions.
    """
    extensions.library()
    specification = read_specification(directory)
    longest = context_length(info, target)
    texts = hard_texts(specification.tokenizer, longest)
    with tempfile.TemporaryDirectory() as folder:
        try:
            if info.task == "text-generation":
                _check_tokenizer(specification, tokenizer_model(specification), texts, Path(folder))
                _check_detokenizer(specification, texts, Path(folder))
            else:
                specification.tokenizer.enable_truncation(longest)
                _check_tokenizer(specification, _tokenizer_of_encoder(specification, longest), texts, Path(folder))
        except CorruptInputError as error:
            raise unsupported(error.what) from error


def with_text_graphs(artifact: Artifact, source: Path) -> Artifact:
    """Write the graphs into an ONNX artifact's directory: for a decoder `tokenizer.onnx` and `detokenizer.onnx`, for an
    encoder `model_text.onnx`, which shares the data file of `model.onnx`. Raises UnsupportedModelError, OutputError."""
    specification, interface = read_specification(source), artifact.interface
    version = extensions.version()
    if interface.task == "text-generation":
        models = {TOKENIZER_FILE: tokenizer_model(specification), DETOKENIZER_FILE: detokenizer_model(specification)}
        text = TextGraphs(tokenizer=TOKENIZER_FILE, detokenizer=DETOKENIZER_FILE, extensions=version)
    else:
        model = ir.load(artifact.directory / artifact.entry)
        models = {MODEL_FILE: _reading_text(model, specification, interface)}
        text = TextGraphs(model=MODEL_FILE, extensions=version)
    for file, model in models.items():
        write_atomic(artifact.directory / file, partial(ir.save, model))
    return replace(artifact, files=(*artifact.files, *models), text=text)


def _reading_text(model: ir.Model, specification: Specification, interface: Interface) -> ir.Model:
    """An encoder with its tokenizer in front: `text` `[batch]` in, its own outputs and `input_ids` out; of a classifier
    of texts that names its classes also `label`, the likeliest one's name, and its `score`."""
    builder = GraphBuilder()
    builder.scope = "text"
    text = text_input("batch_size")
    made = batch_tokenizer(builder, text, specification, interface.context_length)
    graph = model.graph
    for value in tuple(graph.inputs):
        ir.convenience.replace_all_uses_with(value, made[str(value.name)])
    graph.inputs.clear()
    graph.inputs.append(text)
    graph.insert_before(graph[0], builder.nodes)
    graph.opset_imports.update(OPSETS)
    ids = made[IDS]
    ids.name, ids.type, ids.shape = IDS, ir.TensorType(ir.DataType.INT64), ir.Shape(["batch_size", "sequence_length"])
    graph.outputs.append(ids)
    if interface.task == "text-classification" and interface.labels:
        graph.outputs.extend(_answer(model, interface))
    return model


def _answer(model: ir.Model, interface: Interface) -> tuple[ir.Value, ir.Value]:
    """The name of the class with the largest logit, and its chance: the softmax's, or the sigmoid where each class, or
    the only one, is true or not on its own."""
    builder = GraphBuilder()
    builder.scope = "answer"
    logits = model.graph.outputs[0]
    best = builder.op("ArgMax", logits, attributes={"axis": -1, "keepdims": 0})
    label = builder.op("Gather", strings(builder, *interface.labels), best)
    is_single = interface.multi_label or len(interface.labels) == 1
    chances = builder.op("Sigmoid", logits) if is_single else builder.op("Softmax", logits, attributes={"axis": -1})
    score = builder.op("ReduceMax", chances, ints(builder, -1), attributes={"keepdims": 0})
    for name, value, kind in (("label", label, ir.DataType.STRING), ("score", score, ir.DataType.FLOAT)):
        value.name, value.type, value.shape = name, ir.TensorType(kind), ir.Shape(["batch_size"])
    model.graph.extend(builder.nodes)
    return label, score


def _tokenizer_of_encoder(specification: Specification, longest: int) -> ir.Model:
    """What stands in front of an encoder, alone."""
    builder = GraphBuilder()
    builder.scope = "text"
    text = text_input("batch_size")
    made = batch_tokenizer(builder, text, specification, longest)
    return model_of(builder, [text], made, ["batch_size", "sequence_length"])


def _check_tokenizer(specification: Specification, model: ir.Model, texts: Sequence[str], folder: Path) -> None:
    ir.save(model, folder / TOKENIZER_FILE)
    graph = TokenizerGraph(folder / TOKENIZER_FILE)
    expected = [specification.tokenizer.encode(text).ids for text in texts]
    _refuse_difference(texts, expected, [graph.encode(text) for text in texts])


def _check_detokenizer(specification: Specification, texts: Sequence[str], folder: Path) -> None:
    """Also on ids that end within a text, and so perhaps within a character."""
    ir.save(detokenizer_model(specification), folder / DETOKENIZER_FILE)
    graph = DetokenizerGraph(folder / DETOKENIZER_FILE)
    rows = [specification.tokenizer.encode(text).ids for text in texts]
    ids = [row[:length] for row in rows for length in (len(row), len(row) // 2)]
    texts = tuple(text for text in texts for _ in range(2))
    expected = [specification.tokenizer.decode(row, skip_special_tokens=True) for row in ids]
    _refuse_difference(texts, expected, [graph.decode(row) for row in ids])


def _refuse_difference(texts: Sequence[str], expected: Sequence[object], found: Sequence[object]) -> None:
    at = first_difference(expected, found)
    if at is not None:
        shown = (_short(answer) for answer in (texts[at], found[at], expected[at]))
        raise unsupported("of {} it makes {}, the model's own tokenizer {}".format(*shown))


def _short(answer: object) -> str:
    text = repr(answer)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
