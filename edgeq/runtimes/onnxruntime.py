"""ONNX Runtime: a language model with its key-value cache, and a sentence encoder, from a file and its interface."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeq.core.artifact import Interface
from edgeq.errors import CorruptInputError, RuntimeUnavailableError, UsageError
from edgeq.runtimes.sampling import check_sampling, choose_token

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


def import_onnxruntime() -> Any:  # noqa: ANN401 - the package has no types
    """The `onnxruntime` module with its telemetry off. Raises RuntimeUnavailableError where it is not installed."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnxruntime
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"ONNX Runtime cannot be imported ({error}).", remedy="Install it: pip install onnxruntime."
        ) from error
    return onnxruntime


def open_session(model_path: Path, *, threads: int = 0) -> Any:  # noqa: ANN401
    """An InferenceSession on the CPU; external data next to the model is memory-mapped. threads 0: one per core.

    Raises RuntimeUnavailableError, or CorruptInputError where the runtime refuses the file.
    """
    onnxruntime = import_onnxruntime()
    if not model_path.is_file():
        raise CorruptInputError(f"{model_path} is missing.", remedy="Export the bundle again.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # A decoder's shapes grow with every token: each would leave one more memory plan behind.
    options.enable_mem_pattern = False
    # Packed weights stay out of the arena, which grows by doubling.
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    try:
        return onnxruntime.InferenceSession(str(model_path), options, providers=["CPUExecutionProvider"])
    except MemoryError:
        raise
    except Exception as error:  # the runtime's exceptions share no base class
        raise CorruptInputError(
            f"ONNX Runtime refuses {model_path.name}: {_first_line(error)}", remedy="Export the bundle again."
        ) from error


def load_tokenizer(path: Path) -> Tokenizer:
    """The fast tokenizer in a `tokenizer.json`, without padding. Raises CorruptInputError."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise CorruptInputError(
            f"{path} is not a tokenizer: {_first_line(error)}", remedy="Export the bundle again."
        ) from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


class TextGenerator:
    """A causal language model, one sequence at a time. The cache stays in the runtime's own tensors between steps."""

    def __init__(
        self, model_path: Path, interface: Interface, *, tokenizer_path: Path | None = None, threads: int = 0
    ) -> None:
        self._ort = import_onnxruntime()
        self._session = open_session(model_path, threads=threads)
        self._tokenizer = None if tokenizer_path is None else load_tokenizer(tokenizer_path)
        self.interface = interface
        self.reset()

    def reset(self) -> None:
        """Forget the sequence."""
        self.length = 0
        self._past = {
            f"past_key_values.{layer}.{part}": self._ort.OrtValue.ortvalue_from_shape_and_type(
                [1, heads, 0, size], np.float32, "cpu"
            )
            for layer, (heads, size) in enumerate(self.interface.cache)
            for part in ("key", "value")
        }

    def forward(self, ids: Sequence[int], *, keep: int = 1) -> Floats:
        """Append `ids` to the sequence; logits `[keep, vocabulary]` of the last `keep` positions, 0 keeps all.

        Raises UsageError where the context length would be exceeded or an id is not in the vocabulary.
        """
        self._check(ids)
        total = self.length + len(ids)
        feeds = {
            "input_ids": np.array([ids], dtype=np.int64),
            "attention_mask": np.ones((1, total), dtype=np.int64),
            "num_logits_to_keep": np.array(keep, dtype=np.int64),
        }
        values = {name: self._ort.OrtValue.ortvalue_from_numpy(array) for name, array in feeds.items()}
        outputs = self._session.run_with_ort_values(list(self.interface.outputs), values | self._past)
        named = dict(zip(self.interface.outputs, outputs, strict=True))
        logits: Floats = named.pop("logits").numpy()[0]
        self._past = {name.replace("present.", "past_key_values."): value for name, value in named.items()}
        self.length = total
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


class Encoder:
    """A sentence encoder: texts in, one pooled vector each out."""

    def __init__(
        self, model_path: Path, interface: Interface, *, tokenizer_path: Path | None = None, threads: int = 0
    ) -> None:
        self._session = open_session(model_path, threads=threads)
        self._tokenizer = None if tokenizer_path is None else load_tokenizer(tokenizer_path)
        if self._tokenizer is not None:
            self._tokenizer.enable_truncation(interface.context_length)
        self.interface = interface

    def forward(self, batch: Sequence[Sequence[int]]) -> Floats:
        """Sequences of ids, padded on the right to the longest: `[n, dim]`, or `[n, longest, dim]` without pooling.

        Raises UsageError where a sequence is empty, too long, or holds an id outside the vocabulary.
        """
        self._check(batch)
        longest = max(map(len, batch))
        ids = np.zeros((len(batch), longest), dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, sequence in enumerate(batch):
            ids[row, : len(sequence)] = sequence
            mask[row, : len(sequence)] = 1
        feeds: dict[str, Integers] = {
            "input_ids": ids,
            "attention_mask": mask,
            "token_type_ids": np.zeros_like(ids),
        }
        known = {name: feeds[name] for name in self.interface.inputs}
        output: Floats = self._session.run([self.interface.outputs[0]], known)[0]
        return output

    def encode(self, texts: Sequence[str], *, batch_size: int = 32) -> Floats:
        """Embeddings float32 `[n, dim]` of the texts, in their order; longer texts are cut at the context length."""
        if isinstance(texts, str):
            raise UsageError("encode() takes a list of texts.", remedy="Write encode([text]).")
        if self._tokenizer is None:
            raise UsageError(
                "This model was opened without a tokenizer.", remedy="Open the bundle, or give a tokenizer_path."
            )
        if self.interface.pooling == "none":
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


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
