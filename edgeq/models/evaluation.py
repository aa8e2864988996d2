"""The token sequences on which the original and the quantized model are compared; the text is edgeq's own."""

from __future__ import annotations

from pathlib import Path

from edgeq.core.model import ModelInfo
from edgeq.core.task import takes_pixels
from edgeq.errors import UsageError
from edgeq.models.tokens import (
    DATA,
    LARGEST_LOGITS,
    checked,
    load_tokenizer,
    random_sequences,
    read_text,
    truncated,
    vocabulary_size,
    windows,
)

LONGEST_SEQUENCE = 256
TOKENS = 2048
SENTENCES = 64
PICTURES = 32
LARGEST_TEXT = 2**20


def evaluation_inputs(directory: Path, info: ModelInfo, text: Path | None = None) -> tuple[tuple[int, ...], ...]:
    """Token sequences for the model's task, from `text` (UTF-8; one sentence per line for encoders) or built-in text.

    Language models: windows of at most 256 tokens, spread over the text, about 2,048 tokens in all (fewer where the
    logits would pass 600 MB), each behind the begin-of-text token if the tokenizer adds one. Other models of text: at
    most 64 sentences. Models of images: the numbers of 32 pictures (`edgeq.core.images`), one in each sequence. Without
    a tokenizer the ids are random, but always the same.
    Raises UsageError for a text that is too short or unreadable, CorruptInputError for ids outside the vocabulary.
    """
    if takes_pixels(info.task):
        if text is not None:
            raise UsageError("A model of images reads no text.", remedy="Leave --evaluation out.")
        return tuple((number,) for number in range(PICTURES))
    vocabulary = vocabulary_size(info)
    longest = min(LONGEST_SEQUENCE, info.context_length or LONGEST_SEQUENCE)
    encode = load_tokenizer(directory)
    if info.task == "text-generation":
        budget = min(TOKENS, LARGEST_LOGITS // (4 * vocabulary))
        if encode is None:
            return random_sequences(vocabulary, [longest] * max(1, budget // longest), seed=0)
        sequences = windows(encode, read_text(text or DATA / "evaluation.txt", LARGEST_TEXT), longest, budget)
    else:
        if encode is None:
            return random_sequences(vocabulary, [min(longest, 8 + index % 24) for index in range(SENTENCES)], seed=0)
        lines = [line for line in read_text(text or DATA / "sentences.txt", LARGEST_TEXT).splitlines() if line.strip()]
        sequences = tuple(truncated(encode, line, longest) for line in lines[:SENTENCES])
    return checked(sequences, vocabulary)
