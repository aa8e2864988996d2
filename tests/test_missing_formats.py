"""A format whose package is not installed is refused before any work."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgeq.api import export
from edgeq.errors import RuntimeUnavailableError


@pytest.mark.parametrize(
    ("package", "target", "format"), [("coremltools", "ios", "coreml"), ("executorch", "android", "executorch")]
)
def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, package: str, target: str, format: str
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RuntimeUnavailableError, match="pip install"):
        export(target=target, format=format, output=tmp_path / "bundle")
    assert not list(tmp_path.iterdir())
