"""Hub ids, with the network played by a function."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from edgeq.errors import EXIT_USAGE, SourceNotFoundError
from edgeq.models.hub import is_hub_id, snapshot


@pytest.mark.parametrize("name", ["owner/name", "Qwen/Qwen2.5-0.5B", "a/b@main", "a/b@refs/pr/1"])
def test_hub_ids(name: str) -> None:
    assert is_hub_id(name)


@pytest.mark.parametrize("name", ["name", "/a/b", "./a/b", "../b", "a/b/c", "a/..", "~/x", "a\\b", "https://x.y/a", ""])
def test_not_hub_ids(name: str) -> None:
    assert not is_hub_id(name)


def test_only_data_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: dict[str, Any] = {}

    def download(repository: str, **options: Any) -> str:  # noqa: ANN401
        asked.update(options, repository=repository)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert snapshot("owner/name@v1") == tmp_path
    assert (asked["repository"], asked["revision"]) == ("owner/name", "v1")
    wanted = {
        name
        for name in ("model.safetensors", "config.json", "pytorch_model.bin", "modeling.py", "1_Pooling/config.json")
        if any(fnmatch(name, pattern) for pattern in asked["allow_patterns"])
    }
    assert wanted == {"model.safetensors", "config.json", "1_Pooling/config.json"}


@pytest.mark.parametrize("error", [LocalEntryNotFoundError("a\nb"), OSError("name resolution\nfailed"), ValueError("")])
def test_every_failure_is_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(_: str, **__: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(SourceNotFoundError, match="owner/name") as caught:
        snapshot("owner/name")
    assert caught.value.exit_code == EXIT_USAGE
    assert "\n" not in str(caught.value)
