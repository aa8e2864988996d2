"""A plain module's reference: what is written is read, what lacks is said, and drift is that of each output."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeq.core.report import DriftSection, EmbeddingDrift, Gate, Verdict
from edgeq.errors import CorruptInputError
from edgeq.validation.gates import Criteria, drift_gates
from edgeq.validation.tensor_cases import (
    DEQUANTIZED,
    FLOAT,
    INPUTS,
    PARTS,
    TensorCases,
    tensor_drift,
    write_index,
    write_tensors,
)

Answer = tuple[np.ndarray, np.ndarray]


def answer(case: int) -> Answer:
    """`hidden` `[2, 3]` by row, and `score` `[2, 1]`."""
    values = np.random.default_rng(case).normal(size=(2, 3)).astype(np.float32)
    return values, values[:, :1] + 1


def cases_in(directory: Path, count: int = 3) -> TensorCases:
    cases = TensorCases(
        directory=directory, outputs=("hidden", "score"), by_row=(True, True), input_count=1, count=count
    )
    for index in range(count):
        write_tensors(directory / INPUTS, index, [np.full((2, 4), index, dtype=np.int64)])
        for part in (FLOAT, DEQUANTIZED, "artifact"):
            write_tensors(directory / part, index, answer(index))
    write_index(directory, cases)
    return cases


def test_what_is_written_is_read(tmp_path: Path) -> None:
    cases = cases_in(tmp_path)
    assert TensorCases.open(tmp_path) == cases
    assert [values.shape for values in cases.tensors(FLOAT, 2)] == [(2, 3), (2, 1)]
    np.testing.assert_array_equal(cases.tensors(INPUTS, 1)[0], np.ones((2, 4)))


def test_a_subset_has_the_first_cases(tmp_path: Path) -> None:
    cases = cases_in(tmp_path / "all")
    for limit, kept in ((10**6, 3), (200, 2), (0, 1)):
        cases.write_subset(tmp_path / str(limit), max_bytes=limit)
        subset = TensorCases.open(tmp_path / str(limit))
        assert subset.count == kept
        assert all(len(list((tmp_path / str(limit) / part).iterdir())) for part in PARTS)


@pytest.mark.parametrize(
    "index", ["", "[]", "{}", '{"outputs": [], "by_row": [], "inputs": 1, "cases": 1}', '{"outputs": ["y"]}']
)
def test_an_index_that_says_nothing_is_refused(tmp_path: Path, index: str) -> None:
    cases_in(tmp_path)
    (tmp_path / "inputs.json").write_text(index)
    with pytest.raises(CorruptInputError, match=r"inputs.json is missing or unreadable"):
        TensorCases.open(tmp_path)


def test_a_missing_tensor_is_refused(tmp_path: Path) -> None:
    cases = cases_in(tmp_path)
    (tmp_path / FLOAT / "0001-1.npy").write_bytes(b"")
    with pytest.raises(CorruptInputError, match=r"float/0001-1.npy is missing or unreadable"):
        tensor_drift(cases, tmp_path / "artifact")


def test_equal_answers_do_not_drift(tmp_path: Path) -> None:
    drift = tensor_drift(cases_in(tmp_path), tmp_path / "artifact")
    for part in (drift.quantization, drift.lowering, drift.total):
        assert isinstance(part, EmbeddingDrift)
        assert (part.sentences, part.cosine_mean, part.relative_error) == (6, 1.0, 0.0)
        assert set(part.outputs) == {"hidden", "score"}


def test_drift_is_each_output_s_and_the_whole_is_the_worst(tmp_path: Path) -> None:
    cases = cases_in(tmp_path, count=1)
    hidden, score = answer(0)
    write_tensors(tmp_path / "artifact", 0, [hidden, score * 1.5])
    drift = tensor_drift(cases, tmp_path / "artifact")
    assert isinstance(drift.lowering, EmbeddingDrift)
    found = drift.lowering.outputs
    assert found["hidden"].relative_error == 0.0
    assert found["score"].relative_error == pytest.approx(0.5)
    assert found["score"].cosine_mean == pytest.approx(1.0)  # the direction of all scores together
    assert drift.lowering.relative_error == found["score"].relative_error
    write_tensors(tmp_path / "artifact", 0, [hidden[:, ::-1], score])
    drift = tensor_drift(cases, tmp_path / "artifact")
    assert isinstance(drift.total, EmbeddingDrift)
    rows = zip(hidden.astype(float), hidden[:, ::-1].astype(float), strict=True)
    expected = np.mean([a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) for a, b in rows])
    assert drift.total.cosine_mean == pytest.approx(expected)
    assert drift.total.outputs["score"].cosine_mean == 1.0


def test_another_shape_is_refused(tmp_path: Path) -> None:
    cases = cases_in(tmp_path, count=1)
    hidden, score = answer(0)
    write_tensors(tmp_path / "artifact", 0, [hidden[:1], score])
    with pytest.raises(CorruptInputError, match="'hidden' has the shape"):
        tensor_drift(cases, tmp_path / "artifact")


def test_a_wrong_size_fails_where_the_direction_is_right(tmp_path: Path) -> None:
    cases = cases_in(tmp_path)
    for index in range(cases.count):
        hidden, score = answer(index)
        write_tensors(tmp_path / "artifact", index, [hidden * 2, score])
    failed = [gate.name for gate in gates(tensor_drift(cases, tmp_path / "artifact")) if gate.verdict is Verdict.FAILED]
    assert failed == ["lowering_relative_error of hidden"]


def gates(drift: DriftSection) -> tuple[Gate, ...]:
    criteria = Criteria(bits=4, parameters=100, accuracy_level=4, memory_limit_bytes=1)
    return drift_gates(drift, criteria, 0)
