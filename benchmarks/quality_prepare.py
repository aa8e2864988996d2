"""What all quantizers of one model get: its matrices, the calibration and evaluation tokens, and the float answers.

python -m benchmarks.quality_prepare MODEL CALIBRATION EVALUATION OUTPUT; MODEL is a directory, or `demo`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.quality_job import Inputs, Matrix, write_json
from edgeq.core.model import ModelInfo
from edgeq.models.reference import run_reference
from edgeq.models.source import load
from edgeq.models.tokens import load_tokenizer, truncated, windows
from edgeq.quantization.allocate import SMALLEST_MATRIX

INPUTS = "inputs.json"
CALIBRATION_SEQUENCES, EVALUATION_SEQUENCES, LENGTH = 128, 60, 256
SENTENCES_READ, SENTENCES_JUDGED, SENTENCE_LENGTH, SHORTEST_LINE = 1024, 256, 128, 80


def long_lines(text: str, count: int) -> list[str]:
    """The first lines of more than 80 characters."""
    return [line.strip() for line in text.splitlines() if len(line.strip()) > SHORTEST_LINE][:count]


def sequences(directory: Path, task: str, path: Path, count: int) -> tuple[tuple[int, ...], ...]:
    """Windows for a language model, sentences for an encoder. Raises ValueError without a tokenizer or enough text."""
    encode, text = load_tokenizer(directory), path.read_text(encoding="utf-8")
    if encode is None:
        msg = f"{directory} has no tokenizer"
        raise ValueError(msg)
    if task == "feature-extraction":
        return tuple(truncated(encode, line, SENTENCE_LENGTH) for line in long_lines(text, count))
    found = windows(encode, text, LENGTH, count * LENGTH)
    if len(found) < count or len(set(map(len, found))) > 1:
        msg = f"{path} has fewer than {count} windows of {LENGTH} tokens"
        raise ValueError(msg)
    return found


def matrices(info: ModelInfo) -> dict[str, Matrix]:
    """A language model's linears; of an encoder every matrix, embeddings included, but the smallest."""
    roles = ("linear",) if info.task == "text-generation" else ("linear", "embedding")
    found = {}
    for name, weight in info.weights.items():
        outputs, inputs = weight.outputs_inputs if weight.role in roles else (0, 0)
        if outputs * inputs >= SMALLEST_MATRIX:
            found[name] = Matrix(
                outputs=outputs,
                inputs=inputs,
                transposed=weight.input_axis == 0,
                embedding=weight.role == "embedding",
            )
    return found


def main() -> None:
    model, calibration, evaluation, output = sys.argv[1:]
    source, directory = load(None if model == "demo" else model), Path(output)
    chosen = matrices(source.info)
    weights = sum(matrix.outputs * matrix.inputs for matrix in chosen.values())
    task = source.info.task
    is_encoder = task == "feature-extraction"
    read, judged = (SENTENCES_READ, SENTENCES_JUDGED) if is_encoder else (CALIBRATION_SEQUENCES, EVALUATION_SEQUENCES)
    inputs = Inputs(
        model=str(source.directory.resolve()),
        task=task,
        matrices=chosen,
        other_bytes=2 * (source.info.parameters - weights),
        calibration=sequences(source.directory, task, Path(calibration), read),
        evaluation=sequences(source.directory, task, Path(evaluation), judged),
    )
    run_reference(
        source=source.directory, store=None, task=task, sequences=inputs.evaluation, output=directory / "reference"
    )
    write_json(directory / INPUTS, inputs)


if __name__ == "__main__":
    main()
