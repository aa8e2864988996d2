"""Content addresses: what changes them, and that nothing else does."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path

import pytest

from edgeq.building import cache
from edgeq.building.cache import cell_key, model_digest, reference_key, store_key
from edgeq.building.configuration import read_configuration
from edgeq.building.matrix import cells_of
from edgeq.core.model import ModelInfo
from edgeq.core.recipe import Recipe
from edgeq.errors import SourceNotFoundError
from edgeq.models.source import load
from edgeq.quantization.allocate import plan_for
from edgeq.runtimes.arm64.lock import VARIABLE, installed_directory
from edgeq.targets.profiles import available_profiles, load_profile
from tests.building.samples import model
from tests.tiny_models import tiny_llama

MODEL = "ab" * 32


def keys(directory: Path, text: str = "", *, of: str = "android-demo") -> tuple[str, str, str]:
    """Of the store, of the bundle and of the references."""
    path = directory / "edgeq.toml"
    path.write_text(text, encoding="utf-8")
    (cell,) = (cell for cell in cells_of(read_configuration(path)) if cell.name == of)
    store = store_key(cell, MODEL)
    return store, cell_key(cell, store), reference_key(cell, store)


def changed(directory: Path, before: str, after: str) -> tuple[bool, bool, bool]:
    """Which of the three another text of settings changes."""
    old, new = keys(directory, before), keys(directory, after)
    return (old[0] != new[0], old[1] != new[1], old[2] != new[2])


ALL, NONE, BUNDLE = (True, True, True), (False, False, False), (False, True, False)


@pytest.mark.parametrize(
    "text",
    [
        "bits = 8",
        "method = 'mse'",
        "effort = 'fast'",
        "group_size = 32",
        "symmetric = true",
        "embedding_bits = 4",
        "format = 'executorch'",
        "format = 'all'\n[[override]]\nselect = '*'\nformat = 'executorch'",
        "task = 'feature-extraction'",
        "bits = 'auto'\nmax_size = 1000",
    ],
)
def test_a_recipe_changes_everything(tmp_path: Path, text: str) -> None:
    assert changed(tmp_path, "", text) == ALL


def test_only_what_a_bundle_is_run_under_changes_the_bundle_alone(tmp_path: Path) -> None:
    assert changed(tmp_path, "", "accuracy_level = 1") == BUNDLE
    allowed = load_profile("android").memory_budget_bytes
    assert changed(tmp_path, "", f"max_memory = {allowed + 1}") == BUNDLE


@pytest.mark.parametrize(
    "text",
    [
        "max_size = 1",
        "max_memory = 1",
        "max_memory = { limit = '90 GB', level = 'warn' }",
        "max_drift = 0",
        "min_decode_tokens_per_second = 1e9",
        "bits = 4",  # which is the default
        "models = ['demo', 'owner/other']",
        "[[override]]\nselect = '*-demo'\n",
    ],
)
def test_a_budget_changes_nothing(tmp_path: Path, text: str) -> None:
    assert changed(tmp_path, "", text) == NONE


def test_bits_within_a_budget_change_with_it(tmp_path: Path) -> None:
    assert changed(tmp_path, "bits = 'auto'\nmax_size = 1000", "bits = 'auto'\nmax_size = 1001") == ALL
    # and with the target, whose bundles they are tried out in
    text = "bits = 'auto'\nmax_size = 1000\ntargets = ['android', 'rpi5-8gb']"
    assert keys(tmp_path, text)[0] != keys(tmp_path, text, of="rpi5-8gb-demo")[0]


@pytest.mark.parametrize(("option", "expected"), [("calibration", ALL), ("evaluation", (False, True, True))])
def test_texts_count_by_their_content(tmp_path: Path, option: str, expected: tuple[bool, bool, bool]) -> None:
    (tmp_path / "a.txt").write_text("one text")
    (tmp_path / "same.txt").write_text("one text")
    before = f"{option} = 'a.txt'"
    assert changed(tmp_path, before, f"{option} = 'same.txt'") == NONE
    assert changed(tmp_path, "", before) == expected
    old = keys(tmp_path, before)
    (tmp_path / "a.txt").write_text("another text")
    assert tuple(one != other for one, other in zip(old, keys(tmp_path, before), strict=True)) == expected


def test_a_file_of_a_target_counts_by_what_it_says(tmp_path: Path) -> None:
    def with_board(text: str) -> tuple[str, str, str]:
        (tmp_path / "board.toml").write_text(f'extends = "android-8gb"\n{text}')
        return keys(tmp_path, "target = 'board.toml'", of="board-demo")

    plain, commented = with_board(""), with_board("# said\n")
    assert plain == commented
    other = with_board('description = "another"\n')
    assert (plain[0] == other[0], plain[1] == other[1]) == (True, False)


def test_the_neural_engine_has_a_grid_of_its_own(tmp_path: Path) -> None:
    for name, unit in (("one", "cpu"), ("other", "neural_engine")):
        (tmp_path / f"{name}.toml").write_text(f'extends = "ios-8gb"\ncompute_unit = "{unit}"\n')
    text = "targets = ['one.toml', 'other.toml']"
    assert keys(tmp_path, text, of="one-demo")[0] != keys(tmp_path, text, of="other-demo")[0]


@pytest.mark.parametrize(
    ("package", "expected"),
    [("torch", ALL), ("transformers", ALL), ("onnxruntime", BUNDLE), ("onnx-ir", BUNDLE), ("pytest", NONE)],
)
def test_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, expected: tuple[bool, bool, bool]
) -> None:
    before = keys(tmp_path)
    monkeypatch.setattr(cache, "version", lambda name: "0.0" if name == package else version(name))
    assert tuple(one != other for one, other in zip(before, keys(tmp_path), strict=True)) == expected


def test_the_runtime_of_another_format_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ios = "target = 'ios'"
    before = keys(tmp_path), keys(tmp_path, ios, of="ios-demo")
    monkeypatch.setattr(cache, "version", lambda name: "0.0" if name == "coremltools" else version(name))
    after = keys(tmp_path), keys(tmp_path, ios, of="ios-demo")
    assert (before[0] == after[0], before[1] == after[1]) == (True, False)


def test_a_version_of_edgeq_changes_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys(tmp_path)
    monkeypatch.setattr("edgeq.__version__", "9.9")
    assert all(one != other for one, other in zip(before, keys(tmp_path), strict=True))


def test_the_emulator_counts_where_the_target_has_arm64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was judged by this machine's kernels alone is judged again."""
    text, names = "targets = ['android', 'ios']", ("android-demo", "ios-demo")
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    before = [keys(tmp_path, text, of=name) for name in names]
    installed_directory().mkdir()
    after = [keys(tmp_path, text, of=name) for name in names]
    assert before[1] == after[1]
    assert [one == other for one, other in zip(before[0], after[0], strict=True)] == [True, False, True]


