"""Golden cases are what the reference said, chosen evenly and small enough for an app."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgeq.bundle.golden import (
    CASES,
    LARGEST_TENSORS,
    LONGEST,
    TOP,
    Embedding,
    NextToken,
    build_golden,
    module_golden,
    text_decoder,
)
from edgeq.errors import InternalError
from tests.bundle.samples import bigram_table, write_source


def spell(ids: object) -> str:
    return repr(ids)


def test_next_tokens_are_the_reference_s_best(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sequences = [tuple(rng.integers(0, 50, size=100).tolist()) for _ in range(9)]
    outputs = [rng.normal(size=(100, 50)).astype(np.float32) for _ in sequences]
    golden = build_golden("text-generation", sequences, outputs, decode=spell, accuracy_level=4)
    assert len(golden.cases) == CASES
    tokens = [case for case in golden.cases if isinstance(case, NextToken)]
    assert [len(case.input_ids) for case in tokens] == [8, 16, 24, 32]
    for index, case in zip([0, 2, 4, 6], golden.cases, strict=True):
        assert isinstance(case, NextToken)
        length = len(case.input_ids)
        assert case.input_ids == sequences[index][:length]
        logits = outputs[index][length - 1]
        assert case.top_ids == tuple(np.argsort(-logits)[:TOP])
        np.testing.assert_allclose(case.top_logits, np.sort(logits)[::-1][:TOP], rtol=1e-5)
    last = [outputs[index][len(case.input_ids) - 1] for index, case in zip([0, 2, 4, 6], tokens, strict=True)]
    spread = np.mean([logits.std() for logits in last])
    assert golden.tolerance == pytest.approx(0.3 * spread, rel=1e-4)


def test_tolerance_is_tighter_with_float_activations() -> None:
    logits = [np.eye(2, 8, dtype=np.float32)]
    coarse, fine = (
        build_golden("text-generation", [[1, 2]], logits, decode=spell, accuracy_level=level) for level in (4, 1)
    )
    assert fine.tolerance < coarse.tolerance / 10


def test_short_sequences_are_taken_whole() -> None:
    outputs = [np.eye(3, 8, dtype=np.float32)]
    golden = build_golden("text-generation", [[5, 6, 7]], outputs, decode=spell, accuracy_level=4)
    assert [case.input_ids for case in golden.cases if isinstance(case, NextToken)] == [(5, 6, 7)]


def test_embeddings_are_of_whole_sentences() -> None:
    sequences = [list(range(length)) for length in (40, 5, 33, 6, 7, 8, 9, 10)]
    outputs = [np.full(4, index, dtype=np.float32) for index in range(len(sequences))]
    golden = build_golden("feature-extraction", sequences, outputs, decode=spell, accuracy_level=4)
    assert len(golden.cases) == CASES
    for case in golden.cases:
        assert isinstance(case, Embedding)
        index = sequences.index(list(case.input_ids))
        assert len(case.input_ids) <= LONGEST
        assert case.embedding == (float(index),) * 4


def test_long_sentences_are_used_where_there_are_no_others_and_hidden_states_give_the_first_token() -> None:
    outputs = [np.arange(80, dtype=np.float32).reshape(40, 2)]
    golden = build_golden("feature-extraction", [list(range(40))], outputs, decode=spell, accuracy_level=1)
    (case,) = golden.cases
    assert isinstance(case, Embedding)
    assert case.embedding == (0.0, 1.0)


@pytest.mark.parametrize("sequences", [[], [[1]]])
def test_nothing_to_choose_from_is_an_internal_error(sequences: list[list[int]]) -> None:
    with pytest.raises(InternalError, match="left no outputs"):
        build_golden("text-generation", sequences, [], decode=spell, accuracy_level=4)


def test_text_is_the_tokenizer_s_spelling(tmp_path: Path) -> None:
    write_source(tmp_path)
    assert text_decoder(tmp_path / "tokenizer.json")([2, 3, 4, 5]) == "once upon a time"
    assert text_decoder(None)([2, 3]) == ""
    assert text_decoder(tmp_path / "absent.json")([2, 3]) == ""


def test_json_has_what_an_app_reads() -> None:
    table = bigram_table()
    golden = build_golden("text-generation", [[2, 3]], [table[[2, 3]]], decode=spell, accuracy_level=4)
    plain = json.loads(golden.to_json())
    assert set(plain) == {"schema", "task", "tolerance", "cases"}
    assert set(plain["cases"][0]) == {"text", "input_ids", "top_ids", "top_logits"}
    assert golden.to_json() == golden.to_json()


def test_a_module_s_case_holds_its_tensors() -> None:
    inputs = {"x": np.array([[1, 2], [3, 4]], dtype=np.int64)}
    outputs = {"y": np.array([0.5, -0.25], dtype=np.float32)}
    golden = module_golden(inputs, outputs, accuracy_level=1)
    case = {
        "inputs": {"x": {"dtype": "int64", "shape": [2, 2], "values": [1, 2, 3, 4]}},
        "outputs": {"y": {"dtype": "float32", "shape": [2], "values": [0.5, -0.25]}},
    }
    assert json.loads(golden.to_json())["cases"] == [case]
    assert golden.tolerance < module_golden(inputs, outputs, accuracy_level=4).tolerance / 10


def test_large_tensors_make_no_golden_case() -> None:
    large = {"x": np.zeros(LARGEST_TENSORS, dtype=np.float32)}
    assert module_golden(large, {"y": np.zeros(1, dtype=np.float32)}, accuracy_level=4).cases == ()
