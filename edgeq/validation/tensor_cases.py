"""The reference of a plain module: input tensors, and what the float and the dequantized module say to them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.core.report import DriftSection, EmbeddingDrift, OutputDrift
from edgeq.errors import CorruptInputError
from edgeq.files import output_errors, save_array
from edgeq.validation.drift import embedding_drift
from edgeq.validation.reference_set import INPUTS_NAME

Array = npt.NDArray[Any]
INPUTS, FLOAT, DEQUANTIZED = "inputs", "float", "dequantized"
PARTS = (INPUTS, FLOAT, DEQUANTIZED)


@dataclass(frozen=True, kw_only=True)
class TensorCases:
    """A directory with `inputs.json`, and `inputs/NNNN-I.npy`, `float/NNNN-I.npy` and `dequantized/NNNN-I.npy`: tensor
    I of case NNNN, in the interface's order. by_row: of each output, whether its first axis is the batch."""

    directory: Path
    outputs: tuple[str, ...]
    by_row: tuple[bool, ...]
    input_count: int
    count: int

    @classmethod
    def open(cls, directory: Path) -> TensorCases:
        """Raises CorruptInputError where a file is missing or unreadable."""
        try:
            data = json.loads((directory / INPUTS_NAME).read_text(encoding="utf-8"))
            opened = cls(
                directory=directory,
                outputs=tuple(str(name) for name in data["outputs"]),
                by_row=tuple(bool(each) for each in data["by_row"]),
                input_count=int(data["inputs"]),
                count=int(data["cases"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _corrupt(directory, INPUTS_NAME) from error
        if opened.count < 1 or opened.input_count < 1 or not 0 < len(opened.outputs) == len(opened.by_row):
            raise _corrupt(directory, INPUTS_NAME)
        return opened

    def tensors(self, part: str, index: int) -> list[Array]:
        """The tensors of a case, memory-mapped. Raises CorruptInputError."""
        width = self.input_count if part == INPUTS else len(self.outputs)
        return [self._read(path_of(self.directory / part, index, position)) for position in range(width)]

    def leading(self, tokens: int | None) -> TensorCases:
        """All cases: they are few, and no number of tokens."""
        return self

    def write_subset(self, directory: Path, *, max_bytes: int = 4_000_000) -> None:
        """The same layout in `directory`: the first cases up to about `max_bytes`, but at least one."""
        written, kept = 0, 0
        while kept < self.count and (kept == 0 or written < max_bytes):
            for part in PARTS:
                values = self.tensors(part, kept)
                write_tensors(directory / part, kept, values)
                written += sum(value.nbytes for value in values)
            kept += 1
        write_index(directory, replace(self, directory=directory, count=kept))

    def _read(self, path: Path) -> Array:
        try:
            values: Array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise _corrupt(self.directory, f"{path.parent.name}/{path.name}") from error
        return values


def path_of(directory: Path, index: int, position: int) -> Path:
    """Where tensor `position` of a case lies."""
    return directory / f"{index:04d}-{position}.npy"


def write_tensors(directory: Path, index: int, values: Sequence[Array]) -> None:
    """Raises OutputError where the disk is full."""
    with output_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
    for position, value in enumerate(values):
        save_array(path_of(directory, index, position), value)


def write_index(directory: Path, cases: TensorCases) -> None:
    """`inputs.json`, which says what there is."""
    index = {"outputs": cases.outputs, "by_row": cases.by_row, "inputs": cases.input_count, "cases": cases.count}
    with output_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        (directory / INPUTS_NAME).write_text(json.dumps({"task": "module", **index}) + "\n", encoding="utf-8")


def tensor_drift(cases: TensorCases, answers: Path) -> DriftSection:
    """The three drifts of an artifact that left its outputs in `answers`, as `write_tensors` does."""
    original, dequantized, answered = (
        _outputs(cases, where) for where in (cases.directory / FLOAT, cases.directory / DEQUANTIZED, answers)
    )
    return DriftSection(
        quantization=_compare(cases, original, dequantized),
        lowering=_compare(cases, dequantized, answered),
        total=_compare(cases, original, answered),
    )


def difference_of(cases: TensorCases, answers: Path, others: Path) -> EmbeddingDrift:
    """Of the outputs in `answers`, those in `others` against them."""
    return _compare(cases, _outputs(cases, answers), _outputs(cases, others))


def _outputs(cases: TensorCases, answers: Path) -> list[list[Array]]:
    where = replace(cases, directory=answers.parent)
    return [where.tensors(answers.name, index) for index in range(cases.count)]


def _compare(cases: TensorCases, a: Sequence[Sequence[Array]], b: Sequence[Sequence[Array]]) -> EmbeddingDrift:
    """Each output on its own; the whole is as good as its worst output."""
    each: dict[str, EmbeddingDrift] = {}
    for position, name in enumerate(cases.outputs):
        reference, candidate = ([case[position] for case in side] for side in (a, b))
        for left, right in zip(reference, candidate, strict=True):
            if left.shape != right.shape:
                raise CorruptInputError(
                    f"The output {name!r} has the shape {right.shape}, not {left.shape} as in the reference.",
                    remedy="Export the bundle again.",
                )
        each[name] = embedding_drift(
            *(_answers(side, by_row=cases.by_row[position]) for side in (reference, candidate))
        )
    return EmbeddingDrift(
        sentences=max(one.sentences for one in each.values()),
        cosine_mean=min(one.cosine_mean for one in each.values()),
        cosine_min=min(one.cosine_min for one in each.values()),
        rank_correlation=min(one.rank_correlation for one in each.values()),
        max_abs=max(one.max_abs for one in each.values()),
        relative_error=max(one.relative_error for one in each.values()),
        outputs={
            name: OutputDrift(
                cosine_mean=one.cosine_mean,
                cosine_min=one.cosine_min,
                relative_error=one.relative_error,
                max_abs=one.max_abs,
            )
            for name, one in each.items()
        },
    )


def _answers(values: Sequence[Array], *, by_row: bool) -> Array:
    """float64 `[answers, n]`: of each row of a batch, or of each case. Single numbers, whose direction says nothing,
    are all one answer; so are outputs whose length depends on the batch otherwise."""
    rows = [value.astype(np.float64).reshape(len(value) if by_row else 1, -1) for value in values]
    if {row.shape[1] for row in rows} == {rows[0].shape[1]} != {1}:
        return np.concatenate(rows)
    return np.concatenate([row.ravel() for row in rows])[None]


def _corrupt(directory: Path, what: str) -> CorruptInputError:
    return CorruptInputError(
        f"The reference in {directory} is incomplete: {what} is missing or unreadable.",
        remedy="Export the bundle again.",
    )
