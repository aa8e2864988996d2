"""What every runtime's drivers share: tokens in and out, sampling, batches of sentences; each adds a forward pass."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgeq.core.artifact import Interface
from edgeq.core.target import ComputeUnit, ExecutionProvider
from edgeq.core.task import TASKS
from edgeq.errors import CorruptInputError, UsageError
from edgeq.runtimes.sampling import check_sampling, choose_token

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Opening:
    """How to open a model. threads 0: one per core. Only Core ML has a compute unit to choose, only a browser an
    execution provider. on_start: called by a runtime that has processes of its own, once they are there and hold
    nothing of the model, with their ids."""

    tokenizer_path: Path | None = None
    threads: int = 0
    compute_unit: ComputeUnit = "cpu"
    execution_provider: ExecutionProvider = "wasm"
    on_start: Callable[[tuple[int, ...]], None] | None = None


def load_tokenizer(path: Path) -> Tokenizer:
    """The fast tokenizer in a `tokenizer.json`, without padding. Raises CorruptInputError."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise CorruptInputError(
            f"{path} is not a tokenizer: {first_line(error)}", remedy="Export the bundle again."
        ) from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


class Model:
    """What language models and encoders have in common beside their forward pass."""

    def seconds(self) -> float:
        """A clock for measuring speed; a runtime that is reached through a channel leaves the channel's time out."""
        return time.perf_counter()

    def facts(self) -> dict[str, str]:
        """What a reader of the measurement should know of the runtime's surroundings; mostly nothing."""
        return {}

    def close(self) -> None:
        """End what the runtime started; a model within this process ends with it."""


