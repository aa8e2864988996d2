"""Calibrated methods through the whole stage: better answers, the same bytes again, nothing left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgeq.core.recipe import Plan, Recipe
from edgeq.errors import InternalError
from edgeq.models.architecture import load_module
from edgeq.models.source import SourceModel, load
from edgeq.profiles import load_profile
from edgeq.quantization import allocate, needs_calibration, quantize, trains
from edgeq.store import QuantizedModel
from tests.tiny_models import tiny_gpt2, tiny_llama

SEQUENCES = tuple(tuple(np.random.default_rng(row).integers(5, 200, 24).tolist()) for row in range(24))
UNSEEN = torch.tensor([np.random.default_rng(row).integers(5, 200, 24).tolist() for row in range(100, 108)])
METHODS = ("gptq", "refit", "distill")


def plan(model: SourceModel, method: str, bits: int = 3) -> Plan:
    return allocate(model, Recipe(bits=bits, method=method), load_profile("edge"))


def store(model: SourceModel, method: str, directory: Path) -> QuantizedModel:
    return quantize(model, plan(model, method), directory, calibration=SEQUENCES)


def divergence(model: SourceModel, quantized: QuantizedModel) -> float:
    """Of the next-token distributions, in nats."""
    module, _ = load_module(model.directory, "text-generation", dtype="float32")
    with torch.no_grad():
        wanted = module(input_ids=UNSEEN).logits.log_softmax(-1)
        for name, parameter in module.named_parameters():
            parameter.copy_(torch.from_numpy(np.array(quantized.dequantized(name))))
        found = module(input_ids=UNSEEN).logits.log_softmax(-1)
    return float((wanted.exp() * (wanted - found)).sum(-1).mean())


def test_turned_matrices_are_calibrated_too(tmp_path: Path) -> None:
    model = load(tiny_gpt2(tmp_path / "source"))
    assert divergence(model, store(model, "gptq", tmp_path / "gptq")) < divergence(
        model, store(model, "rtn", tmp_path / "rtn")
    )


def test_what_reads_text_answers_more_like_the_float_model(tmp_path: Path) -> None:
    model = load(tiny_llama(tmp_path / "source"))
    plain = divergence(model, store(model, "rtn", tmp_path / "rtn"))
    found = {method: divergence(model, store(model, method, tmp_path / method)) for method in METHODS}
    assert found["gptq"] < plain
    assert found["refit"] < plain
    assert found["distill"] < found["gptq"]
    assert {path.name for path in tmp_path.iterdir()} == {"source", "rtn", *METHODS}


def test_a_killed_run_continues_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    model = load(tiny_llama(tmp_path / "source"))
    whole = store(model, "refit", tmp_path / "whole")

    def kill(done: int, total: int, label: str) -> None:
        if label == "block-0":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(model, plan(model, "refit"), tmp_path / "cut", calibration=SEQUENCES, progress=kill)
    again = store(model, "refit", tmp_path / "cut")
    assert again.weights_digest == whole.weights_digest


def test_other_text_is_another_store(tmp_path: Path) -> None:
    model = load(tiny_llama(tmp_path / "source"))
    first = store(model, "gptq", tmp_path / "store")
    second = quantize(model, plan(model, "gptq"), tmp_path / "store", calibration=SEQUENCES[:3])
    assert first.weights_digest != second.weights_digest


def test_a_calibrated_method_must_be_given_text(tmp_path: Path) -> None:
    model = load(tiny_llama(tmp_path / "source"))
    assert needs_calibration(plan(model, "gptq"))
    assert not needs_calibration(plan(model, "mse"))
    assert trains(plan(model, "distill"))
    assert not trains(plan(model, "distill", bits=8))
    with pytest.raises(InternalError, match="nothing to read"):
        quantize(model, plan(model, "gptq"), tmp_path / "store")


def test_the_best_effort_trains(tmp_path: Path) -> None:
    model = load(tiny_llama(tmp_path / "source"))
    assert trains(allocate(model, Recipe(bits=4, effort="best"), load_profile("edge")))
    assert not needs_calibration(allocate(model, Recipe(bits=4), load_profile("edge")))
