"""The embedded model's place."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeq.errors import SourceNotFoundError
from edgeq.models import demo_model


def test_the_demo_lies_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_model, "__file__", str(tmp_path / "demo_model.py"))
    with pytest.raises(SourceNotFoundError, match="no demo model"):
        demo_model.demo_directory()
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "config.json").write_text("{}")
    assert demo_model.demo_directory() == tmp_path / "demo"
