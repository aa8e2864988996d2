"""A build's directory with a double of the work."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeq.building import processes
from tests.building.samples import Worker, project


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """An `edgeq.toml` with two models and two targets."""
    return project(tmp_path)


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    """In the place of the work itself."""
    double = Worker()
    monkeypatch.setattr(processes, "perform", double)
    return double
