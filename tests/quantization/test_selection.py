"""Calibration is kept only where sequences that it has not seen gain by it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeq.core.recipe import Plan, Recipe
from edgeq.core.scheme import Scheme
from edgeq.core.tensor import QuantizedTensor
from edgeq.models.architecture import load_module
from edgeq.models.source import SourceModel, load
from edgeq.progress import SilentProgress
from edgeq.quantization import allocate, quantize, selection, sequential
from edgeq.quantization.gptq import gptq
from edgeq.quantization.moments import Moments
from edgeq.quantization.selection import HELD_OUT, Selected, divergences, quantize_selected
from edgeq.store import QuantizedModel
from edgeq.targets.profiles import load_profile
from tests.tiny_models import tiny_bert, tiny_gpt2, tiny_llama

SEQUENCES = tuple(tuple(np.random.default_rng(row).integers(5, 200, 24).tolist()) for row in range(32))


def plan_of(model: SourceModel, method: str, bits: int = 3) -> Plan:
    return allocate(model, Recipe(bits=bits, method=method), load_profile("edge"))


def selected(model: SourceModel, directory: Path, method: str = "gptq") -> Selected:
    plan, advance = plan_of(model, method), SilentProgress().advance
    return quantize_selected(model, plan, directory, calibration=SEQUENCES, progress=advance)


def digests(store: QuantizedModel) -> dict[str, str | None]:
    return {name: store.tensor_digest(name) for name in store.names()}


def test_calibration_that_helps_is_kept(tmp_path: Path) -> None:
    model = load(tiny_llama(tmp_path / "source"))
    found = selected(model, tmp_path / "store")
    assert found.calibrated is not None
    assert found.rounded is not None
    assert found.calibrated < found.rounded
    assert found.note is None
    seen = [row for at, row in enumerate(SEQUENCES) if at % HELD_OUT]
    alone = quantize(model, plan_of(model, "gptq"), tmp_path / "alone", calibration=seen)
    assert digests(found.store) == digests(alone)


def test_calibration_that_harms_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def harmful(weights: torch.Tensor, moments: Moments, scheme: Scheme, name: str) -> QuantizedTensor:
        return gptq(weights.flip(0), moments, scheme, name)

    monkeypatch.setattr(sequential, "gptq", harmful)
    model = load(tiny_llama(tmp_path / "source"))
    found = selected(model, tmp_path / "store")
    assert found.note is not None
    assert "calibration was not kept" in found.note
    plan = plan_of(model, "gptq")
    rounded = quantize(model, selection._rounded(plan), tmp_path / "rounded")
    assert digests(found.store) == digests(rounded)
    linears = [a for name, a in plan.assignments.items() if model.info.weights[name].is_block_linear]
    assert linears
    assert {found.store.plan.assignments[name].method for name in plan.assignments} == {"mse", "rtn"}


def test_calibration_that_makes_nan_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "divergences", lambda *_: [float("nan"), 0.1])
    found = selected(load(tiny_llama(tmp_path / "source")), tmp_path / "store")
    assert found.note is not None
    assert {assignment.method for assignment in found.store.plan.assignments.values()} == {"mse", "rtn"}


def test_methods_without_calibration_are_not_judged(tmp_path: Path) -> None:
    model = load(tiny_llama(tmp_path / "source"))
    found = selected(model, tmp_path / "store", method="mse")
    assert (found.calibrated, found.rounded, found.note) == (None, None, None)


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
def test_divergences_are_those_of_the_whole_models(make: Callable[[Path], Path], tmp_path: Path) -> None:
    model = load(make(tmp_path / "source"))
    plan = plan_of(model, "gptq")
    store = quantize(model, selection._rounded(plan), tmp_path / "store")
    module, _ = load_module(model.directory, model.info.task, dtype="float32")
    ids = torch.tensor(SEQUENCES[:4])
    with torch.no_grad():
        wanted = module(input_ids=ids).logits.double().log_softmax(-1)
        for name, parameter in module.named_parameters():
            if name in store.names():
                parameter.copy_(torch.from_numpy(np.array(store.dequantized(name))))
        found = module(input_ids=ids).logits.double().log_softmax(-1)
    expected = float((wanted.exp() * (wanted - found)).sum(-1).mean())
    reads = [store.dequantized, selection._rounding(model, plan), model.read]
    stored, rounded, itself = divergences(model, SEQUENCES[:4], reads)
    assert stored == pytest.approx(expected, rel=1e-3)
    assert rounded == pytest.approx(stored, rel=1e-5)
    assert itself == pytest.approx(0.0, abs=1e-7)


def test_encoders_are_judged_by_their_embeddings(tmp_path: Path) -> None:
    model = load(tiny_bert(tmp_path / "source"))
    found = selected(model, tmp_path / "store")
    assert found.calibrated is not None
    assert 0 < found.calibrated < 0.5
