"""What "auto" comes to: by effort, bits and model; and what a report says of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgeq import composition, pipeline
from edgeq.composition import TRAINED_BY_DEFAULT, compose
from edgeq.core.recipe import Effort, Recipe, Rule
from edgeq.core.scheme import Scheme
from edgeq.errors import UnsupportedModelError
from edgeq.models.source import SourceModel, load
from edgeq.quantization import distillation
from edgeq.quantization.distillation import LARGEST_TRAINED
from tests.tiny_models import tiny_llama


@pytest.fixture
def model(tmp_path: Path) -> SourceModel:
    return load(tiny_llama(tmp_path / "source"))


def of_size(model: SourceModel, parameters: int) -> SourceModel:
    return replace(model, info=replace(model.info, parameters=parameters))


@pytest.mark.parametrize(
    ("effort", "parameters", "method"),
    [
        ("fast", 1_000, "refit"),
        ("default", TRAINED_BY_DEFAULT, "distill"),
        ("default", TRAINED_BY_DEFAULT + 1, "refit"),
        ("best", LARGEST_TRAINED, "distill"),
        ("best", LARGEST_TRAINED + 1, "reconstruct"),
    ],
)
def test_auto_depends_on_effort_and_size(model: SourceModel, effort: Effort, parameters: int, method: str) -> None:
    found = compose(of_size(model, parameters), Recipe(bits=4, effort=effort))
    assert found.recipe.method == method
    assert found.is_chosen


def test_a_method_that_was_named_stays(model: SourceModel) -> None:
    asked = Recipe(bits=4, method="rtn", effort="best")
    found = compose(model, asked)
    assert (found.recipe, found.is_chosen) == (asked, False)


def test_eight_bits_need_no_calibration(model: SourceModel) -> None:
    assert not compose(model, Recipe(bits=8)).is_chosen
    assert compose(model, Recipe(bits=8, embedding_bits=4)).is_chosen


def test_rules_are_composed_as_well(model: SourceModel) -> None:
    low = Rule(tensors="*q_proj*", scheme=Scheme(bits=3), method="auto")
    nf4 = Rule(tensors="*k_proj*", scheme=Scheme(bits=4, symmetric=True, codebook="nf4"), method="auto")
    named = Rule(tensors="*v_proj*", scheme=Scheme(bits=3), method="hqq")
    found = compose(model, Recipe(bits=8, effort="fast", rules=(low, nf4, named)))
    assert [rule.method for rule in found.recipe.rules] == ["refit", "refit", "hqq"]


def test_blocks_that_are_no_chain_are_rounded_and_it_is_said(
    model: SourceModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise UnsupportedModelError("The model cannot run block by block: it is odd.", remedy="None.")

    monkeypatch.setattr(composition, "BlockRunner", refuse)
    report = pipeline.export_formats(model.directory, output=tmp_path / "bundle", validate=False)[0]
    assert "quantized without calibration: The model cannot run block by block: it is odd." in report.notes


def test_an_export_is_calibrated_by_default(
    model: SourceModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distillation, "STEPS", {4: 10})
    store = pipeline.quantize(model.directory, output=tmp_path / "store")
    assert {assignment.method for assignment in store.plan.assignments.values()} == {"distill", "mse"}
