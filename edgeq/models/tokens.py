"""From text to token sequences: tokenizers, windows of a text, whole sentences."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeq.core.model import ModelInfo
from edgeq.errors import CorruptInputError, UsageError
from edgeq.models.checkpoint import inside

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENIZER_FILE = "tokenizer.json"
OTHER_TOKENIZERS = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt")
DATA = Path(__file__).parent / "data"
LARGEST_LOGITS = 600 * 10**6
"""Bytes of float32 logits that are in memory at once, where the number of tokens is ours to choose."""

Encode = Callable[[str, bool], list[int]]
"""`(text, with_special_tokens)` to token ids."""


def vocabulary_size(info: ModelInfo) -> int:
    """How many tokens the model knows: the rows of its word table."""
    tables = [weight.shape[0] for weight in info.weights.values() if weight.role in ("embedding", "head")]
    if not tables:
        raise UsageError(f"{info.architecture} has no word embeddings.", remedy="Use a model that reads token ids.")
    return max(tables)


def load_tokenizer(directory: Path) -> Encode | None:
    """tokenizer.json through the tokenizers library; other files through transformers; None where there are none.

    Truncation and padding that the file asks for are switched off. Raises CorruptInputError.
    """
    try:
        if (directory / TOKENIZER_FILE).exists():
            return _fast_tokenizer(inside(directory, TOKENIZER_FILE))
        if any((directory / name).exists() for name in OTHER_TOKENIZERS):
            return _slow_tokenizer(directory)
    except (CorruptInputError, MemoryError):
        raise
    except Exception as error:  # the tokenizers library raises bare Exception
        raise CorruptInputError(
            f"The tokenizer of {directory} cannot be opened ({str(error).strip()[:200]}).",
            remedy="Copy or download the tokenizer files again.",
        ) from error
    return None


def _fast_tokenizer(path: Path) -> Encode:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def encode(text: str, with_special_tokens: bool) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=with_special_tokens).ids
        return ids

    return encode


def _slow_tokenizer(directory: Path) -> Encode:
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        directory, local_files_only=True, trust_remote_code=False
    )

    def encode(text: str, with_special_tokens: bool) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=with_special_tokens, verbose=False))

    return encode


def read_text(path: Path, most: int) -> str:
    """The first `most` bytes of a UTF-8 file. Raises UsageError."""
    try:
        with path.open("rb") as stream:
            data = stream.read(most)
        # The cut may go through a character; the end of the file may not.
        return codecs.getincrementaldecoder("utf-8")().decode(data, final=len(data) < most)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.reason
        raise UsageError(f"{path} cannot be read ({reason}).", remedy="Name a UTF-8 text file.") from error


def windows(encode: Encode, text: str, longest: int, budget: int) -> tuple[tuple[int, ...], ...]:
    """Windows spread evenly over the text, each behind what the tokenizer puts before a text."""
    ids = encode(text, False)
    prefix = prefix_of(encode)
    length = longest - len(prefix)
    if len(ids) < 2 or length < 2:
        raise UsageError("The text is too short.", remedy="Name a longer text.")
    starts = list(range(0, len(ids) - 1, length))
    count = max(1, min(len(starts), budget // longest))
    chosen = [starts[index * len(starts) // count] for index in range(count)]
    return tuple((*prefix, *ids[start : start + length]) for start in chosen)


def prefix_of(encode: Encode) -> list[int]:
    """The special tokens that the tokenizer adds before a text."""
    plain, complete = encode("a", False), encode("a", True)
    for start in range(len(complete) - len(plain) + 1):
        if complete[start : start + len(plain)] == plain:
            return complete[:start]
    return []


def truncated(encode: Encode, sentence: str, longest: int) -> tuple[int, ...]:
    """The sentence with its special tokens; words are dropped from its end where it is too long."""
    complete = encode(sentence, True)
    if len(complete) > longest:
        plain = encode(sentence, False)
        special = len(complete) - len(plain)
        prefix = prefix_of(encode)
        suffix = complete[len(prefix) + len(plain) :]
        complete = [*prefix, *plain[: longest - special], *suffix]
    return tuple(complete)


def random_sequences(vocabulary: int, lengths: list[int], *, seed: int) -> tuple[tuple[int, ...], ...]:
    """Ids that nothing but the vocabulary limits, always the same."""
    generator = np.random.default_rng(seed)
    return tuple(tuple(generator.integers(0, vocabulary, length).tolist()) for length in lengths)


def checked(sequences: tuple[tuple[int, ...], ...], vocabulary: int) -> tuple[tuple[int, ...], ...]:
    """The sequences, where each holds tokens and the model knows them all. Raises UsageError, CorruptInputError."""
    largest = max((max(sequence, default=0) for sequence in sequences), default=-1)
    if largest < 0 or not all(sequences):
        raise UsageError("The text gives no tokens.", remedy="Name a text with sentences in it.")
    if largest >= vocabulary:
        raise CorruptInputError(
            f"The tokenizer gives the id {largest}, but the model knows only {vocabulary} tokens.",
            remedy="Use the tokenizer that belongs to this model.",
        )
    return sequences
