"""Candidates, sensitivities and allocations of tiny models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgeq.core.recipe import Recipe, Rule
from edgeq.core.scheme import Scheme
from edgeq.errors import UsageError
from edgeq.models import source
from edgeq.models.source import SourceModel
from edgeq.quantization import allocate, sensitivity
from edgeq.quantization.allocate import plan_for
from edgeq.quantization.budget import Choices, best_within, choices, frontier, smallest_within
from edgeq.quantization.candidates import unit
from edgeq.quantization.observation import Subject, observe
from edgeq.targets.profiles import load_profile
from tests.tiny_models import tiny_bert, tiny_gpt2, tiny_llama

TARGET = load_profile("android")


def sequences(count: int = 6, length: int = 24) -> list[tuple[int, ...]]:
    random = np.random.default_rng(1)
    return [tuple(random.integers(3, 384, length).tolist()) for _ in range(count)]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> SourceModel:
    directory = tiny_llama(tmp_path_factory.mktemp("llama"), layers=3)
    return source.load(directory)


@pytest.fixture(scope="module")
def found(llama: SourceModel) -> Choices:
    return choices(llama, Recipe(), TARGET, ("onnx",), sequences=sequences())


def test_linears_that_read_one_input_are_one_unit(found: Choices) -> None:
    names = [unit.name for unit in found.units if ".1." in unit.name]
    assert names == [
        "model.layers.1.self_attn.q_proj+k_proj+v_proj",
        "model.layers.1.self_attn.o_proj",
        "model.layers.1.mlp.gate_proj+up_proj",
        "model.layers.1.mlp.down_proj",
    ]
    assert "model.embed_tokens" in {unit.name for unit in found.units}


def test_gpt2_and_encoders_have_units_too(tmp_path: Path) -> None:
    for model in (tiny_gpt2(tmp_path / "gpt2"), tiny_bert(tmp_path / "bert")):
        loaded = source.load(model)
        got = choices(loaded, Recipe(), TARGET, ("onnx",), sequences=sequences())
        linears = [name for name, weight in loaded.info.weights.items() if weight.role == "linear"]
        assert {name for unit in got.units for name in unit.tensors} >= set(linears)
        assert all(min(costs) > 0 for costs in got.costs)


def test_prediction_agrees_with_measurement(llama: SourceModel) -> None:
    subject = Subject(llama.directory, llama.info)
    observation = observe(subject, sequences(16, 48))
    names = observation.groups[3]
    found = unit("u", names, llama.info, Recipe(), target=TARGET, formats=("onnx",))
    predicted = sensitivity.predicted(subject, [found], observation)
    measured = sensitivity.measured(subject, [found], predicted, sequences(16, 48))
    four = [candidate.scheme.bits == 4 for candidate in found.candidates]
    ratio = np.array(measured[0])[four] / np.array(predicted[0])[four]
    assert np.all((ratio > 0.5) & (ratio < 2.0))


def test_measuring_leaves_the_model_as_it_was(llama: SourceModel) -> None:
    subject = Subject(llama.directory, llama.info)
    before = {name: values.clone() for name, values in subject.parameters.items()}
    schemes = {"model.layers.0.mlp.up_proj.weight": Scheme(bits=2)}
    assert sensitivity.divergence_of(subject, schemes, sequences()) > 0
    assert sensitivity.divergence_of(subject, {}, sequences()) == pytest.approx(0, abs=1e-12)
    assert all(torch.equal(values, before[name]) for name, values in subject.parameters.items())


@pytest.mark.parametrize("bits", [4, 8])
def test_a_plan_beats_the_uniform_one_of_the_same_bytes(llama: SourceModel, found: Choices, bits: int) -> None:
    plan = plan_for(llama.info, Recipe(bits=bits, embedding_bits=bits), TARGET, ("onnx",))
    uniform = {name: assignment.scheme for name, assignment in plan.assignments.items()}
    chosen = [
        next(index for index, c in enumerate(unit.candidates) if c.scheme == uniform[unit.tensors[0]])
        for unit in found.units
    ]
    same = found.allocation(chosen)
    best = best_within(found, same.bytes)
    assert best.bytes <= same.bytes
    assert best.drift < same.drift
    subject = Subject(llama.directory, llama.info)
    unseen = sequences(12, 40)[6:]
    ours = sensitivity.divergence_of(subject, best.schemes(), unseen)
    assert ours < sensitivity.divergence_of(subject, uniform, unseen)


def test_the_recipe_gives_the_allocation_back(llama: SourceModel, found: Choices) -> None:
    best = best_within(found, (found.least_bytes + found.most_bytes) // 2)
    plan = allocate(llama, best.recipe(), TARGET, ("onnx",))
    assert {name: plan.assignments[name].scheme for name in best.schemes()} == best.schemes()


def test_what_the_user_fixed_stays(llama: SourceModel) -> None:
    rule = Rule(tensors="model.layers.0.*.o_proj.weight", scheme=Scheme(bits=8), method="rtn")
    recipe = Recipe(group_size=32, symmetric=True, embedding_bits=8, rules=(rule,))
    got = choices(llama, recipe, TARGET, ("onnx",), sequences=sequences(2))
    best = best_within(got, got.least_bytes)
    schemes = best.schemes()
    assert schemes["model.embed_tokens.weight"].bits == 8
    assert "model.layers.0.self_attn.o_proj.weight" not in schemes
    assert all(scheme.symmetric and scheme.group_size == 32 for scheme in schemes.values())
    assert allocate(llama, best.recipe(), TARGET).assignments["model.layers.0.self_attn.o_proj.weight"].method == "rtn"


def test_the_frontier_falls_from_the_least_to_the_most(found: Choices) -> None:
    points = frontier(found)
    assert points[0].bytes == found.least_bytes
    assert [p.drift for p in points] == sorted((p.drift for p in points), reverse=True)
    middle = points[len(points) // 2]
    smallest = smallest_within(found, middle.drift)
    assert smallest.bytes <= middle.bytes
    assert smallest.drift <= middle.drift


def test_budgets_that_cannot_be_met(found: Choices) -> None:
    with pytest.raises(UsageError, match="lightest"):
        best_within(found, found.least_bytes - 1)
    with pytest.raises(UsageError, match="lightest"):
        smallest_within(found, found.least_drift / 2)


def test_formats_hold_what_their_kernels_have(llama: SourceModel) -> None:
    names = ("model.layers.0.mlp.up_proj.weight",)
    onnx = unit("u", names, llama.info, Recipe(), target=TARGET, formats=("onnx",))
    assert {c.scheme.bits for c in onnx.candidates} == {2, 4, 8, 16}  # 3-bit codes would take 4
    executorch = unit("u", names, llama.info, Recipe(), target=TARGET, formats=("executorch",))
    assert all(c.scheme.symmetric or c.scheme.bits < 4 or c.scheme.is_float for c in executorch.candidates)
    coreml = unit("u", names, llama.info, Recipe(), target=load_profile("ios"), formats=("coreml",))
    assert {c.scheme.bits for c in coreml.candidates if c.scheme.codebook == "palette"} == {2, 3, 4, 6}
