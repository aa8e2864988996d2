"""The doctor: what runs each format here, and what to do where nothing does."""

from __future__ import annotations

import platform
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner

from edgeq import cli, doctor
from edgeq.cli.verbs import app
from edgeq.core.target import Format
from edgeq.doctor import Diagnosis, FormatSupport, examine
from edgeq.errors import RuntimeUnavailableError
from edgeq.progress import Progress, SilentProgress
from edgeq.runtimes import extensions, opening
from edgeq.runtimes.arm64 import emulator, install, lock
from edgeq.runtimes.browser import packages, programs
from edgeq.targets.formats import FORMATS


@pytest.fixture(autouse=True)
def loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runtimes that load, without loading them: that they do is for `runtime_tests`."""
    for format in get_args(Format):
        monkeypatch.setattr(opening.runtime_of(format), "version", lambda format=format: f"1.2-{format}")


def formats(diagnosis: Diagnosis) -> dict[Format, FormatSupport]:
    return {support.name: support for support in diagnosis.formats}


def test_every_format_has_a_row() -> None:
    diagnosis = examine()
    assert tuple(formats(diagnosis)) == get_args(Format)
    assert all(support.usable for support in diagnosis.formats)
    assert formats(diagnosis)["onnx"].detail == "onnxruntime 1.2-onnx"
    assert formats(diagnosis)["executorch"].detail == "executorch 1.2-executorch"
    assert diagnosis.missing == ()


def test_core_ml_says_who_runs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "is_reference_executed", lambda format: format == "coreml")
    elsewhere = formats(examine())["coreml"]
    assert elsewhere.usable
    assert "the reference interpreter runs it: drift is judged, memory is not" in elsewhere.detail
    monkeypatch.setattr(opening, "is_reference_executed", lambda format: False)
    monkeypatch.setattr(platform, "mac_ver", lambda: ("15.1", ("", "", ""), "arm64"))
    assert formats(examine())["coreml"].detail == "Core ML of macOS 15.1, coremltools 1.2-coreml"


def test_optional_packages_that_are_absent_are_no_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = replace(FORMATS["executorch"], distributions=("executorch", "no-such-package"))
    monkeypatch.setitem(FORMATS, "executorch", absent)
    diagnosis = examine()
    support = formats(diagnosis)["executorch"]
    assert (support.usable, support.detail) == (False, "pip install 'edgeq[executorch]'")
    assert diagnosis.missing == ()


@pytest.mark.parametrize("broken", ["onnx", "executorch"])
def test_installed_runtime_that_does_not_load_is_missing(monkeypatch: pytest.MonkeyPatch, broken: Format) -> None:
    def load() -> str:
        raise RuntimeUnavailableError("It cannot be imported (a library is gone).", remedy="Install it again.")

    monkeypatch.setattr(opening.runtime_of(broken), "version", load)
    diagnosis = examine()
    assert [missing.name for missing in diagnosis.missing] == [broken]
    assert diagnosis.missing[0].remedy == "It cannot be imported (a library is gone). Install it again."


def test_missing_requirement_has_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "REQUIREMENTS", (("no-such-runtime", "this test"),))
    assert [missing.remedy for missing in examine().missing] == ["pip install no-such-runtime"]


def browser_parts(diagnosis: Diagnosis) -> dict[str, tuple[bool, str]]:
    return {part.name: (part.usable, part.detail) for part in diagnosis.browser}


def test_machine_without_a_browser_is_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Who wants no browser bundles lacks nothing; what they would need is said."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(programs, "PLACES", ())
    monkeypatch.setattr(programs, "NODE_PACKAGE", "no_such_package")
    monkeypatch.delenv(programs.VARIABLE, raising=False)

    def absent() -> str:
        raise RuntimeUnavailableError("The npm packages are not installed.", remedy=packages.REMEDY)

    monkeypatch.setattr(opening.runtime_of("transformersjs"), "version", absent)
    diagnosis = examine()
    assert diagnosis.missing == ()
    support = formats(diagnosis)["transformersjs"]
    assert (support.usable, support.detail.endswith("edgeq doctor --install-browser.")) == (False, True)
    parts = browser_parts(diagnosis)
    assert [usable for usable, _ in parts.values()] == [False, False, False]
    assert "Node 20" in parts["node"][1]
    assert "edgeq doctor --install-browser" in parts["npm packages"][1]
    assert "Node runs the models instead" in parts["chromium"][1]


def test_packages_without_node_are_a_defect(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (packages.cache_directory() / "node_modules").mkdir(parents=True)

    def broken() -> str:
        raise RuntimeUnavailableError("There is no Node.", remedy=programs.NODE_REMEDY)

    monkeypatch.setattr(opening.runtime_of("transformersjs"), "version", broken)
    assert [missing.name for missing in examine().missing] == ["transformersjs"]


def test_text_graphs_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    (operators,) = examine().text_graphs
    assert operators.usable
    assert operators.detail == f"onnxruntime-extensions {metadata.version('onnxruntime-extensions')}"
    monkeypatch.setattr(extensions, "find_spec", lambda _: None)
    (operators,) = examine().text_graphs
    assert not operators.usable
    assert "pip install 'edgeq[tokenizer]'" in operators.detail


def test_arm64_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setenv(lock.VARIABLE, str(tmp_path))
    (kernels,) = examine().arm64
    assert (kernels.usable, kernels.detail) == (
        False,
        "The arm64 emulator is not installed. Install it: edgeq doctor --install arm64.",
    )
    lock.installed_directory().mkdir()
    (broken,) = examine().arm64
    assert not broken.usable
    assert "What is installed for arm64 does not run" in broken.detail
    monkeypatch.setattr(emulator.Emulator, "probe", lambda self, cpu: "1.2")
    (kernels,) = examine().arm64
    assert kernels.usable
    assert kernels.detail.startswith("onnxruntime 1.2 under qemu 10.0.2 in ")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert examine().arm64[0].detail == "this machine's own"


def test_install_by_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[str] = []
    monkeypatch.setattr(packages, "install", lambda progress: asked.append("browser"))
    monkeypatch.setattr(install, "install", lambda progress: asked.append("arm64"))
    assert cli.run(["doctor", "--install", "arm64", "--json"]) == 0
    assert cli.run(["doctor", "--install", "browser", "--json"]) == 0
    assert asked == ["arm64", "browser"]
    capsys.readouterr()
    assert cli.run(["doctor", "--install", "arm46"]) == 2
    assert "arm64" in capsys.readouterr().err


def test_install_is_asked_of_npm_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Progress] = []
    monkeypatch.setattr(packages, "install", asked.append)
    progress = SilentProgress()
    doctor.install_browser(progress)
    assert asked == [progress]
    assert CliRunner().invoke(app, ["doctor", "--install-browser", "--json"]).exit_code == 0
    assert len(asked) == 2
