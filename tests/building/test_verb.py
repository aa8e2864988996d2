"""`edgeq build`: flags, exit codes, files, and what goes where."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from edgeq import building, cli
from edgeq.building.run import BUILD_FILE
from edgeq.core.build import Build
from edgeq.core.records import from_plain
from edgeq.core.report import Verdict
from tests.building.samples import SETTINGS, Worker


@pytest.fixture
def place(settings: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the settings in it."""
    monkeypatch.chdir(settings.parent)
    return settings.parent


def test_the_settings_here_are_built_to_build_edgeq(
    place: Path, worker: Worker, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["build"]) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[0].startswith("cell ")
    assert shown.out.splitlines()[-1] == "verdict  passed: 4 passed"
    assert "android-writer: working ..." in shown.err
    assert (place / "build" / "edgeq" / BUILD_FILE).is_file()


def test_every_flag_is_handed_on(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, object]] = []

    def record(configuration: Path, **more: object) -> Build:
        calls.append({"configuration": configuration, **more})
        return Build(edgeq_version="0", settings="", verdict=Verdict.PASSED, cells=())

    monkeypatch.setattr(building, "build", record)
    flags = "--config other.toml --only ios-* --only *-demo --jobs 3 --output out --json --force"
    assert cli.run(["build", *flags.split()]) == 0
    assert calls[0].pop("progress") is not None
    assert calls == [
        {
            "configuration": Path("other.toml"),
            "only": ["ios-*", "*-demo"],
            "jobs": 3,
            "force": True,
            "output": Path("out"),
        }
    ]


@pytest.mark.parametrize(("flags", "code"), [([], 0), (["--require"], 3)])
def test_no_verdict_is_exit_3_where_one_is_required(
    flags: list[str], code: int, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = Build(edgeq_version="0", settings="", verdict=Verdict.NOT_VALIDATED, cells=())
    monkeypatch.setattr(building, "build", lambda *_, **__: unknown)
    assert cli.run(["build", *flags]) == code


def test_json_is_what_build_json_says(place: Path, worker: Worker, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["build", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((place / "build" / "edgeq" / BUILD_FILE).read_text())
    assert from_plain(Build, printed, "stdout").cells[0].name == "android-writer"


def test_an_impossible_budget_is_exit_1_and_red_in_every_file(place: Path, worker: Worker) -> None:
    assert cli.run(["build"]) == 0
    worker.forget()
    (place / "edgeq.toml").write_text(f"{SETTINGS}[[override]]\nselect = 'rpi5-8gb-search'\nmax_size = 1\n")
    files = {name: place / "ci" / f"out.{name}" for name in ("junit", "sarif", "markdown", "html")}
    arguments = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    assert cli.run(["build", *arguments]) == 1
    assert worker.tasks == []
    failures = ElementTree.parse(files["junit"]).getroot().findall(".//failure/..")  # noqa: S314 - our own
    assert [(case.get("classname"), case.get("name")) for case in failures] == [("rpi5-8gb-search", "bundle_bytes")]
    (run,) = json.loads(files["sarif"].read_text())["runs"]
    assert [one["level"] for one in run["results"]] == ["error"]
    assert [line.split(" | ")[0] for line in files["markdown"].read_text().splitlines() if "❌" in line] == [
        "**❌ failed: 3 passed, 1 failed; 4 reused**",
        "| rpi5-8gb-search",
        "## rpi5-8gb-search ❌",
    ]
    assert "4 bundles: 1 failed, 3 passed" in files["html"].read_text()


def test_a_warning_is_exit_0(place: Path, worker: Worker, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "edgeq.toml").write_text(f"max_size = {{ limit = 1, level = 'warn' }}\n{SETTINGS}")
    assert cli.run(["build"]) == 0
    assert "android-writer: warning: bundle_bytes:" in capsys.readouterr().out


def test_a_cell_that_is_not_built_is_exit_1(place: Path, worker: Worker, capsys: pytest.CaptureFixture[str]) -> None:
    worker.broken = {"android-search"}
    assert cli.run(["build", "--html", "page.html"]) == 1
    assert "3 bundles: 3 passed" in (place / "page.html").read_text()
    assert "android-search: android-search is too strange" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "ios-*"], "--only 'ios-*' matches no cell"),
        (["--config", "nowhere.toml"], "nowhere.toml cannot be read"),
        (["--jobs", "0"], "jobs"),
        (["--output", "edgeq.toml/out"], "cannot be created"),
    ],
)
def test_usage_errors_are_exit_2_and_one_line(
    place: Path, worker: Worker, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert cli.run(["build", *arguments]) == 2
    shown = capsys.readouterr()
    assert words in shown.err.splitlines()[-1]
    assert shown.out == ""
    assert worker.tasks == []


def test_a_directory_without_settings_is_exit_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(["build"]) == 2
    assert "There is no edgeq.toml here" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_build_without_a_bundle_has_no_page(place: Path, worker: Worker) -> None:
    worker.broken = {"android-search"}
    assert cli.run(["build", "--only", "android-search", "--html", "page.html"]) == 1
    assert not (place / "page.html").exists()
