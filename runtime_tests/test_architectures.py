"""Models of different kinds as the README's table tries them: exported, run in ONNX Runtime, and judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeq.errors import UnsupportedModelError
from runtime_tests.architectures import ARCHITECTURES, measure
from runtime_tests.families import Family

EXACT = 1e-5
"""Relative error of float32 computed in another order."""


@pytest.mark.parametrize("name", ["smollm3", "mpt", "roberta", "t5"])
def test_an_architecture_of_the_table_passes(name: str, tmp_path: Path) -> None:
    """Attention captured whole and in pieces; an encoder, and the encoder of a pair."""
    row = measure(name, tmp_path)
    assert (row.architecture, row.task, row.verdict, row.reason) == (name, ARCHITECTURES[name].task, "passed", "")
    assert row.drift is not None
    assert row.drift < EXACT


def test_what_edgeq_refuses_is_a_row_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise UnsupportedModelError("It loops | forever.", remedy="None.")

    monkeypatch.setattr("runtime_tests.architectures.export", refuse)
    row = measure("llama", tmp_path)
    assert (row.verdict, row.drift, row.reason) == ("refused", None, "It loops | forever.")
    assert row.cells()[-1] == "It loops \\| forever."


def test_an_error_of_another_kind_is_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES, "no such", Family(model_type="no such"))
    with pytest.raises(ValueError, match="no such"):
        measure("no such", tmp_path)
