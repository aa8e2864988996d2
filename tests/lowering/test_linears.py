"""Which linears become one: same input, same grid, same kind of bias, and no weight that others read."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from torch import nn
from torch.nn import functional

from edgeq.core.scheme import Scheme
from edgeq.lowering import operators
from tests.lowering.converting import TRACED, Case, Translation, export, floats, make_inputs, randomize, translate

FOUR, EIGHT = Scheme(bits=4), Scheme(bits=8)


class Linears(nn.Module):
    """Linears of one input, but for `second`, which reads the result of the others."""

    def __init__(self, *, whole: bool) -> None:
        super().__init__()
        self.whole = whole
        self.q, self.k, self.v = nn.Linear(32, 16), nn.Linear(32, 8), nn.Linear(32, 8)
        self.gate, self.up = nn.Linear(32, 16, bias=False), nn.Linear(32, 16, bias=False)
        self.shared, self.second = nn.Linear(32, 16, bias=False), nn.Linear(16, 16)
        self.table = nn.Parameter(torch.empty(16, 32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        linear = operators.linear if self.whole else functional.linear
        sides = [linear(x, part.weight, part.bias) for part in (self.q, self.gate, self.k, self.up, self.v)]
        shared = linear(x, self.shared.weight, None) + linear(x * 2, self.shared.weight, None)
        computed = linear(x, self.table, self.q.bias + 1)
        total: torch.Tensor = sum(side.sum() for side in sides) + computed
        return linear(total + shared, self.second.weight, self.second.bias)


def translated(directory: Path, *, whole: bool = True, **schemes: Scheme) -> Translation:
    module = Linears(whole=whole)
    randomize(module)
    names = {name if name == "table" else f"{name}.weight": scheme for name, scheme in schemes.items()}
    case = Case(name="linears", operators=(), module=module, inputs=(floats("b", 32),), schemes=names)
    return translate(export(module, case.inputs, make_inputs(case, TRACED)), module, case, directory)


def groups(translation: Translation) -> set[tuple[str, ...]]:
    found = translation.translator.linears.of.values()
    return {tuple(name.removesuffix(".weight") for name in group.weights) for group in found}


@pytest.mark.parametrize("whole", [True, False], ids=["edgeq's operator", "torch's operator"])
def test_one_input_one_grid_and_one_kind_of_bias_are_one_group(tmp_path: Path, whole: bool) -> None:
    names = ("q", "k", "v", "gate", "up", "shared", "second")
    found = groups(translated(tmp_path, whole=whole, **dict.fromkeys(names, FOUR)))
    assert found == {("q", "k", "v"), ("gate", "up"), ("shared",), ("second",)}


def test_another_grid_stays_apart(tmp_path: Path) -> None:
    found = groups(translated(tmp_path, q=FOUR, k=EIGHT, v=FOUR, gate=FOUR, up=Scheme(bits=4, symmetric=True)))
    assert found == {("q", "v"), ("k",), ("gate",), ("up",)}


def test_float_weights_are_no_group(tmp_path: Path) -> None:
    assert groups(translated(tmp_path, q=Scheme(bits=16), gate=FOUR)) == {("gate",)}


def test_a_computed_bias_keeps_a_linear_out(tmp_path: Path) -> None:
    assert groups(translated(tmp_path, q=FOUR, table=FOUR)) == {("q",)}


def test_a_group_is_one_product_with_its_biases_end_to_end(tmp_path: Path) -> None:
    translation = translated(tmp_path, q=FOUR, k=FOUR, v=FOUR)
    products = [node for node in translation.signature.graph.nodes if node.op_type == "MatMulNBits"]
    assert [node.attributes["N"].as_int() for node in products] == [32]
    bias = products[0].inputs[5]
    assert bias is not None
    assert bias.name == "q+k+v.bias"
    assert bias.shape == ir.Shape((32,))
    assert set(translation.translator.weights.locations) == {"q.weight", "k.weight", "v.weight"}
    rows = [location.rows for location in translation.translator.weights.locations.values()]
    assert rows == [(0, 16), (16, 24), (24, 32)]
