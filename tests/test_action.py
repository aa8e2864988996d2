"""The GitHub Action: each step's script is run as the runner would, with an edgeq that notes what it is asked."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[1]
ACTION = yaml.safe_load((REPOSITORY / "action.yml").read_text(encoding="utf-8"))
STEPS: dict[str, Any] = {step.get("id", step.get("name", "")): step for step in ACTION["runs"]["steps"]}
EDGEQ = """#!/usr/bin/env python3
import os, pathlib, sys
with open(os.environ["CALLS"], "a") as calls:
    calls.write("\\n".join(sys.argv[1:]) + "\\n--\\n")
if "--markdown" in sys.argv:
    pathlib.Path(sys.argv[sys.argv.index("--markdown") + 1]).write_text("# what " + sys.argv[1] + " says\\n")
sys.exit(int(os.environ["CODE"]))
"""


@dataclass
class Runner:
    """What a step's script is given, and what it left."""

    directory: Path
    code: int = 0
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, step: str, **inputs: str) -> int:
        """The step's exit code; its inputs are environment variables, as in action.yml."""
        assert set(inputs) == set(STEPS[step]["env"])
        files = {name: str(self.directory / name) for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "CALLS")}
        done = subprocess.run(
            ["/bin/bash", "-c", STEPS[step]["run"]],
            cwd=self.directory,
            env={
                "PATH": f"{self.directory / 'bin'}{os.pathsep}{os.environ['PATH']}",
                "GITHUB_ACTION_PATH": str(REPOSITORY),
                "CODE": str(self.code),
                **files,
                **inputs,
            },
            check=False,
            capture_output=True,
        )
        return done.returncode

    def outputs(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.text("GITHUB_OUTPUT").splitlines())

    def calls(self) -> list[list[str]]:
        return [call.strip().split("\n") for call in self.text("CALLS").split("--\n") if call.strip()]

    def text(self, name: str) -> str:
        path = self.directory / name
        return path.read_text(encoding="utf-8") if path.exists() else ""


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    for program in ("edgeq", "python"):
        path = tmp_path / "bin" / program
        path.parent.mkdir(exist_ok=True)
        path.write_text(EDGEQ, encoding="utf-8")
        path.chmod(0o755)
    return Runner(tmp_path)


def build(runner: Runner, *, config: str = "", only: str = "", require: str = "false") -> int:
    inputs = {"EDGEQ_CONFIG": config, "EDGEQ_ONLY": only, "EDGEQ_JOBS": "2", "EDGEQ_OUTPUT": "build/edgeq"}
    reports = str(runner.directory / "reports")
    return runner.run("build", **inputs, EDGEQ_REQUIRE=require, EDGEQ_REPORTS=reports)


def compare(runner: Runner, limits: str = "") -> int:
    reports = runner.directory / "reports"
    reports.mkdir(exist_ok=True)
    inputs = {"EDGEQ_BASELINE": str(runner.directory / "baseline"), "EDGEQ_OUTPUT": "build/edgeq"}
    return runner.run("compare", **inputs, EDGEQ_REPORTS=str(reports), EDGEQ_GROWTH_LIMITS=limits)


def write_build(runner: Runner, text: str) -> None:
    path = runner.directory / "build" / "edgeq" / "build.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_no_input_is_pasted_into_a_script() -> None:
    """An expression within `run` would let an input be a command."""
    assert not [step for step in STEPS.values() if "${{" in step.get("run", "")]


def test_every_script_is_a_step_and_every_reference_exists() -> None:
    scripts = {path.name for path in (REPOSITORY / "action").iterdir()}
    assert scripts == {name for step in STEPS.values() for name in re.findall(r"action/(\w+\.sh)", step.get("run", ""))}
    text = (REPOSITORY / "action.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"inputs\.([\w-]+)", text)) == set(ACTION["inputs"])
    assert set(re.findall(r"steps\.(\w+)\.", text)) <= set(STEPS)


def test_build_asks_for_reports_and_shows_them(runner: Runner) -> None:
    assert build(runner, config="ci.toml", only="android-* ios-*") == 0
    (call,) = runner.calls()
    assert call[:5] == ["build", "--output", "build/edgeq", "--jobs", "2"]
    assert call[-6:] == ["--config", "ci.toml", "--only", "android-*", "--only", "ios-*"]
    assert {"--markdown", "--junit", "--sarif", "--html"} <= set(call)
    assert runner.text("GITHUB_STEP_SUMMARY") == "# what build says\n"
    assert runner.outputs() == {"summary": f"{runner.directory}/reports/edgeq.md", "exit-code": "0"}


def test_verdicts_can_be_required(runner: Runner) -> None:
    build(runner)
    build(runner, require="true")
    assert ["--require" in call for call in runner.calls()] == [False, True]


@pytest.mark.parametrize(("code", "ends_with"), [(1, 0), (2, 2), (3, 0), (5, 5)])
def test_only_a_verdict_lets_the_job_go_on(runner: Runner, code: int, ends_with: int) -> None:
    runner.code = code
    assert build(runner) == ends_with
    assert runner.outputs()["exit-code"] == str(code)


def test_the_first_build_becomes_the_baseline(runner: Runner) -> None:
    write_build(runner, "first")
    assert compare(runner) == 0
    assert runner.calls() == []
    assert (runner.directory / "baseline" / "build.json").read_text() == "first"
    assert runner.outputs() == {"exit-code": "0"}


def test_later_builds_are_compared_and_replace_it(runner: Runner) -> None:
    write_build(runner, "first")
    compare(runner)
    write_build(runner, "second")
    runner.code = 1
    assert compare(runner, "--max-size-growth 5% --max-slowdown 10%") == 0
    (call,) = runner.calls()
    assert call[:3] == ["compare", f"{runner.directory}/baseline", "build/edgeq"]
    assert call[-4:] == ["--max-size-growth", "5%", "--max-slowdown", "10%"]
    assert runner.outputs() == {"comparison": f"{runner.directory}/reports/comparison.md", "exit-code": "1"}
    assert (runner.directory / "baseline" / "build.json").read_text() == "second"


@pytest.mark.parametrize(
    ("built", "compared", "verdict"),
    [("0", "0", "passed"), ("1", "0", "failed"), ("0", "1", "failed"), ("3", "0", "failed"), ("", "", "failed")],
)
def test_the_verdict_is_the_worst(runner: Runner, built: str, compared: str, verdict: str) -> None:
    code = runner.run("verdict", EDGEQ_BUILD_CODE=built, EDGEQ_COMPARE_CODE=compared)
    assert (code, runner.outputs()) == (int(verdict == "failed"), {"verdict": verdict})


def test_install_takes_names_of_extras_only(runner: Runner) -> None:
    step = "Install edgeq"
    assert runner.run(step, EDGEQ_EXTRAS="coreml,browser") == 0
    pip, doctor = runner.calls()
    assert pip[:3] == ["-m", "pip", "install"]
    assert pip[-1].endswith("[coreml,browser]")
    assert pip[-2].endswith("constraints.txt")
    assert doctor == ["doctor", "--install-browser"]
    assert runner.run(step, EDGEQ_EXTRAS="coreml]; echo") == 2
    assert len(runner.calls()) == 2