def test_chromium_counts_for_browsers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    browser = "target = 'browser'"
    found = []
    for program in ("", os.path.realpath("/bin/sh")):
        monkeypatch.setenv("EDGEQ_CHROMIUM", program)
        found.append((keys(tmp_path), keys(tmp_path, browser, of="browser-demo")))
    assert found[0][0] == found[1][0]
    assert found[0][1][1] != found[1][1][1]


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "LICENSE", "README.md"])
def test_every_file_that_reaches_a_bundle_counts(tmp_path: Path, name: str) -> None:
    directory = model(tmp_path / "m")
    before = model_digest(str(directory))
    assert model_digest(str(directory)) == before
    (directory / "notes.md").write_text("not of the model")
    for path in directory.iterdir():
        os.utime(path, (1, 1))
    assert model_digest(str(directory)) == before
    path = directory / name
    data = path.read_bytes() if path.exists() else b""
    # the last byte of weights is one of a value; text may grow
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]) if name.endswith("safetensors") else data + b" ")
    assert model_digest(str(directory)) != before


def test_where_a_model_lies_does_not_count_but_its_name_does(tmp_path: Path) -> None:
    here, there, other = (model(tmp_path / place) for place in ("a/m", "b/m", "b/n"))
    (other / "config.json").write_bytes((here / "config.json").read_bytes())
    assert model_digest(str(here)) == model_digest(str(there)) != model_digest(str(other))


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError):
        model_digest(str(tmp_path / "nowhere"))


def test_targets_that_share_a_store_have_the_same_plan(tmp_path: Path) -> None:
    """What `store_key` relies on: of a target, only formats and compute unit reach the grid."""
    info: ModelInfo = load(tiny_llama(tmp_path / "m")).info
    profiles = [load_profile(name) for name in available_profiles()]
    pairs = 0
    for one in profiles:
        for other in profiles:
            if (one.formats, one.compute_unit) == (other.formats, other.compute_unit) and one.name < other.name:
                pairs += 1
                for bits in (2, 4, 8):
                    assert plan_for(info, Recipe(bits=bits), one) == plan_for(info, Recipe(bits=bits), other)
    assert pairs > 10


def test_android_and_a_board_share_a_store(tmp_path: Path) -> None:
    text = "targets = ['android', 'android-4gb', 'rpi5-8gb', 'ios']"
    stores = {
        name: keys(tmp_path, text, of=f"{name}-demo")[0] for name in ("android", "android-4gb", "rpi5-8gb", "ios")
    }
    assert stores["android"] == stores["android-4gb"] == stores["rpi5-8gb"] != stores["ios"]


def test_a_tokenizer_in_a_graph_is_another_bundle_of_the_same_store(tmp_path: Path) -> None:
    assert changed(tmp_path, "", "tokenizer = 'graph'") == BUNDLE
    assert changed(tmp_path, "", "tokenizer = 'files'") == NONE
