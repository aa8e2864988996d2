"""Settings of a build: what they can say, and that what they cannot mean is refused with the place and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeq.building.configuration import ModelEntry, find_configuration, read_configuration
from edgeq.errors import UnknownNameError, UsageError
from edgeq.settings import Limit


def written(directory: Path, text: str, name: str = "edgeq.toml") -> Path:
    path = directory / name
    path.write_text(text, encoding="utf-8")
    return path


def test_an_empty_file_is_the_demo_model_for_android(tmp_path: Path) -> None:
    found = read_configuration(written(tmp_path, ""))
    assert found.models == (ModelEntry(name="demo", source=None),)
    assert found.targets == ("android",)
    assert (found.values, found.overrides) == ({}, ())


EVERYTHING = """
targets = ["android", "board.toml"]
bits = "auto"
method = "mse"
effort = "fast"
group_size = 32
symmetric = true
embedding_bits = 8
format = "onnx"
task = "text-generation"
accuracy_level = 1
calibration = "c.txt"
evaluation = "e.txt"
tokenizer = "graph"
recipe = "r.toml"
max_size = "40 MB"
max_memory = { limit = "800 MiB", level = "warn" }
max_drift = 0
min_decode_tokens_per_second = { limit = 20 }
output = "is another verb's"

[models]
demo = "demo"
local = "models/local"
hub = "owner/name"

[[override]]
select = "android-*"
bits = 8

[[override]]
select = "*-hub"
max_drift = 0.5
"""


def test_everything_that_can_be_said(tmp_path: Path) -> None:
    for name in ("c.txt", "e.txt", "r.toml"):
        (tmp_path / name).write_text("text")
    (tmp_path / "models" / "local").mkdir(parents=True)
    found = read_configuration(written(tmp_path, EVERYTHING))
    assert found.models == (
        ModelEntry(name="demo", source=None),
        ModelEntry(name="local", source=str(tmp_path / "models" / "local")),
        ModelEntry(name="hub", source="owner/name"),
    )
    assert found.targets == ("android", str(tmp_path / "board.toml"))
    assert found.values == {
        "bits": "auto",
        "method": "mse",
        "effort": "fast",
        "group_size": 32,
        "symmetric": True,
        "embedding_bits": 8,
        "format": "onnx",
        "task": "text-generation",
        "accuracy_level": 1,
        "calibration": tmp_path / "c.txt",
        "evaluation": tmp_path / "e.txt",
        "tokenizer": "graph",
        "recipe": tmp_path / "r.toml",
        "max_size": Limit(limit=40_000_000),
        "max_memory": Limit(limit=800 * 2**20, level="warn"),
        "max_drift": Limit(limit=0),
        "min_decode_tokens_per_second": Limit(limit=20),
    }
    assert [(one.select, dict(one.values)) for one in found.overrides] == [
        ("android-*", {"bits": 8}),
        ("*-hub", {"max_drift": Limit(limit=0.5)}),
    ]


def test_one_model_and_one_target_as_for_export(tmp_path: Path) -> None:
    found = read_configuration(written(tmp_path, 'model = "owner/Big.Name-1B"\ntarget = "ios"\n'))
    assert found.models == (ModelEntry(name="big.name-1b", source="owner/Big.Name-1B"),)
    assert found.targets == ("ios",)


def test_models_may_be_a_list(tmp_path: Path) -> None:
    found = read_configuration(written(tmp_path, 'models = ["demo", "a/one", "./two"]'))
    assert [(one.name, one.source) for one in found.models] == [
        ("demo", None),
        ("one", "a/one"),
        ("two", str(tmp_path / "two")),
    ]


def test_the_table_of_a_pyproject(tmp_path: Path) -> None:
    path = written(tmp_path, '[project]\nname = "app"\n[tool.edgeq]\nbits = 8\n', "pyproject.toml")
    assert read_configuration(path).values == {"bits": 8}
    assert find_configuration(tmp_path) == path
    own = written(tmp_path, "bits = 4\n")
    assert find_configuration(tmp_path) == own


def test_no_settings_are_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no edgeq\.toml here"):
        find_configuration(tmp_path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_configuration(tmp_path / "edgeq.toml")
    with pytest.raises(UsageError, match=r"no table tool\.edgeq"):
        read_configuration(written(tmp_path, '[project]\nname = "app"\n', "pyproject.toml"))


@pytest.mark.parametrize(
    ("text", "where", "remedy"),
    [
        ("bit = 4", "edgeq.toml has no value 'bit'", "'bits'"),
        ("[[override]]\nselect = '*'\nmax_memry = 1", "override 1 has no value 'max_memry'", "'max_memory'"),
        ("max_size = { limt = 4 }", "max_size has no value 'limt'", "'limit'"),
        ("max_size = { limit = 4, level = 'warning' }", "level of max_size has no value 'warning'", "'warn'"),
        ("task = 'text-generator'", "task has no value", "'text-generation'"),
        ("effort = 'fastest'", "effort has no value", "'fast'"),
        ("tokenizer = 'graphs'", "tokenizer has no value", "'graph'"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(tmp_path: Path, text: str, where: str, remedy: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        read_configuration(written(tmp_path, text))
    assert where in caught.value.what
    assert f"Did you mean {remedy}?" in caught.value.remedy


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("bits = ", "is not TOML"),
        ("bits = true", "bits the value True"),
        ("bits = 'four'", "bits the value 'four'"),
        ("symmetric = 1", "symmetric the value 1"),
        ("method = 4", "method the value 4"),
        ("calibration = 3", "calibration the value 3"),
        ("calibration = 'nowhere.txt'", "nowhere.txt, which is no file"),
        ("recipe = ''", "recipe the value ''"),
        ("max_size = 'much'", "'much' is not a size"),
        ("max_size = 1.5", "max_size the value 1.5"),
        ("max_size = -1", "max_size the value -1"),
        ("max_memory = 0", "a max_memory of 0"),
        ("max_memory = true", "max_memory the value True"),
        ("max_memory = { level = 'warn' }", "max_memory has no limit"),
        ("max_drift = '0.1'", "max_drift the value '0.1'"),
        ("max_drift = nan", "max_drift the value nan"),
        ("min_decode_tokens_per_second = 0", "a min_decode_tokens_per_second of 0"),
        ("models = 3", "models names no models"),
        ("models = []", "models names no models"),
        ("[models]\na = 1", "models names no models"),
        ("[models]\n'A b' = 'x'", "cannot be called 'A b'"),
        ("models = ['a/x', 'b/x']", "two models are called 'x'"),
        ("model = 'x'\nmodels = ['y']", "both model and models"),
        ("target = 'ios'\ntargets = ['android']", "both target and targets"),
        ("targets = 'ios'", "targets names no targets"),
        ("targets = []", "targets names no targets"),
        ("targets = ['ios', 'ios']", "the target 'ios' twice"),
        ("override = 3", "override is not a list of tables"),
        ("[[override]]\nbits = 4", "override 1 selects no cells"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_configuration(written(tmp_path, text))
    assert what in caught.value.what


def test_paths_are_those_of_the_settings_not_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sub" / "m").mkdir(parents=True)
    (tmp_path / "sub" / "c.txt").write_text("text")
    written(tmp_path / "sub", "models = ['m']\ncalibration = 'c.txt'\n")
    monkeypatch.chdir(tmp_path)
    found = read_configuration(Path("sub") / "edgeq.toml")
    assert found.models[0].source == str(Path("sub") / "m")
    assert found.values["calibration"] == Path("sub") / "c.txt"
