"""`golden/golden.json`: a few inputs with the outputs of the dequantized model, for the app's own smoke test."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.core.images import ImageInput, is_mosaic, mosaic
from edgeq.core.model import Task
from edgeq.core.records import to_plain
from edgeq.core.task import TASKS
from edgeq.errors import InternalError

GOLDEN_SCHEMA = 1
CASES = 4
LONGEST = 32
TOP = 5
_LOGIT_TOLERANCE = {1: 0.02, 4: 0.3}
_COSINE_TOLERANCE = {1: 1e-4, 4: 0.02}
_ERROR_TOLERANCE = {1: 1e-2, 4: 0.2}
LARGEST_TENSORS = 8192
"""Numbers of a case, inputs and outputs together: about 100 KB of JSON."""

Floats = npt.NDArray[np.floating]
Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True, kw_only=True)
class NextToken:
    """A prompt, and the most likely next tokens at its last position with their logits, best first."""

    text: str
    input_ids: tuple[int, ...]
    top_ids: tuple[int, ...]
    top_logits: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """A text and its vector: the sentence embedding, or the first token's hidden state where nothing is pooled."""

    text: str
    input_ids: tuple[int, ...]
    embedding: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class TensorValues:
    """A tensor in row-major order. dtype: numpy's name of it."""

    dtype: str
    shape: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class TensorCase:
    """A plain module's inputs and outputs by name."""

    inputs: dict[str, TensorValues]
    outputs: dict[str, TensorValues]


@dataclass(frozen=True, kw_only=True)
class Classes:
    """A text and the logits of its classes: those of the first token where each token has some."""

    text: str
    input_ids: tuple[int, ...]
    logits: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class PictureClasses:
    """A mosaic and the logits of its classes. squares: its 16 x 16 squares in hex, row by row, red first; pixel (y, x)
    of an image of the model's size is of square (16 y / height, 16 x / width), rounded down."""

    squares: str
    logits: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class PictureEmbedding:
    """A mosaic as in PictureClasses, and its vector."""

    squares: str
    embedding: tuple[float, ...]


Case = NextToken | Embedding | Classes | PictureClasses | PictureEmbedding | TensorCase


