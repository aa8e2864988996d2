"""modules.json in its spellings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgeq.errors import CorruptInputError, UnsafeInputError, UnsupportedModelError
from edgeq.models.sentence_modules import pooling_files, read_pooling
from tests.tiny_models import PoolingName, save_sentence_modules

MODULES = [{"idx": 0, "path": "", "type": "x.Transformer"}, {"idx": 1, "path": "1_Pooling", "type": "x.Pooling"}]


def write(directory: Path, modules: object, pooling: dict[str, Any] | None = None) -> Path:
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(pooling or {}))
    return directory


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "lasttoken"])
@pytest.mark.parametrize("normalize", [True, False])
def test_switches(tmp_path: Path, pooling: PoolingName, normalize: bool) -> None:
    save_sentence_modules(tmp_path, pooling=pooling, normalize=normalize, dimension=8)
    assert read_pooling(tmp_path) == (pooling, normalize)
    assert pooling_files(tmp_path) == ("modules.json", "1_Pooling/config.json")


@pytest.mark.parametrize("named", ["cls", ["cls"]])
def test_named_modes(tmp_path: Path, named: object) -> None:
    assert read_pooling(write(tmp_path, MODULES, {"embedding_dimension": 8, "pooling_mode": named})) == ("cls", False)


def test_no_modules_means_no_pooling(tmp_path: Path) -> None:
    assert read_pooling(tmp_path) == ("none", False)
    assert pooling_files(tmp_path) == ()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, r"cls \+ mean"),
        ({"pooling_mode_weightedmean_tokens": True}, "weightedmean"),
        ({"pooling_mode": "mean_sqrt_len_tokens"}, "mean_sqrt_len"),
        ({"pooling_mode": "none"}, "none"),
        ({}, "not named"),
    ],
)
def test_other_poolings_are_refused_by_name(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UnsupportedModelError, match=words):
        read_pooling(write(tmp_path, MODULES, settings))


def test_other_steps_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="Dense"):
        read_pooling(write(tmp_path, [{"path": "2_Dense", "type": "sentence_transformers.models.Dense"}]))


def test_a_transformer_in_a_folder_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="Move the files"):
        read_pooling(write(tmp_path, [{"path": "0_Transformer", "type": "x.Transformer"}]))


def test_a_path_that_climbs_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsafeInputError):
        read_pooling(write(tmp_path, [{"path": "../..", "type": "x.Pooling"}]))


@pytest.mark.parametrize("text", ["{", "{}", "[1]", '[{"type": "x.Pooling"}]'])
def test_a_broken_list_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "modules.json").write_text(text)
    with pytest.raises(CorruptInputError, match=r"modules\.json"):
        read_pooling(tmp_path)