class TextGenerator(Model, ABC):
    """A causal language model, one sequence at a time; the runtime keeps the cache between steps."""

    def __init__(self, interface: Interface, tokenizer_path: Path | None) -> None:
        self._tokenizer = None if tokenizer_path is None else load_tokenizer(tokenizer_path)
        self.interface = interface
        self.length = 0

    @abstractmethod
    def _append(self, ids: Sequence[int], keep: int) -> Floats:
        """Run the model on checked `ids` after `length` tokens: logits `[keep, vocabulary]`, all for 0."""

    @abstractmethod
    def _forget(self) -> None:
        """Let go of the cache."""

    def reset(self) -> None:
        """Forget the sequence."""
        self.length = 0
        self._forget()

    def forward(self, ids: Sequence[int], *, keep: int = 1) -> Floats:
        """Append `ids` to the sequence; logits `[keep, vocabulary]` of the last `keep` positions, 0 keeps all.

        Raises UsageError where the context length would be exceeded or an id is not in the vocabulary.
        """
        self._check(ids)
        logits = self._append(ids, keep)
        self.length += len(ids)
        return logits

    def prefill(self, ids: Sequence[int], *, keep: int = 1) -> Floats:
        """`forward` of a new sequence."""
        self.reset()
        return self.forward(ids, keep=keep)

    def step(self, token: int) -> Floats:
        """Append one token; logits `[vocabulary]` for the one after it."""
        logits: Floats = self.forward((token,))[-1]
        return logits

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, with the special tokens that the model expects."""
        ids: list[int] = self._text_tokenizer().encode(text).ids
        if not ids and self.interface.begin_of_text_id is not None:
            return [self.interface.begin_of_text_id]
        return ids

    def generate_tokens(
        self,
        ids: Sequence[int],
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Iterator[int]:
        """Continue `ids` until the end-of-text token (not yielded), `max_new_tokens`, or the context is full."""
        check_sampling(temperature, top_p)
        rng = np.random.default_rng(seed)
        room = min(max_new_tokens, self.interface.context_length - len(ids))
        if max_new_tokens > 0 >= room:
            raise self._too_long(len(ids) + 1)
        if room <= 0:
            return
        logits = self.prefill(ids)[-1]
        for remaining in range(room - 1, -1, -1):
            token = choose_token(logits, temperature=temperature, top_p=top_p, rng=rng)
            if token in self.interface.end_of_text_ids:
                return
            yield token
            if remaining:
                logits = self.step(token)

    def stream(
        self, prompt: str, *, max_new_tokens: int = 64, temperature: float = 0.0, top_p: float = 1.0, seed: int = 0
    ) -> Iterator[str]:
        """The continuation of `prompt` in pieces of text, as soon as whole characters are known."""
        from tokenizers.decoders import DecodeStream

        tokenizer = self._text_tokenizer()
        ids = self.encode(prompt)
        # Seeded with the prompt, so that the space before the first new word is not lost.
        pieces = DecodeStream(ids=ids, skip_special_tokens=True)
        tokens = self.generate_tokens(
            ids, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed
        )
        for token in tokens:
            piece = pieces.step(tokenizer, token)
            if piece:
                yield piece

    def generate(
        self, prompt: str, *, max_new_tokens: int = 64, temperature: float = 0.0, top_p: float = 1.0, seed: int = 0
    ) -> str:
        """The continuation of `prompt` (without the prompt). Temperature 0 is greedy; else `seed` fixes the choice."""
        return "".join(
            self.stream(prompt, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
        )

    def _text_tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            raise UsageError(
                "This model was opened without a tokenizer.", remedy="Open the bundle, or give a tokenizer_path."
            )
        return self._tokenizer

    def _check(self, ids: Sequence[int]) -> None:
        if not ids:
            raise UsageError("There is no token to start from.", remedy="Give a prompt that is not empty.")
        if self.length + len(ids) > self.interface.context_length:
            raise self._too_long(self.length + len(ids))
        if min(ids) < 0 or max(ids) >= self.interface.vocabulary:
            raise UsageError(
                f"Token ids must lie in 0..{self.interface.vocabulary - 1}.", remedy="Use this bundle's own tokenizer."
            )

    def _too_long(self, tokens: int) -> UsageError:
        return UsageError(
            f"{tokens} tokens do not fit a context of {self.interface.context_length}.",
            remedy="Shorten the prompt or ask for fewer new tokens.",
        )


class Encoder(Model, ABC):
    """A model that answers in one forward: texts in, one pooled vector or the logits of classes each out."""

    def __init__(self, interface: Interface, tokenizer_path: Path | None) -> None:
        self._tokenizer = None if tokenizer_path is None else load_tokenizer(tokenizer_path)
        if self._tokenizer is not None:
            self._tokenizer.enable_truncation(interface.context_length)
        self.interface = interface

    @abstractmethod
    def _run(self, batch: Sequence[Sequence[int]]) -> Floats:
        """Run the model on a checked batch."""

    def forward(self, batch: Sequence[Sequence[int]]) -> Floats:
        """Sequences of ids, padded on the right to the longest: `[n, dim]`, or `[n, longest, dim]` without pooling.

        Raises UsageError where a sequence is empty, too long, or holds an id outside the vocabulary.
        """
        self._check(batch)
        return self._run(batch)

    def encode(self, texts: Sequence[str], *, batch_size: int = 32) -> Floats:
        """Embeddings float32 `[n, dim]` of the texts, or logits `[n, labels]` of a classifier, in their order; longer
        texts are cut at the context length."""
        if isinstance(texts, str):
            raise UsageError("encode() takes a list of texts.", remedy="Write encode([text]).")
        if self._tokenizer is None:
            raise UsageError(
                "This model was opened without a tokenizer.", remedy="Open the bundle, or give a tokenizer_path."
            )
        if TASKS[self.interface.task].by_token:
            raise UsageError("This model answers for each token.", remedy="Use forward() on one text's ids.")
        if self.interface.task == "feature-extraction" and self.interface.pooling == "none":
            raise UsageError("This checkpoint names no pooling.", remedy="Use forward() and pool the tokens yourself.")
        sequences = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        # Texts of like length share a batch, so that little is spent on padding.
        order = sorted(range(len(sequences)), key=lambda index: len(sequences[index]))
        batches = [
            self.forward([sequences[index] for index in order[start : start + batch_size]])
            for start in range(0, len(order), batch_size)
        ]
        if not batches:
            return np.empty((0, self.interface.dimension or 0), dtype=np.float32)
        embeddings: Floats = np.concatenate(batches)[np.argsort(order)]
        return embeddings

    def _check(self, batch: Sequence[Sequence[int]]) -> None:
        if not batch or not all(batch):
            raise UsageError("There is nothing to encode.", remedy="Give at least one token per sequence.")
        if max(map(len, batch)) > self.interface.context_length:
            raise UsageError(
                f"{max(map(len, batch))} tokens do not fit a context of {self.interface.context_length}.",
                remedy="Shorten the text.",
            )
        if min(map(min, batch)) < 0 or max(map(max, batch)) >= self.interface.vocabulary:
            raise UsageError(
                f"Token ids must lie in 0..{self.interface.vocabulary - 1}.", remedy="Use this bundle's own tokenizer."
            )


def padded(batch: Sequence[Sequence[int]]) -> dict[str, Integers]:
    """A batch as every encoder takes it: int64 `[n, longest]` ids, mask and token types, padded on the right."""
    ids = np.zeros((len(batch), max(map(len, batch))), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, sequence in enumerate(batch):
        ids[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def first_line(error: Exception) -> str:
    """What an exception says, short enough for one line."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
