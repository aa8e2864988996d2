"""Distillation starts from the store's weights, keeps what helps unseen sequences, and stays storable."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeq.core.recipe import Recipe
from edgeq.errors import UnsupportedModelError
from edgeq.models.source import SourceModel, load
from edgeq.progress import SilentProgress
from edgeq.quantization import allocate, distillation, quantize
from edgeq.quantization.distillation import Distilled, check_size, distill
from edgeq.quantization.grid import storable
from edgeq.store import QuantizedModel
from edgeq.targets.profiles import load_profile
from tests.tiny_models import tiny_bert, tiny_gpt2, tiny_llama

SEQUENCES = tuple(tuple(np.random.default_rng(row).integers(5, 200, 24).tolist()) for row in range(32))
LENGTHS = tuple(sequence[: 6 + row % 18] for row, sequence in enumerate(SEQUENCES))


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough for models of two blocks."""
    monkeypatch.setattr(distillation, "STEPS", {3: 50, 4: 50})


def draft(model: SourceModel, directory: Path, *, bits: int = 3, target: str = "edge") -> QuantizedModel:
    profile = load_profile(target)
    return quantize(model, allocate(model, Recipe(bits=bits, method="rtn"), profile, profile.formats[-1:]), directory)


def linears(store: QuantizedModel) -> list[str]:
    return [name for name in store.names() if store.is_quantized(name) and store.info.weights[name].role == "linear"]


def trained(model: SourceModel, store: QuantizedModel, sequences: tuple[tuple[int, ...], ...] = SEQUENCES) -> Distilled:
    return distill(model, store, linears(store), sequences, SilentProgress().advance)


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
def test_training_starts_from_the_weights_of_the_store(make: object, tmp_path: Path) -> None:
    assert callable(make)
    model = load(make(tmp_path / "source"))
    store = draft(model, tmp_path / "store")
    for name in linears(store):
        grid = distillation._Grid.of(store, name, model.read(name))
        np.testing.assert_array_equal(grid.weight().detach().numpy(), store.dequantized(name))
        found, expected = grid.result(), store.quantized(name)
        np.testing.assert_array_equal(found.codes, expected.codes)
        np.testing.assert_array_equal(found.scales, expected.scales)


def test_unseen_sequences_gain_and_scales_stay_storable(tmp_path: Path) -> None:
    model = load(tiny_llama(tmp_path / "source"))
    store = draft(model, tmp_path / "store", bits=4, target="android")  # XNNPACK: bfloat16 scales, all positive
    found = trained(model, store)
    assert found.after < found.before
    changed = 0
    for name, tensor in found.tensors.items():
        before = store.quantized(name)
        assert tensor.scheme == before.scheme
        changed += int((tensor.codes != before.codes).sum())
        scales = torch.from_numpy(tensor.scales)
        assert (scales > 0).all()
        assert torch.equal(storable(scales, tensor.scheme.scale_dtype), scales)
    assert changed > 0
    assert set(found.floats) == {name for name in store.names() if "norm" in name}


def test_what_does_not_help_is_thrown_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distillation, "CODE_RATE", {3: 3.0})
    monkeypatch.setattr(distillation, "STEPS", {3: 5})
    model = load(tiny_llama(tmp_path / "source"))
    found = trained(model, draft(model, tmp_path / "store"))
    assert found.tensors == {}
    assert found.floats == {}
    assert found.after == found.before


def test_encoders_are_trained_on_their_hidden_states(tmp_path: Path) -> None:
    model = load(tiny_bert(tmp_path / "source"))
    found = trained(model, draft(model, tmp_path / "store"), LENGTHS)
    assert found.after < found.before


def test_padding_does_not_count(tmp_path: Path) -> None:
    model = load(tiny_bert(tmp_path / "source"))
    reference = distillation._Model.load(model.directory, "feature-extraction")
    store = draft(model, tmp_path / "store")
    weights = {name: torch.from_numpy(store.dequantized(name)) for name in linears(store)}
    rows = [LENGTHS[0], LENGTHS[17]]
    [(ids, mask)] = distillation._batches(rows, [])
    together = float(distillation._loss(reference, reference, weights, ids, mask)) * sum(map(len, rows))
    alone = 0.0
    for row in rows:
        [(ids, mask)] = distillation._batches([row], [])
        alone += float(distillation._loss(reference, reference, weights, ids, mask)) * len(row)
    assert together == pytest.approx(alone, rel=1e-4)


def test_models_that_do_not_fit_in_memory_are_refused(tmp_path: Path) -> None:
    model = load(tiny_llama(tmp_path / "source"))
    with pytest.raises(UnsupportedModelError, match="too many"):
        check_size(replace(model.info, parameters=distillation.LARGEST_TRAINED + 1))
