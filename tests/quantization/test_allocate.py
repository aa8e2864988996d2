"""Which tensor gets which scheme."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from edgeq.core.model import WeightInfo
from edgeq.core.recipe import Assignment, Recipe, Rule
from edgeq.core.scheme import Scheme
from edgeq.core.target import Format
from edgeq.errors import UnknownNameError, UsageError
from edgeq.quantization import allocate
from tests.quantization.fake_model import FakeModel, fake_model, target

UP, DOWN = "layers.1.up.weight", "layers.1.down.weight"


@pytest.fixture
def model(tmp_path: Path) -> FakeModel:
    return fake_model(tmp_path / "model")


def with_inputs(model: FakeModel, inputs: int) -> FakeModel:
    weight = WeightInfo(name="w", shape=(64, inputs), dtype="F32", role="linear")
    model.info = dataclasses.replace(model.info, weights={"w": weight}, tied={})
    return model


def test_four_bits_by_default(model: FakeModel) -> None:
    plan = allocate(model, Recipe(), target())
    for name, group_size in ((UP, 64), (DOWN, 32)):
        assert plan.assignments[name] == Assignment(scheme=Scheme(bits=4, group_size=group_size), method="mse")
    assert plan.assignments["embed.weight"] == Assignment(scheme=Scheme(bits=8, group_size=64), method="mse")


def test_only_matrices_that_matter_are_quantized(model: FakeModel) -> None:
    plan = allocate(model, Recipe(), target())
    matrices = {f"layers.{block}.{name}.weight" for block in range(3) for name in ("up", "down")}
    assert set(plan.assignments) == {"embed.weight", *matrices}  # not the table of two rows, not the tied head


def test_eight_bits(model: FakeModel) -> None:
    plan = allocate(model, Recipe(bits=8), target())
    assert plan.assignments[UP].scheme == Scheme(bits=8, group_size=64)
    assert plan.assignments["embed.weight"].scheme == Scheme(bits=8, group_size=64)


@pytest.mark.parametrize("bits", [2, 3])
def test_few_bits_take_short_groups_with_zero_points_in_every_format(model: FakeModel, bits: int) -> None:
    formats: dict[Format, Scheme] = {
        "onnx": Scheme(bits=bits, group_size=32),
        "executorch": Scheme(bits=bits, group_size=32, scale_dtype="bfloat16", signed_scales=False),
        "coreml": Scheme(bits=bits, group_size=32, scale_dtype="float16"),
    }
    for format, scheme in formats.items():
        plan = allocate(model, Recipe(bits=bits), target(), (format,))
        assert plan.assignments[UP] == Assignment(scheme=scheme, method="mse")
        assert plan.assignments["embed.weight"].scheme.bits == 8


def test_palettes_of_two_to_eight_bits(model: FakeModel) -> None:
    for bits in (2, 3, 4, 6, 8):
        plan = allocate(model, Recipe(bits=bits, method="kmeans"), target(), ("coreml",))
        assert plan.assignments[UP].scheme.label() == f"palette{bits} r4"
    with pytest.raises(UsageError, match="6 bits"):
        allocate(model, Recipe(bits=6), target())


def test_sixteen_bits_is_float16_everywhere(model: FakeModel) -> None:
    plan = allocate(model, Recipe(bits=16), target())
    assert {assignment.scheme.bits for assignment in plan.assignments.values()} == {16}
    assert {assignment.method for assignment in plan.assignments.values()} == {"none"}


def test_what_the_recipe_says_wins_over_the_defaults(model: FakeModel) -> None:
    recipe = Recipe(bits=4, method="rtn", group_size=128, symmetric=True, embedding_bits=4)
    plan = allocate(model, recipe, target())
    expected = Assignment(scheme=Scheme(bits=4, group_size=128, symmetric=True), method="rtn")
    assert set(plan.assignments.values()) == {expected}


def test_large_models_quantize_embeddings_like_the_rest(model: FakeModel) -> None:
    model.info = dataclasses.replace(model.info, parameters=2_000_000_000)
    assert allocate(model, Recipe(bits=4), target()).assignments["embed.weight"].scheme.bits == 4
    assert allocate(model, Recipe(bits=8), target()).assignments["embed.weight"].scheme.bits == 8


@pytest.mark.parametrize(("inputs", "group_size"), [(512, 64), (576, 64), (96, 32), (172, 32)])
def test_groups_divide_the_inputs_where_they_can(model: FakeModel, inputs: int, group_size: int) -> None:
    plan = allocate(with_inputs(model, inputs), Recipe(bits=8), target())
    assert plan.assignments["w"].scheme.group_size == group_size


def test_later_rules_win(model: FakeModel) -> None:
    eight, sixteen = Scheme(bits=8, group_size=None), Scheme(bits=16)
    rules = (
        Rule(tensors="layers.*", scheme=eight, method="rtn"),
        Rule(tensors="layers.1.*", scheme=sixteen, method="auto"),
        Rule(tensors="types.weight", scheme=eight, method="auto"),
    )
    plan = allocate(model, Recipe(rules=rules), target())
    assert plan.assignments["layers.0.up.weight"] == Assignment(scheme=eight, method="rtn")
    assert plan.assignments[UP] == Assignment(scheme=sixteen, method="none")
    assert plan.assignments["types.weight"] == Assignment(scheme=eight, method="mse")
    assert "layers.0.norm.weight" not in plan.assignments


def test_a_rule_may_name_the_tied_copy(model: FakeModel) -> None:
    rule = Rule(tensors="head.*", scheme=Scheme(bits=4), method="rtn")
    plan = allocate(model, Recipe(rules=(rule,)), target())
    assert plan.assignments["embed.weight"] == Assignment(scheme=Scheme(bits=4), method="rtn")


@pytest.mark.parametrize(
    ("tensors", "hint"),
    [("layers.1.upp.weight", UP), ("norm.weight", "Did you mean"), ("zzzz", "edgeq inspect")],
)
def test_a_rule_that_matches_nothing_is_refused(model: FakeModel, tensors: str, hint: str) -> None:
    rule = Rule(tensors=tensors, scheme=Scheme(bits=4), method="rtn")
    with pytest.raises(UsageError) as caught:
        allocate(model, Recipe(rules=(rule,)), target())
    assert hint in caught.value.remedy


def test_unknown_methods_are_refused(model: FakeModel) -> None:
    with pytest.raises(UnknownNameError):
        allocate(model, Recipe(method="quip"), target())
    with pytest.raises(UnknownNameError):
        allocate(model, Recipe(rules=(Rule(tensors=UP, scheme=Scheme(bits=4), method="quip"),)), target())


def test_the_demo_model_stays_under_its_budget() -> None:
    """The shapes of the embedded model: vocabulary 4096, hidden 256, intermediate 768, 6 layers, tied embedding."""
    embedding = Scheme(bits=8, group_size=64).stored_bytes(4096, 256)
    shapes = [(256, 256), (128, 256), (128, 256), (256, 256), (768, 256), (768, 256), (256, 768)]
    linears = 6 * sum(Scheme(bits=4, group_size=64).stored_bytes(*shape) for shape in shapes)
    parameters = 4096 * 256 + 6 * sum(outputs * inputs for outputs, inputs in shapes)
    assert (embedding + linears) / (2 * parameters) < 0.38


def test_executorch_takes_symmetric_groups_and_channels_with_short_scales(model: FakeModel) -> None:
    plan = allocate(model, Recipe(), target(), ("onnx", "executorch"))
    four = Scheme(bits=4, group_size=32, symmetric=True, scale_dtype="bfloat16", signed_scales=False)
    assert plan.assignments[UP].scheme == plan.assignments[DOWN].scheme == four
    eight = Scheme(bits=8, group_size=None, symmetric=True, scale_dtype="bfloat16", signed_scales=False)
    assert plan.assignments["embed.weight"].scheme == eight


def test_core_ml_computes_in_float16(model: FakeModel) -> None:
    plan = allocate(model, Recipe(), target(), ("coreml",))
    assert plan.assignments[UP].scheme == Scheme(bits=4, group_size=64, scale_dtype="float16")


def test_the_neural_engine_wants_channels(model: FakeModel) -> None:
    on_engine = dataclasses.replace(target(), compute_unit="neural_engine")
    plan = allocate(model, Recipe(bits=8), on_engine, ("coreml",))
    expected = Scheme(bits=8, group_size=None, symmetric=True, scale_dtype="float16")
    assert plan.assignments[UP].scheme == expected


def test_palettes_and_nf4_are_for_core_ml(model: FakeModel) -> None:
    palettes = allocate(model, Recipe(method="kmeans"), target(), ("coreml",))
    assert palettes.assignments[UP].method == "kmeans"
    assert palettes.assignments[UP].scheme.codebook == "palette"
    assert palettes.assignments["embed.weight"].scheme.bits == 8
    nf4 = allocate(model, Recipe(method="nf4"), target(), ("coreml",))
    assert nf4.assignments[UP].scheme.codebook == "nf4"
    assert nf4.assignments["embed.weight"].method == "mse"
    formats: tuple[Format, ...]
    for formats in (("onnx",), ("coreml", "executorch")):
        with pytest.raises(UsageError, match="only Core ML"):
            allocate(model, Recipe(method="kmeans"), target(), formats)
    with pytest.raises(UsageError, match="no groups"):
        allocate(model, Recipe(method="kmeans", group_size=32), target(), ("coreml",))


PALETTE = Scheme(bits=4, group_size=None, symmetric=True, scale_dtype="float16", codebook="palette", palette_rows=4)


def method_of(model: FakeModel, recipe: Recipe, *, has_text: bool = False, tensor: str = UP) -> str:
    return allocate(model, recipe, target(), ("coreml",), has_text=has_text).assignments[tensor].method


@pytest.mark.parametrize("method", ["kmeans", "nf4"])
def test_codebooks_of_linears_are_fitted_to_text_where_there_is_some(model: FakeModel, method: str) -> None:
    assert method_of(model, Recipe(method=method)) == method
    assert method_of(model, Recipe(method=method), has_text=True) == "refit"
    assert method_of(model, Recipe(method=method, effort="best")) == "refit"
    assert allocate(model, Recipe(method=method, effort="best"), target(), ("coreml",)).effort == "best"
    table = {"kmeans": "kmeans", "nf4": "mse"}[method]  # NF4 has no 8 bits
    assert method_of(model, Recipe(method=method), has_text=True, tensor="embed.weight") == table


@pytest.mark.parametrize(
    ("method", "has_text", "expected"),
    [
        ("auto", False, "kmeans"),
        ("auto", True, "kmeans"),  # what "auto" comes to with text is decided elsewhere
        ("kmeans", True, "refit"),
        ("gptq", False, "gptq"),
        ("refit", False, "refit"),
    ],
)
def test_methods_of_rules_with_codebooks(model: FakeModel, method: str, has_text: bool, expected: str) -> None:
    rules = (Rule(tensors=UP, scheme=PALETTE, method=method),)
    assert method_of(model, Recipe(rules=rules), has_text=has_text) == expected


def test_a_table_has_no_inputs_to_fit_a_codebook_to(model: FakeModel) -> None:
    rules = (Rule(tensors="embed.weight", scheme=PALETTE, method="refit"),)
    assert method_of(model, Recipe(rules=rules), tensor="embed.weight") == "kmeans"


@pytest.mark.parametrize("method", ["awq", "distill", "mse", "nf4"])
def test_methods_that_fit_no_palettes_are_refused(model: FakeModel, method: str) -> None:
    with pytest.raises(UsageError, match="palette4") as caught:
        allocate(model, Recipe(rules=(Rule(tensors=UP, scheme=PALETTE, method=method),)), target(), ("coreml",))
    assert '"kmeans"' in caught.value.remedy
