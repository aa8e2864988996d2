"""Convolutions are quantized filter by filter; what is too small, or alone with its channel, is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeq.core.recipe import Recipe, Rule
from edgeq.core.scheme import Scheme
from edgeq.models.source import SourceModel, load
from edgeq.quantization import allocate, quantize
from tests.oracles.rtn import round_to_nearest
from tests.quantization.fake_model import target
from tests.tiny_tasks import tiny_convnext, tiny_mobilenet

PER_FILTER = Scheme(bits=8, group_size=None, symmetric=True)
DOWN = "convnext.encoder.stages.1.downsampling_layer.1.weight"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SourceModel:
    return load(tiny_convnext(tmp_path_factory.mktemp("convnext")))


def test_convolutions_have_8_bits_per_filter_whatever_linears_have(model: SourceModel) -> None:
    for bits in (2, 4, 8):
        assert allocate(model, Recipe(bits=bits), target()).scheme(DOWN) == PER_FILTER
    assert allocate(model, Recipe(bits=16), target()).scheme(DOWN) == Scheme(bits=16)


def test_depthwise_and_small_ones_and_norms_stay_float(tmp_path: Path) -> None:
    model = load(tiny_mobilenet(tmp_path))
    plan = allocate(model, Recipe(), target())
    quantized = {name for name in plan.assignments if plan.assignments[name].scheme == PER_FILTER}
    shapes = {name: model.info.weights[name].shape for name in model.info.weights}
    assert quantized == {
        name for name, shape in shapes.items() if len(shape) == 4 and shape[1] > 1 and np.prod(shape) >= 1024
    }
    assert quantized
    assert not any("normalization" in name for name in plan.assignments)


def test_the_store_gives_filters_back_in_their_own_shape(model: SourceModel, tmp_path: Path) -> None:
    plan = allocate(model, Recipe(method="rtn"), target())
    store = quantize(model, plan, tmp_path / "store")
    values = model.read(DOWN)
    assert store.dequantized(DOWN).shape == values.shape == (64, 32, 2, 2)
    expected = round_to_nearest(values.reshape(64, 128), PER_FILTER)
    np.testing.assert_array_equal(store.dequantized(DOWN), expected.dequantize().reshape(values.shape))
    depthwise = "convnext.encoder.stages.0.layers.0.dwconv.weight"
    np.testing.assert_array_equal(store.dequantized(depthwise), model.read(depthwise))


def test_numbers_keep_that_they_have_no_axis(tmp_path: Path) -> None:
    model = load(tiny_mobilenet(tmp_path / "model"))
    store = quantize(model, allocate(model, Recipe(method="rtn"), target()), tmp_path / "store")
    counted = [name for name in store.names() if name.endswith("num_batches_tracked")]
    assert counted
    assert all(store.floating(name).shape == () for name in counted)


def test_a_rule_may_keep_one_in_16_bits(model: SourceModel) -> None:
    rule = Rule(tensors=DOWN, scheme=Scheme(bits=16), method="none")
    assert allocate(model, Recipe(rules=(rule,)), target()).scheme(DOWN) == Scheme(bits=16)
