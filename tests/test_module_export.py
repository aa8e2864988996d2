"""`edgeq.export` of a plain module: what it refuses before any work, with a remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import edgeq
from edgeq.errors import UnknownNameError, UsageError
from edgeq.settings import as_task
from tests.tiny_models import tiny_llama

X = (torch.zeros(2, 64),)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": "auto"}, "bits='auto' measures text"),
        ({"format": "all"}, "format='all' needs other formats"),
        ({"format": "executorch"}, "exported to ONNX alone, not to executorch"),
        ({"target": "ios"}, "exported to ONNX alone, not to coreml"),
        ({"target": "browser"}, "exported to ONNX alone, not to transformersjs"),
        ({"method": "gptq"}, "'gptq' does not go with a plain torch module"),
        ({"method": "refit"}, "'refit' does not go with a plain torch module"),
        ({"method": "kmeans"}, "'kmeans' does not go with a plain torch module"),
        ({"task": "feature-extraction"}, "task does not go with a plain torch module"),
        ({"calibration": Path("text")}, "calibration does not go with"),
        ({"evaluation": Path("text")}, "evaluation does not go with"),
        ({"tokenizer": "graph"}, "has no tokenizer"),
        ({"bits": 5}, "5 bits cannot be stored"),
        ({"example_inputs": None}, "cannot be traced without inputs"),
        ({"model": "path"}, "Example inputs go with a torch module, not with 'path'"),
        ({"model": None}, "Example inputs go with a torch module, not with None"),
    ],
)
def test_what_does_not_go_with_a_module(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"model": nn.Linear(64, 64), "example_inputs": X, "output": tmp_path / "bundle"}
    arguments |= options
    with pytest.raises(UsageError, match=message):
        edgeq.export(**arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_is_no_module(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'module' is that of a torch module"):
        edgeq.export(tiny_llama(tmp_path / "model"), task="module", output=tmp_path / "bundle")
    with pytest.raises(UnknownNameError, match="task has no value 'module'"):
        as_task("module")


def test_an_unknown_method_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="'msee'"):
        edgeq.export(nn.Linear(64, 64), X, method="msee", output=tmp_path / "bundle")


def test_a_failed_export_leaves_nothing(tmp_path: Path) -> None:
    module = nn.Linear(64, 64)
    with pytest.raises(UsageError, match="fails on its example inputs"):
        edgeq.export(module, (torch.zeros(2, 3),), output=tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []
    assert module.training


def test_an_existing_output_is_refused_first(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        edgeq.export(nn.Linear(64, 64), X, output=tmp_path)
