"""The npm packages: pinned, installed on request, whole or absent. npm itself is played by a script."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from edgeq.errors import RuntimeUnavailableError
from edgeq.progress import SilentProgress
from edgeq.runtimes.browser import packages, programs

FILES = [f"node_modules/{path}" for path in packages.VENDORED.values()]


@pytest.fixture(autouse=True)
def nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(programs, "NODE_PACKAGE", "no_such_package")


def play_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """An npm that runs a shell script where the packages are to come."""
    programs = tmp_path / "bin"
    programs.mkdir()
    npm = programs / "npm"
    npm.write_text(f"#!/bin/sh\n{script}\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")


def left_behind(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache" / "edgeq").iterdir())


WRITES = "\n".join(f"mkdir -p $(dirname {path}); echo x > {path}" for path in FILES) + (
    """\necho '{"version": "1.2.3"}' > node_modules/onnxruntime-web/package.json; echo "$@" > arguments"""
)


def test_every_version_is_pinned_and_hashed() -> None:
    wanted = json.loads(packages.PACKAGE.read_text())["dependencies"]
    locked = json.loads(packages.LOCK.read_text())["packages"]
    assert all(version[0].isdigit() for version in wanted.values())
    for name, version in wanted.items():
        assert locked[f"node_modules/{name}"]["version"] == version
    assert all(entry.get("integrity", "").startswith("sha512-") for path, entry in locked.items() if path)
    # Where they come from is for npm's own settings to say.
    assert not any("resolved" in entry for entry in locked.values())


def test_transformers_js_gets_the_runtime_that_it_asks_for() -> None:
    locked = json.loads(packages.LOCK.read_text())["packages"]
    asked = locked["node_modules/@huggingface/transformers"]["dependencies"]["onnxruntime-web"]
    assert locked["node_modules/onnxruntime-web"]["version"] == asked
    assert "node_modules/@huggingface/transformers/node_modules/onnxruntime-web" not in locked


def test_directory_is_named_by_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = packages.cache_directory()
    assert first.parent == tmp_path / "cache" / "edgeq"
    other = tmp_path / "other-lock.json"
    other.write_text("{}")
    monkeypatch.setattr(packages, "LOCK", other)
    assert packages.cache_directory() != first


def test_nothing_is_found_before_it_is_installed() -> None:
    assert not packages.is_installed()
    for find in (packages.package_directory, packages.vendored_files, lambda: packages.package_version("x")):
        with pytest.raises(RuntimeUnavailableError, match="edgeq doctor --install-browser"):
            find()


def test_install_puts_everything_in_place_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play_npm(tmp_path, monkeypatch, WRITES)
    directory = packages.install(SilentProgress())
    assert directory == packages.package_directory() == packages.cache_directory() / "node_modules"
    assert (directory.parent / "arguments").read_text().split() == list(packages.NPM_CI)
    assert packages.package_version("onnxruntime-web") == "1.2.3"
    assert set(packages.vendored_files()) == {*packages.VENDORED, "onnxruntime-web.LICENSE"}
    monkeypatch.setenv("PATH", "")
    assert packages.install(SilentProgress()) == directory
    assert left_behind(tmp_path) == [packages.cache_directory().name]


def test_scripts_of_packages_are_not_run() -> None:
    assert "--ignore-scripts" in packages.NPM_CI


@pytest.mark.parametrize("script", ["echo no route >&2; mkdir -p node_modules/x; exit 1", "echo no route >&2; exit 0"])
def test_failing_npm_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    play_npm(tmp_path, monkeypatch, script)
    with pytest.raises(RuntimeUnavailableError, match="npm failed: no route"):
        packages.install(SilentProgress())
    assert not packages.is_installed()
    assert left_behind(tmp_path) == []


def test_npm_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play_npm(tmp_path, monkeypatch, "exec sleep 60")
    monkeypatch.setattr(packages, "INSTALL_SECONDS", 0.2)
    with pytest.raises(RuntimeUnavailableError, match="npm did not end"):
        packages.install(SilentProgress())
    assert left_behind(tmp_path) == []


def test_no_npm_has_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeUnavailableError, match=r"There is no npm\. Install it"):
        packages.install(SilentProgress())


def test_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play_npm(tmp_path, monkeypatch, WRITES)
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(RuntimeUnavailableError, match="set XDG_CACHE_HOME"):
        packages.install(SilentProgress())


def test_whoever_comes_second_takes_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process has put the same packages in place while npm was at work."""
    final = packages.cache_directory()
    play_npm(tmp_path, monkeypatch, f"{WRITES}\nmkdir -p {final}/node_modules; echo first > {final}/mark")
    packages.install(SilentProgress())
    assert (final / "mark").read_text() == "first\n"
    assert left_behind(tmp_path) == [final.name]


def test_missing_file_of_a_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play_npm(tmp_path, monkeypatch, WRITES)
    directory = packages.install(SilentProgress())
    (directory / packages.VENDORED["transformers.min.js"]).unlink()
    with pytest.raises(RuntimeUnavailableError, match=r"transformers\.min\.js is missing"):
        packages.vendored_files()
    with pytest.raises(RuntimeUnavailableError, match="playwright-core is incomplete"):
        packages.package_version("playwright-core")