@dataclass(frozen=True, kw_only=True)
class Golden:
    """The contents of `golden.json`.

    tolerance: for text-generation the largest |difference| of a listed logit, and the app's best token must be one of
    `top_ids`; for classifiers the largest |difference| of a logit; for vectors the largest 1 - cosine; for a module the
    largest relative error of an output. It allows for other kernels, not for other weights. Without cases nothing was
    there to compare with, or tensors too large for such a file, and a smoke test says so instead of passing.
    """

    schema: int = GOLDEN_SCHEMA
    task: Task
    tolerance: float
    cases: tuple[Case, ...]

    def to_json(self) -> str:
        return json.dumps(to_plain(self), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def build_golden(
    task: Task,
    sequences: Sequence[Sequence[int]],
    outputs: Sequence[Floats],
    *,
    decode: Decode,
    accuracy_level: int,
    image: ImageInput | None = None,
) -> Golden:
    """Golden cases out of the dequantized reference.

    outputs holds one array per sequence: logits `[tokens, vocabulary]`, an embedding `[dimension]`, hidden states
    `[tokens, dimension]`, or logits of classes `[labels]`, `[tokens, labels]`. image: what a model of images takes;
    its sequences are numbers of pictures. accuracy_level is the target's and sets how far other kernels may differ.
    Raises InternalError where there is nothing to choose from.
    """
    if not sequences or len(sequences) != len(outputs):
        raise InternalError("The reference run left no outputs for the golden file.", remedy="Report this.")
    if task == "text-generation":
        return _next_tokens(sequences, outputs, decode, accuracy_level)
    tolerance = _COSINE_TOLERANCE[accuracy_level]
    if TASKS[task].is_classifier:
        size = float(np.sqrt(np.mean([np.mean(np.square(output, dtype=np.float64)) for output in outputs])))
        tolerance = _short(_LOGIT_TOLERANCE[accuracy_level] * size)
    chosen = _readable(sequences) if image is None else _drawable(sequences)
    cases = tuple(_case(task, sequences[index], outputs[index], decode, image) for index in chosen)
    return Golden(task=task, tolerance=tolerance, cases=cases)


def module_golden(
    inputs: Mapping[str, npt.NDArray[Any]], outputs: Mapping[str, npt.NDArray[Any]], *, accuracy_level: int
) -> Golden:
    """One case of a plain module, none where its tensors are larger than LARGEST_TENSORS."""
    fits = sum(values.size for values in (*inputs.values(), *outputs.values())) <= LARGEST_TENSORS
    given, said = ({name: _tensor(values) for name, values in side.items()} for side in (inputs, outputs))
    cases = (TensorCase(inputs=given, outputs=said),) if fits else ()
    return Golden(task="module", tolerance=_ERROR_TOLERANCE[accuracy_level], cases=cases)


def _tensor(values: npt.NDArray[Any]) -> TensorValues:
    return TensorValues(dtype=str(values.dtype), shape=values.shape, values=tuple(values.ravel().tolist()))


def text_decoder(tokenizer: Path | None) -> Decode:
    """Token ids to text with a `tokenizer.json`; without one every text is empty."""
    if tokenizer is None or not tokenizer.is_file():
        return lambda ids: ""
    from tokenizers import Tokenizer

    loaded = Tokenizer.from_file(str(tokenizer))
    return lambda ids: str(loaded.decode(list(ids), skip_special_tokens=True))


def _next_tokens(
    sequences: Sequence[Sequence[int]], outputs: Sequence[Floats], decode: Decode, accuracy_level: int
) -> Golden:
    cases, spreads = [], []
    for index, chosen in enumerate(_spread(len(sequences))):
        # A causal model's logits at position n depend on the first n tokens alone: prefixes are cases of their own.
        length = min(len(sequences[chosen]), LONGEST * (index + 1) // CASES)
        logits = np.asarray(outputs[chosen][length - 1], dtype=np.float64)
        top = np.argsort(-logits, kind="stable")[:TOP]
        ids = tuple(int(token) for token in sequences[chosen][:length])
        spreads.append(float(logits.std()))
        cases.append(
            NextToken(
                text=decode(ids),
                input_ids=ids,
                top_ids=tuple(int(token) for token in top),
                top_logits=tuple(_short(logits[token]) for token in top),
            )
        )
    tolerance = _short(_LOGIT_TOLERANCE[accuracy_level] * float(np.mean(spreads)))
    return Golden(task="text-generation", tolerance=tolerance, cases=tuple(cases))


def _case(task: Task, sequence: Sequence[int], output: Floats, decode: Decode, image: ImageInput | None) -> Case:
    """One answer as it is to be: of several tokens the first one's."""
    values = tuple(_short(value) for value in (output if output.ndim == 1 else output[0]))
    classes = TASKS[task].is_classifier
    if image is not None:
        squares = mosaic(sequence[0], image.channels).tobytes().hex()
        if classes:
            return PictureClasses(squares=squares, logits=values)
        return PictureEmbedding(squares=squares, embedding=values)
    ids = tuple(int(token) for token in sequence)
    if classes:
        return Classes(text=decode(ids), input_ids=ids, logits=values)
    return Embedding(text=decode(ids), input_ids=ids, embedding=values)


def _drawable(sequences: Sequence[Sequence[int]]) -> list[int]:
    """Pictures that a file of golden cases can hold."""
    fitting = [index for index, sequence in enumerate(sequences) if is_mosaic(sequence[0])]
    return [fitting[position] for position in _spread(len(fitting))]


def _readable(sequences: Sequence[Sequence[int]]) -> list[int]:
    """Short texts."""
    shortest_first = sorted(range(len(sequences)), key=lambda index: len(sequences[index]))
    fitting = [index for index in range(len(sequences)) if len(sequences[index]) <= LONGEST] or shortest_first[:CASES]
    return [fitting[position] for position in _spread(len(fitting))]


def _spread(count: int) -> list[int]:
    """Up to CASES indices, evenly over `count`, each once."""
    wanted = min(CASES, count)
    return [index * count // wanted for index in range(wanted)]


def _short(value: float) -> float:
    """Six significant digits: enough for a smoke test, and the same on machines that round the last bit otherwise."""
    return float(f"{float(value):.6g}")
