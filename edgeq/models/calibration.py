"""The token sequences that calibrated methods learn from: the user's text, the model's own, or edgeq's sentences."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

from edgeq.core.model import ModelInfo
from edgeq.core.task import takes_pixels
from edgeq.errors import UsageError
from edgeq.models.self_text import write_sequences
from edgeq.models.tokens import (
    DATA,
    Encode,
    checked,
    load_tokenizer,
    prefix_of,
    random_sequences,
    read_text,
    truncated,
    vocabulary_size,
    windows,
)
from edgeq.progress import Advance

LARGEST_TEXT = 16 * 2**20
BUILT_IN = "calibration.txt"
SEED = 1
JSONL = ".jsonl"

T = TypeVar("T")


def calibration_inputs(
    directory: Path,
    info: ModelInfo,
    text: Path | None = None,
    *,
    sequences: int,
    length: int,
    progress: Advance | None = None,
) -> tuple[tuple[int, ...], ...]:
    """At most `sequences` token sequences of at most `length` tokens (and of the model's context), always the same.

    `text` is a UTF-8 file, of which the first 16 MiB are read: language models take windows spread over it, each behind
    what the tokenizer puts before a text; encoders take its lines. In a `.jsonl` file each line is {"text": ...} or a
    list of token ids. None: a language model writes the sequences itself (the whole float model is in memory
    meanwhile, `progress` hears of its tokens), an encoder takes edgeq's own sentences, which the evaluation never uses.
    Raises UsageError for a text that is too short or unreadable and for models of images, CorruptInputError for
    ids outside the vocabulary.
    """
    if takes_pixels(info.task):
        raise UsageError(
            "edgeq does not calibrate models of images.", remedy="Use a method without calibration: mse, rtn or hqq."
        )
    length = min(length, info.context_length or length)
    vocabulary = vocabulary_size(info)
    encode = load_tokenizer(directory)
    is_encoder = info.task != "text-generation"
    if text is not None and text.suffix == JSONL:
        found = _spread(_documents(text, encode, length, whole=is_encoder), sequences)
    elif text is not None:
        found = _from_text(text, _needed(encode, text), sequences, length, lines=is_encoder)
    elif not is_encoder:
        prefix = () if encode is None else prefix_of(encode)
        found = write_sequences(directory, info, prefix, sequences=sequences, length=length, progress=progress)
    elif encode is None:
        return random_sequences(vocabulary, [min(length, 8 + index % 56) for index in range(sequences)], seed=SEED)
    else:
        found = tuple(truncated(encode, sentence, length) for sentence in _sentences(sequences))
    return checked(found, vocabulary)


def _from_text(text: Path, encode: Encode, sequences: int, length: int, *, lines: bool) -> tuple[tuple[int, ...], ...]:
    content = read_text(text, LARGEST_TEXT)
    if not lines:
        return windows(encode, content, length, sequences * length)
    chosen = _spread([line for line in content.splitlines() if line.strip()], sequences)
    return tuple(truncated(encode, line, length) for line in chosen)


def _sentences(count: int) -> tuple[str, ...]:
    """Built-in sentences; where more are asked for than there are, pairs of them, each pair once."""
    lines = read_text(DATA / BUILT_IN, LARGEST_TEXT).splitlines()
    pairs = ((first, (first + apart) % len(lines)) for apart in range(1, len(lines)) for first in range(len(lines)))
    more = [f"{lines[first]} {lines[second]}" for first, second in islice(pairs, max(0, count - len(lines)))]
    return (*_spread(lines, count), *more)


def _documents(path: Path, encode: Encode | None, length: int, *, whole: bool) -> list[tuple[int, ...]]:
    """The sequences of a JSONL file: texts in pieces of `length` tokens (`whole`: cut to one), ids cut to `length`."""
    content = read_text(path, LARGEST_TEXT)
    lines = content.splitlines()
    if len(content.encode()) >= LARGEST_TEXT - 3 and len(lines) > 1:
        lines.pop()  # which the end of what is read has cut
    found: list[tuple[int, ...]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        entry = _entry(path, number, line)
        if not isinstance(entry, str):
            found.append(entry[:length])
        elif whole:
            found.append(truncated(_needed(encode, path), entry, length))
        else:
            found += _pieces(_needed(encode, path), entry, length)
    return [sequence for sequence in found if sequence]


def _entry(path: Path, number: int, line: str) -> str | tuple[int, ...]:
    """One line: a text, or token ids. Raises UsageError."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict) and isinstance(value.get("text"), str):
        return str(value["text"])
    if isinstance(value, list) and all(type(token) is int and token >= 0 for token in value):
        return tuple(value)
    raise UsageError(
        f"Line {number} of {path} is neither a text nor token ids.",
        remedy='Write each line as {"text": "..."} or as a list of token ids.',
    )


def _pieces(encode: Encode, text: str, length: int) -> list[tuple[int, ...]]:
    ids, prefix = encode(text, False), prefix_of(encode)
    step = max(1, length - len(prefix))
    pieces = [(*prefix, *ids[start : start + step]) for start in range(0, len(ids), step)]
    return [piece for piece in pieces if len(piece) > 1]  # one token predicts nothing


def _needed(encode: Encode | None, path: Path) -> Encode:
    if encode is None:
        raise UsageError(
            f"The model has no tokenizer to read {path} with.",
            remedy="Add tokenizer.json, or give token ids: one list per line of a .jsonl file.",
        )
    return encode


def _spread(entries: Sequence[T], count: int) -> tuple[T, ...]:
    """At most `count` of the entries, evenly spread."""
    count = min(count, len(entries))
    return tuple(entries[index * len(entries) // count] for index in range(count))
