"""`edgeq build` on real bundles: what is done again, a budget that cannot be met, and a kill half-way."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from edgeq import cli
from edgeq.bundle.manifest import verify
from edgeq.store.model import QuantizedModel
from runtime_tests.commands import contents, start
from tests.tiny_models import tiny_bert, tiny_llama

SETTINGS = """
targets = ["android", "rpi5-8gb"]
bits = 8
max_size = "20 MB"
max_memory = "1 GiB"
min_decode_tokens_per_second = { limit = 1e9, level = "warn" }

[models]
writer = "models/writer"
search = "models/search"
"""
CELLS = ["android-writer", "android-search", "rpi5-8gb-writer", "rpi5-8gb-search"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models and their settings, built once."""
    directory = tmp_path_factory.mktemp("project")
    tiny_llama(directory / "models" / "writer")
    tiny_bert(directory / "models" / "search")
    (directory / "edgeq.toml").write_text(SETTINGS)
    assert cli.run(["build", "--config", str(directory / "edgeq.toml"), "--output", str(directory / "out")]) == 0
    return directory


@pytest.fixture
def place(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project as working directory, with the settings that it was built with."""
    monkeypatch.chdir(project)
    (project / "edgeq.toml").write_text(SETTINGS)
    return project


def cells(output: Path) -> dict[str, dict[str, Any]]:
    found = json.loads((output / "build.json").read_text())["cells"]
    return {cell["name"]: cell for cell in found}


def digests(output: Path) -> dict[str, str]:
    """The weights of each cell, as its artifact says."""
    return {name: str(cell["report"]["weights"]["digest"]) for name, cell in cells(output).items()}


def test_every_cell_is_a_whole_bundle_and_a_model_is_quantized_once(place: Path) -> None:
    found = cells(place / "out")
    assert list(found) == CELLS
    for name, cell in found.items():
        assert (cell["verdict"], cell["reused"]) == ("passed", False)
        assert verify(place / "out" / name).target == cell["target"]
    weights = digests(place / "out")
    assert weights["android-writer"] == weights["rpi5-8gb-writer"]
    assert weights["android-search"] == weights["rpi5-8gb-search"]
    stores = [QuantizedModel.open(path) for path in (place / "out" / ".edgeq" / "stores").glob("*/store")]
    assert {store.weights_digest for store in stores} == set(weights.values())
    assert len(stores) == 2
    # a language model that is too slow is warned of; an encoder has nothing to decode
    assert [name for name, cell in found.items() if cell["warnings"]] == ["android-writer", "rpi5-8gb-writer"]


def test_again_redoes_nothing(place: Path) -> None:
    before = contents(place / "out")
    assert cli.run(["build", "--output", "out"]) == 0
    after = contents(place / "out")
    assert all(cell["reused"] for cell in cells(place / "out").values())
    del before["build.json"], after["build.json"]
    assert after == before


def test_an_impossible_budget_is_exit_1_and_that_cell_alone_red(place: Path) -> None:
    (place / "edgeq.toml").write_text(f"{SETTINGS}\n[[override]]\nselect = 'rpi5-*-writer'\nmax_memory = '1 MiB'\n")
    before = contents(place / "out")
    files = ["--junit", "junit.xml", "--markdown", "summary.md", "--sarif", "edgeq.sarif"]
    assert cli.run(["build", "--output", "out", *files]) == 1
    after = contents(place / "out")
    del before["build.json"], after["build.json"]
    assert after == before
    failed = ElementTree.parse(place / "junit.xml").getroot().findall(".//failure/..")  # noqa: S314 - our own
    assert [(case.get("classname"), case.get("name")) for case in failed] == [("rpi5-8gb-writer", "peak_dirty_bytes")]
    red = [line for line in (place / "summary.md").read_text().splitlines() if line.startswith("| ") and "❌" in line]
    assert [line.split(" | ")[0] for line in red] == ["| rpi5-8gb-writer"]
    (run,) = json.loads((place / "edgeq.sarif").read_text())["runs"]
    assert [one["ruleId"] for one in run["results"] if one["level"] == "error"] == ["peak_dirty_bytes"]
    # and green again when it is lifted, with nothing done
    (place / "edgeq.toml").write_text(SETTINGS)
    assert cli.run(["build", "--output", "out"]) == 0
    assert all(cell["reused"] for cell in cells(place / "out").values())


def test_a_killed_build_ends_with_the_same_digests(place: Path) -> None:
    """Killed within the second of two cells; what is left is then made in processes of their own."""
    arguments = ("build", "--output", "killed", "--only", "*-writer")
    killed = start(*arguments, cwd=place)
    assert killed.stderr is not None
    for line in killed.stderr:
        if line.startswith("rpi5-8gb-writer: running"):
            break
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert not (place / "killed" / "build.json").exists()
    assert not (place / "killed" / "rpi5-8gb-writer").exists()

    assert cli.run([*arguments, "--jobs", "2"]) == 0
    found = cells(place / "killed")
    assert {name: cell["reused"] for name, cell in found.items()} == {"android-writer": True, "rpi5-8gb-writer": False}
    whole = digests(place / "out")
    assert digests(place / "killed") == {name: whole[name] for name in found}
    # nothing that was on the way is left
    assert {path.name for path in (place / "killed").iterdir()} == {*found, "build.json", ".edgeq"}
    assert {path.name for path in (place / "killed" / ".edgeq").iterdir()} == {"cells", "stores", "lock", "logs"}
    for name in found:
        verify(place / "killed" / name)
