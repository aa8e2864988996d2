"""The matrix: names, overrides of which the later wins, and which cells a pattern means."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeq.building.configuration import read_configuration
from edgeq.building.matrix import Cell, cells_of, selected
from edgeq.core.recipe import Recipe
from edgeq.errors import UnknownNameError, UsageError
from edgeq.settings import Limit
from edgeq.targets.profiles import load_profile


def cells(directory: Path, text: str) -> dict[str, Cell]:
    path = directory / "edgeq.toml"
    path.write_text(text, encoding="utf-8")
    return {cell.name: cell for cell in cells_of(read_configuration(path))}


MATRIX = """
targets = ["android", "android-4gb", "ios", "rpi5-8gb"]
models = ["demo", "owner/search"]
"""


def test_a_cell_for_every_target_and_model_in_their_order(tmp_path: Path) -> None:
    assert list(cells(tmp_path, MATRIX)) == [
        "android-demo",
        "android-search",
        "android-4gb-demo",
        "android-4gb-search",
        "ios-demo",
        "ios-search",
        "rpi5-8gb-demo",
        "rpi5-8gb-search",
    ]


def test_a_later_override_wins_key_by_key(tmp_path: Path) -> None:
    found = cells(
        tmp_path,
        f"""
        bits = 2
        max_drift = 0.5
        {MATRIX}
        [[override]]
        select = "android-*"
        bits = 8
        group_size = 32
        max_drift = {{ limit = 0.1, level = "warn" }}

        [[override]]
        select = "*-demo"
        bits = 3
        """,
    )
    assert found["rpi5-8gb-search"].recipe == Recipe(bits=2)
    assert found["rpi5-8gb-demo"].recipe == Recipe(bits=3)
    assert found["android-search"].recipe == Recipe(bits=8, group_size=32)
    assert found["android-4gb-demo"].recipe == Recipe(bits=3, group_size=32)
    drifts = {name: cell.settings.budgets.max_drift for name, cell in found.items()}
    assert drifts["ios-demo"] == Limit(limit=0.5)
    assert drifts["android-4gb-demo"] == Limit(limit=0.1, level="warn")


def test_all_formats_are_cells_that_share_a_grid(tmp_path: Path) -> None:
    found = cells(tmp_path, 'targets = ["android", "rpi5-8gb"]\n[[override]]\nselect = "android-*"\nformat = "all"\n')
    assert list(found) == ["android-demo-onnx", "android-demo-executorch", "rpi5-8gb-demo"]
    assert found["android-demo-executorch"].format == "executorch"
    assert found["android-demo-onnx"].formats == found["android-demo-executorch"].formats == ("onnx", "executorch")
    assert found["rpi5-8gb-demo"].formats == ("onnx",)


def test_patterns_select(tmp_path: Path) -> None:
    every = tuple(cells(tmp_path, MATRIX).values())
    assert selected(every, ()) == every
    assert [cell.name for cell in selected(every, ("ios-*",))] == ["ios-demo", "ios-search"]
    # the order is the matrix's, and a cell that two patterns mean is one cell
    assert [cell.name for cell in selected(every, ("*-search", "ios-*", "android-search"))] == [
        "android-search",
        "android-4gb-search",
        "ios-demo",
        "ios-search",
        "rpi5-8gb-search",
    ]
    with pytest.raises(UnknownNameError) as caught:
        selected(every, ("ios-*", "rpi-8gb-demo"))
    assert "--only 'rpi-8gb-demo' matches no cell" in caught.value.what
    assert "Did you mean 'rpi5-8gb-demo'?" in caught.value.remedy


@pytest.mark.parametrize(
    ("text", "what", "remedy"),
    [
        ("targets = ['andriod']", "no target 'andriod'", "'android'"),
        ("[[override]]\nselect = 'ios-*'\nbits = 8", "select 'ios-*' matches no cell", "android-demo"),
        ("format = 'onxx'", "android-demo: android takes no format 'onxx'", "onnx"),
        ("method = 'gptqq'", "android-demo: There is no quantization method", "'gptq'"),
    ],
)
def test_unknown_names(tmp_path: Path, text: str, what: str, remedy: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        cells(tmp_path, text)
    assert what in caught.value.what
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("bits = 5", "android-demo: 5 bits cannot be stored"),
        ("accuracy_level = 2", "android-demo: There is no accuracy level 2"),
        ("bits = 'auto'", "android-demo: There is no budget to choose bits for"),
    ],
)
def test_what_an_export_refuses(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(UsageError) as caught:
        cells(tmp_path, text)
    assert caught.value.what.startswith(what)


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    profile = 'extends = "android-8gb"\n'
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "board.toml").write_text(profile)
    with pytest.raises(UsageError, match="Two targets are called 'board'"):
        cells(tmp_path, 'targets = ["a/board.toml", "b/board.toml"]')
    # android-4gb x demo and android x 4gb-demo
    with pytest.raises(UsageError, match="same name"):
        cells(tmp_path, 'targets = ["android", "android-4gb"]\n[models]\ndemo = "demo"\n4gb-demo = "demo"\n')


def test_a_bundle_runs_under_the_targets_limit_unless_its_budget_is_higher(tmp_path: Path) -> None:
    allowed = load_profile("android").memory_budget_bytes
    limits = {
        "": allowed,
        "max_memory = 1000": allowed,
        f"max_memory = {2 * allowed}": 2 * allowed,
        f"max_memory = {{ limit = {2 * allowed}, level = 'warn' }}": allowed,
    }
    assert {text: cells(tmp_path, text)["android-demo"].memory_limit for text in limits} == limits


def test_bits_auto_keep_within_the_budgets(tmp_path: Path) -> None:
    found = cells(tmp_path, "bits = 'auto'\nmax_size = { limit = 5, level = 'warn' }\nmax_drift = 0.1\n")
    allocation = found["android-demo"].allocation
    assert allocation is not None
    assert (allocation.max_size, allocation.max_memory, allocation.max_drift) == (5, None, 0.1)
    assert cells(tmp_path, "max_size = 5\n")["android-demo"].allocation is None


def test_a_tokenizer_in_a_graph_is_for_onnx(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match="ios-demo: A bundle in the format coreml cannot have its tokenizer in a graph"
    ):
        cells(tmp_path, 'target = "ios"\ntokenizer = "graph"\n')
