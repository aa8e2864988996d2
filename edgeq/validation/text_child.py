"""The part of the child that reads text: what a bundle's text graphs make of texts, with the model beside them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.core.artifact import TextGraphs
from edgeq.core.records import from_plain
from edgeq.files import save_array
from edgeq.runtimes.generation import Opening
from edgeq.runtimes.onnxruntime import open_generator
from edgeq.runtimes.opening import read_interface
from edgeq.runtimes.text import DetokenizerGraph, TextEncoder, TokenizerGraph

ANSWERS = "text.json"
BATCH = 8
CONTINUED = 16
"""Tokens that a decoder adds to a text, for its memory beside the tokenizer's."""


def answer_texts(request: dict[str, Any], output: Path, begin: Callable[[str], None]) -> dict[str, Any]:
    """Open the graphs and answer: ids of `texts`, texts of `rows`, and an encoder's answers to `sentences`.

    Writes `text.json` and one array per sentence into `output`. Raises CorruptInputError, RuntimeUnavailableError.
    """
    graphs = from_plain(TextGraphs, request["text"], "text")
    threads = int(request["threads"])
    if graphs.model is not None:
        return _answer_encoder(TextEncoder(Path(graphs.model), threads=threads), request, output, begin)
    tokenizer = TokenizerGraph(Path(str(graphs.tokenizer)), threads=threads)
    detokenizer = DetokenizerGraph(Path(str(graphs.detokenizer)), threads=threads)
    interface = read_interface(request["interface"])
    generator = open_generator(Path(request["model"]), interface, Opening(threads=threads))
    begin("tokenize")
    ids = [tokenizer.encode(text) for text in request["texts"]]
    begin("detokenize")
    spelled = [detokenizer.decode(row) for row in request["rows"]]
    begin("decode")
    prompt = next((row for row in ids if 0 < len(row) <= interface.context_length - CONTINUED), None)
    if prompt is not None:
        detokenizer.decode(list(generator.generate_tokens(prompt, max_new_tokens=CONTINUED)))
    _write(output, ids, spelled)
    return {}


def _answer_encoder(
    encoder: TextEncoder, request: dict[str, Any], output: Path, begin: Callable[[str], None]
) -> dict[str, Any]:
    begin("encode")
    sentences: list[str] = request["sentences"]
    answers = output / "artifact"
    answers.mkdir()
    for index, sentence in enumerate(sentences):
        save_array(answers / f"{index:04d}.npy", encoder.encode([sentence])[0])
    _write(output, [encoder.ids(text) for text in request["texts"]], [])
    return {"batch_cosine_min": _batch_cosine(encoder, sentences[:BATCH], answers)} if sentences else {}


def _batch_cosine(encoder: TextEncoder, sentences: list[str], answers: Path) -> float:
    """The smallest cosine of a sentence within a batch and the same one alone."""
    smallest = 1.0
    for index, together in enumerate(encoder.encode(sentences)):
        alone = np.load(answers / f"{index:04d}.npy").ravel()
        same = together.ravel()[: alone.size]
        norm = float(np.linalg.norm(alone)) * float(np.linalg.norm(same))
        smallest = min(smallest, float(alone @ same) / norm if norm else 0.0)
    return smallest


def _write(output: Path, ids: list[list[int]], spelled: list[str]) -> None:
    (output / ANSWERS).write_text(json.dumps({"ids": ids, "spelled": spelled}), encoding="utf-8")
