"""Core ML: a language model whose key-value cache is a state, and a sentence encoder, from a package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgeq.core.artifact import Interface
from edgeq.core.target import ComputeUnit
from edgeq.errors import CorruptInputError
from edgeq.runtimes import generation
from edgeq.runtimes.coreml.executor import open_executor
from edgeq.runtimes.coreml.package import Size, corrupt
from edgeq.runtimes.generation import Floats, padded

DECODE, PREFILL = "decode", "prefill"
WORTH_A_CHUNK = 8
"""A rest of a prompt shorter than an eighth of `prefill`'s chunk goes token by token."""


class TextGenerator(generation.TextGenerator):
    """A causal language model of two functions: `prefill` reads a chunk of tokens, `decode` one.

    `executed_by` says whether Core ML or the reference interpreter computes.
    """

    def __init__(
        self,
        model_path: Path,
        interface: Interface,
        *,
        compute_unit: ComputeUnit = "cpu",
        tokenizer_path: Path | None = None,
        threads: int = 0,
    ) -> None:
        """Raises CorruptInputError, UnsafeInputError, RuntimeUnavailableError, UnsupportedModelError."""
        self._executor = open_executor(model_path, compute_unit=compute_unit, threads=threads)
        self.executed_by = self._executor.executed_by
        functions = self._executor.package.inputs
        if DECODE not in functions:
            raise corrupt(model_path, "it has no function 'decode'")
        chunk = _length(model_path, functions.get(PREFILL, functions[DECODE]))
        if chunk is None:
            raise corrupt(model_path, "its chunks have no fixed length")
        self._chunk = chunk
        super().__init__(interface, tokenizer_path)

    def _forget(self) -> None:
        self._executor.reset()

    def _append(self, ids: Sequence[int], keep: int) -> Floats:
        """`prefill` gives the logits of one position alone, so the others that are asked for go through `decode`."""
        kept = len(ids) if keep == 0 else min(keep, len(ids))
        start, rows = 0, []
        while start < len(ids):
            wanted = start >= len(ids) - kept
            room = 1 if wanted else len(ids) - kept + 1 - start
            count = self._count(self.length + start, room)
            logits = self._read(ids[start : start + count], self.length + start)
            start += count
            if start > len(ids) - kept:
                rows.append(logits)
        return np.concatenate(rows)

    def _count(self, position: int, room: int) -> int:
        """How many of `room` tokens to read at once; a chunk may not reach beyond the context, padding included."""
        worth = max(2, self._chunk // WORTH_A_CHUNK)
        fits = position + self._chunk <= self.interface.context_length
        return min(room, self._chunk) if fits and room >= worth else 1

    def _read(self, ids: Sequence[int], position: int) -> Floats:
        inputs = {"position": np.array([position], dtype=np.int32)}
        if len(ids) == 1:
            inputs["input_ids"] = np.array([ids], dtype=np.int32)
            return self._logits(self._executor.run(DECODE, inputs))
        # What the padding leaves in the cache lies behind every position that is read before it is overwritten.
        inputs["input_ids"] = np.zeros((1, self._chunk), dtype=np.int32)
        inputs["input_ids"][0, : len(ids)] = ids
        inputs["last"] = np.array([len(ids) - 1], dtype=np.int32)
        return self._logits(self._executor.run(PREFILL, inputs))

    def _logits(self, outputs: dict[str, Floats]) -> Floats:
        return _output(outputs, self.interface.outputs[0]).reshape(1, -1)


class Encoder(generation.Encoder):
    """A sentence encoder; the package takes one sequence at a time. `executed_by` as for TextGenerator."""

    def __init__(
        self,
        model_path: Path,
        interface: Interface,
        *,
        compute_unit: ComputeUnit = "cpu",
        tokenizer_path: Path | None = None,
        threads: int = 0,
    ) -> None:
        """Raises as TextGenerator."""
        self._executor = open_executor(model_path, compute_unit=compute_unit, threads=threads)
        self.executed_by = self._executor.executed_by
        self._function, inputs = next(iter(self._executor.package.inputs.items()))
        if set(inputs) != set(interface.inputs):
            raise corrupt(model_path, f"it takes {', '.join(inputs)}, not {', '.join(interface.inputs)}")
        self._fixed = _length(model_path, inputs)
        super().__init__(interface, tokenizer_path)

    def _run(self, batch: Sequence[Sequence[int]]) -> Floats:
        feeds = padded(batch)
        length = feeds["input_ids"].shape[1]
        missing = 0 if self._fixed is None else self._fixed - length
        known = {name: np.pad(feeds[name], ((0, 0), (0, missing))).astype(np.int32) for name in self.interface.inputs}
        rows = [
            _output(
                self._executor.run(self._function, {name: values[row : row + 1] for name, values in known.items()}),
                self.interface.outputs[0],
            )
            for row in range(len(batch))
        ]
        vectors = np.concatenate(rows)
        return vectors[:, :length] if vectors.ndim == 3 else vectors


def _output(outputs: dict[str, Floats], name: str) -> Floats:
    if name not in outputs:
        raise CorruptInputError(f"The package gives no {name!r}.", remedy="Export the bundle again.")
    return outputs[name]


def _length(path: Path, inputs: dict[str, tuple[Size, ...]]) -> Size:
    """How many ids a function takes, None for any number."""
    shape = inputs.get("input_ids", ())
    if len(shape) != 2:
        raise corrupt(path, "it takes no sequence of input_ids")
    return shape[1]
