"""Distillation starts from the store's weights, keeps what helps unseen sequences, and stays storable."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from edgeq.core.recipe import Recipe
from edgeq.errors import UnsupportedModelError
from edgeq.models.source import SourceModel, load
from edgeq.progress import SilentProgress
from edgeq.quantization import allocate, distillation, quantize, trainable
from edgeq.quantization.distillation import Distilled, _batches, _Model, _Student, check_size, distill
from edgeq.quantization.grid import storable
from edgeq.quantization.trainable import TrainedGrid
from edgeq.store import TRAINING, QuantizedModel
from edgeq.targets.profiles import load_profile
from tests.tiny_models import tiny_bert, tiny_gpt2, tiny_llama

SEQUENCES = tuple(tuple(np.random.default_rng(row).integers(5, 200, 24).tolist()) for row in range(32))
LENGTHS = tuple(sequence[: 6 + row % 18] for row, sequence in enumerate(SEQUENCES))


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough for models of two blocks."""
    monkeypatch.setattr(distillation, "STEPS", {3: 50, 4: 150})


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
        turned = store.info.weights[name].input_axis == 0
        grid = TrainedGrid.of(store.quantized(name), model.read(name), turned=turned)
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


def test_the_best_effort_takes_more_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distillation, "STEPS", {3: 5})
    model = load(tiny_llama(tmp_path / "source"))
    store = draft(model, tmp_path / "store")
    seen: list[tuple[int, int]] = []

    def advance(done: int, total: int, _: str) -> None:
        seen.append((done, total))

    distill(model, store, linears(store), SEQUENCES, advance)
    distill(model, store, linears(store), SEQUENCES, advance, effort="best")
    assert seen == [(step, 5) for step in range(1, 6)] + [(step, 15) for step in range(1, 16)]


def test_what_does_not_help_is_thrown_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainable, "CODE_RATE", {3: 3.0})
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
    store = draft(model, tmp_path / "store")
    student = _Student.of(model, store, linears(store))
    rows = [LENGTHS[0], LENGTHS[17]]

    def parts(rows: list[tuple[int, ...]]) -> tuple[float, float]:
        """The loss, and of it what is of sentences."""
        (batch,) = _batches(rows)
        wanted = student.model(batch)
        with torch.no_grad():
            found = student.model(batch, {name: grid.weight() for name, grid in student.grids.items()})
            return float(student.loss(batch, wanted)), float(student._turned_away(wanted, found, batch.mask))

    lengths = [len(row) for row in rows]
    (first, first_sentence), (second, second_sentence), (both, sentences) = (
        parts(rows[:1]),
        parts(rows[1:]),
        parts(rows),
    )
    assert sentences == pytest.approx((first_sentence + second_sentence) / 2, rel=1e-3)
    tokens = (first - first_sentence) * lengths[0] + (second - second_sentence) * lengths[1]
    assert both - sentences == pytest.approx(tokens / sum(lengths), rel=1e-3)
    assert first_sentence > 0


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
def test_answers_kept_before_the_head_are_the_model_s(make: object, tmp_path: Path) -> None:
    assert callable(make)
    model = load(make(tmp_path / "source"))
    reference = _Model.load(model)
    batches = _batches(SEQUENCES)
    answers = reference.answers(batches)
    calls: list[object] = []
    reference.module.register_forward_hook(lambda *_: calls.append(None))
    torch.testing.assert_close(answers(0), reference(batches[0]), rtol=1e-4, atol=1e-5)
    assert len(calls) == 1  # which this comparison makes: no answer runs the model again


class Bent(nn.Module):
    """A language model that bends its logits after the head, as some do."""

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        self.whole = whole

    def get_output_embeddings(self) -> nn.Module:
        head = self.whole.get_submodule("lm_head")
        assert isinstance(head, nn.Module)
        return head

    def forward(self, **inputs: object) -> SimpleNamespace:
        return SimpleNamespace(logits=self.whole(**inputs).logits.tanh())


def test_logits_that_are_bent_after_the_head_are_computed_by_the_whole_model(tmp_path: Path) -> None:
    model = load(tiny_llama(tmp_path / "source"))
    reference = _Model(module=Bent(_Model.load(model).module), info=model.info)
    batches = _batches(SEQUENCES)
    with torch.no_grad():
        torch.testing.assert_close(reference.answers(batches)(0), reference(batches[0]))


def test_a_killed_training_goes_on_and_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distillation, "SAVED_EVERY", 20)
    model = load(tiny_llama(tmp_path / "source"))
    store = draft(model, tmp_path / "store")
    whole = distill(model, store, linears(store), SEQUENCES, SilentProgress().advance)

    class KilledError(Exception):
        pass

    def kill(done: int, total: int, label: str) -> None:
        if done == 30:
            raise KilledError

    state = tmp_path / "training.pt"
    with pytest.raises(KilledError):
        distill(model, store, linears(store), SEQUENCES, kill, state=state)
    seen: list[int] = []
    found = distill(model, store, linears(store), SEQUENCES, lambda done, total, label: seen.append(done), state=state)
    assert seen[0] == 21
    for name, tensor in whole.tensors.items():
        np.testing.assert_array_equal(found.tensors[name].codes, tensor.codes)
        np.testing.assert_array_equal(found.tensors[name].scales, tensor.scales)


def test_a_killed_store_goes_on_with_its_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distillation, "SAVED_EVERY", 20)
    model = load(tiny_llama(tmp_path / "source"))
    plan = allocate(model, Recipe(bits=3, method="distill"), load_profile("edge"))
    whole = quantize(model, plan, tmp_path / "whole", calibration=SEQUENCES)

    def kill(done: int, total: int, label: str) -> None:
        if (done, label) == (30, "distilling"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(model, plan, tmp_path / "cut", calibration=SEQUENCES, progress=kill)
    assert (tmp_path / "cut" / TRAINING).is_file()
    seen: list[int] = []

    def note(done: int, total: int, label: str) -> None:
        seen.extend([done] if label == "distilling" else [])

    again = quantize(model, plan, tmp_path / "cut", calibration=SEQUENCES, progress=note)
    assert seen[0] == 21
    assert again.weights_digest == whole.weights_digest
    assert not (tmp_path / "cut" / TRAINING).exists()


def test_a_state_that_was_cut_short_is_not_used(tmp_path: Path) -> None:
    model = load(tiny_llama(tmp_path / "source"))
    store = draft(model, tmp_path / "store")
    state = tmp_path / "training.pt"
    state.write_bytes(b"PK")
    seen: list[int] = []
    distill(model, store, linears(store), SEQUENCES, lambda done, total, label: seen.append(done), state=state)
    assert seen[0] == 1


def test_models_that_do_not_fit_in_memory_are_refused(tmp_path: Path) -> None:
    model = load(tiny_llama(tmp_path / "source"))
    with pytest.raises(UnsupportedModelError, match="too many"):
        check_size(replace(model.info, parameters=distillation.LARGEST_TRAINED + 1))
