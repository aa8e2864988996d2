"""`edgeq serve`: only whole browser bundles, until Ctrl-C."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest

from edgeq import cli
from edgeq.bundle import browser
from edgeq.bundle import stage as stage_module
from edgeq.cli import serve
from tests.bundle.samples import sealed_bundle


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(browser, "vendored_files", dict)
    monkeypatch.setattr(stage_module, "package_version", lambda name: "1")
    return sealed_bundle(tmp_path / "work", tmp_path / "bundle", surface="browser", format="transformersjs")


def test_serves_the_page_with_isolation_until_it_is_interrupted(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def visit(seconds: float) -> None:
        url = capsys.readouterr().out.split()[0]
        with urllib.request.urlopen(url) as answer:  # noqa: S310 - our own, on loopback
            assert "<h1>my-model</h1>" in answer.read().decode()
            assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
            assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        with urllib.request.urlopen(f"{url}edgeq.json") as answer:  # noqa: S310
            assert json.load(answer)["surface"] == "browser"
        raise KeyboardInterrupt

    monkeypatch.setattr(serve, "sleep", visit)
    assert cli.run(["serve", str(bundle), "--port", "0"]) == 0


def test_bundle_that_was_changed_is_not_served(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bundle / "index.html").write_text("mine")
    assert cli.run(["serve", str(bundle)]) == 4
    assert "index.html" in capsys.readouterr().err


def test_bundle_without_a_page_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = sealed_bundle(tmp_path / "work", tmp_path / "bundle", surface="edge")
    assert cli.run(["serve", str(other)]) == 2
    assert "it has no page. Export it with --target browser." in capsys.readouterr().err
