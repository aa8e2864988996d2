"""The reference that drift is measured against: token sequences, and what the float and the dequantized model say."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.core.details import ReferenceDetails
from edgeq.core.model import Task
from edgeq.core.records import from_plain, to_plain
from edgeq.core.task import TASKS, takes_pixels
from edgeq.errors import CorruptInputError
from edgeq.files import output_errors, save_array
from edgeq.validation.drift import log_softmax

INPUTS_NAME, DETAILS_NAME = "inputs.json", "details.json"
MINIMUM_POSITIONS = 32
SUBSET_SEQUENCES = 4
PICTURE_TOKENS = 64
Values = npt.NDArray[np.floating[Any]]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ReferenceSet:
    """A directory with `inputs.json`, `float/NNNN.npy` and `dequantized/NNNN.npy`, one array per sequence, and
    `details.json` as ReferenceDetails describes it.

    text-generation: logits float32 `[tokens, vocabulary]`; `float` may hold float16 log-probabilities instead.
    feature-extraction: the embedding float32 `[dim]`, or `[tokens, dim]` where the checkpoint pools nothing.
    Classifiers: logits float32 `[labels]`, `[tokens, labels]` for tokens. Models of images have the numbers of pictures
    for sequences, one each. `multi_label`: the classes are true or not each on its own.
    """

    directory: Path
    task: Task
    sequences: tuple[tuple[int, ...], ...]
    multi_label: bool = False

    @classmethod
    def open(cls, directory: Path) -> ReferenceSet:
        """Raises CorruptInputError where inputs or arrays are missing or contradict each other."""
        try:
            data = json.loads((directory / INPUTS_NAME).read_text(encoding="utf-8"))
            sequences = tuple(tuple(int(token) for token in sequence) for sequence in data["sequences"])
            task: Task = data["task"]
            multi_label = bool(data.get("multi_label", False))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _corrupt(directory, f"{INPUTS_NAME} is missing or unreadable") from error
        if task not in TASKS or not sequences or not all(sequences):
            raise _corrupt(directory, f"{INPUTS_NAME} names no usable sequences")
        return cls(directory=directory, task=task, sequences=sequences, multi_label=multi_label)

    def float_values(self, index: int) -> Values:
        """What the float model says about sequence `index`, memory-mapped. Raises CorruptInputError."""
        return self._read("float", index)

    def dequantized_values(self, index: int) -> Values:
        """What the dequantized model says about sequence `index`, memory-mapped. Raises CorruptInputError."""
        return self._read("dequantized", index)

    def details(self) -> ReferenceDetails:
        """What is shown and judged by nothing; empty where there is no such file. Raises CorruptInputError."""
        path = self.directory / DETAILS_NAME
        if not path.exists():
            return ReferenceDetails()
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise _corrupt(self.directory, f"{DETAILS_NAME} is unreadable") from error
        details = from_plain(ReferenceDetails, data, str(path))
        for sequence, continuation in zip(self.sequences, details.continuations, strict=False):
            if not continuation.prompt or sequence[: len(continuation.prompt)] != continuation.prompt:
                raise _corrupt(self.directory, f"{DETAILS_NAME} continues what is not in {INPUTS_NAME}")
        return details

    def leading(self, tokens: int | None) -> ReferenceSet:
        """The first whole sequences with at least so many tokens together; all for None. A picture, which takes a model
        about as long as a text, counts PICTURE_TOKENS."""
        if tokens is None:
            return self
        kept, total = 0, 0
        for sequence in self.sequences:
            if total >= tokens:
                break
            kept, total = kept + 1, total + (PICTURE_TOKENS if takes_pixels(self.task) else len(sequence))
        return replace(self, sequences=self.sequences[:kept])

    def write_subset(self, directory: Path, *, max_bytes: int = 4_000_000) -> None:
        """Write the same layout into `directory` with about `max_bytes`, but never fewer than 32 positions.

        Language models: prefixes of up to four sequences, the float part as float16 log-probabilities. Embeddings:
        the first sentences, unchanged. Raises OutputError.
        """
        lengths = self._subset_lengths(max_bytes)
        with output_errors(directory):
            for part in ("float", "dequantized"):
                (directory / part).mkdir(parents=True, exist_ok=True)
        for index, length in enumerate(lengths):
            whole = slice(length) if self.task == "text-generation" else slice(None)
            reference = np.asarray(self.float_values(index)[whole])
            if self.task == "text-generation":
                reference = log_softmax(reference).astype(np.float16)
            save_array(directory / "float" / f"{index:04d}.npy", reference)
            save_array(
                directory / "dequantized" / f"{index:04d}.npy", np.asarray(self.dequantized_values(index)[whole])
            )
        kept = [list(sequence[:length]) for sequence, length in zip(self.sequences, lengths, strict=False)]
        with output_errors(directory):
            inputs = {"task": self.task, "sequences": kept} | ({"multi_label": True} if self.multi_label else {})
            (directory / INPUTS_NAME).write_text(json.dumps(inputs) + "\n")
            details = self.details()
            details = replace(details, continuations=details.continuations[: len(kept)])
            (directory / DETAILS_NAME).write_text(json.dumps(to_plain(details)) + "\n")

    def _subset_lengths(self, max_bytes: int) -> list[int]:
        """How many tokens of which leading sequences a subset keeps."""
        first = self.dequantized_values(0)
        if self.task != "text-generation":
            count = min(len(self.sequences), max(MINIMUM_POSITIONS, max_bytes // (2 * first.nbytes)))
            return [len(sequence) for sequence in self.sequences[:count]]
        positions = max(MINIMUM_POSITIONS, max_bytes // (first.shape[1] * 6))
        count = min(len(self.sequences), SUBSET_SEQUENCES, max(1, positions // MINIMUM_POSITIONS))
        return [min(len(sequence), -(-positions // count)) for sequence in self.sequences[:count]]

    def _read(self, part: str, index: int) -> Values:
        path = self.directory / part / f"{index:04d}.npy"
        try:
            values: Values = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise _corrupt(self.directory, f"{part}/{path.name} is missing or unreadable") from error
        rows = (len(self.sequences[index]),)
        shapes_agree = values.shape[:1] == rows if TASKS[self.task].by_token else values.ndim in (1, 2)
        if values.dtype not in (np.float16, np.float32) or not shapes_agree:
            raise _corrupt(self.directory, f"{part}/{path.name} does not fit its sequence")
        return values


def _corrupt(directory: Path, why: str) -> CorruptInputError:
    return CorruptInputError(f"The reference in {directory} is incomplete: {why}.", remedy="Export the bundle again.")
