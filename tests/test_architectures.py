"""The README's table of architectures lists what its generator tries, each once."""

from __future__ import annotations

from runtime_tests.architectures import ARCHITECTURES, HEADER, Row, with_rows, written_rows
from tests.readme import README

VERDICTS = {"passed", "failed", "refused"}


def test_the_readme_lists_the_architectures_that_are_tried() -> None:
    rows = written_rows(README.read_text(encoding="utf-8"))
    assert set(rows) == set(ARCHITECTURES)
    assert len(rows) >= 25
    for name, cells in rows.items():
        assert len(cells) == len(HEADER)
        assert (cells[1], cells[2] in VERDICTS) == (ARCHITECTURES[name].task, True)
        assert bool(cells[4]) == (cells[2] != "passed")


def test_rows_are_replaced_and_those_that_are_no_longer_tried_go() -> None:
    readme = README.read_text(encoding="utf-8")
    row = Row(architecture="llama", task="text-generation", verdict="refused", drift=None, reason="a | b")
    changed = with_rows(readme.replace("| `bert` | feature-extraction |", "| `gone` | feature-extraction |"), [row])
    before, after = written_rows(readme), written_rows(changed)
    assert set(before) - set(after) == {"bert"}
    assert set(after) - set(before) == set()
    assert after["llama"] == ("`llama`", "text-generation", "refused", "", "a \\| b")
    assert changed.split("<!-- architectures")[0] == readme.split("<!-- architectures")[0]
