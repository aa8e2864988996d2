"""Weights in the file: the bytes that the kernels expect, each stored once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
import torch
from torch import nn

from edgeq.core.packing import pack_groups, pack_rows
from edgeq.core.scheme import Scheme
from edgeq.lowering.onnx.external_data import DATA_FILE, ExternalData
from edgeq.lowering.onnx.weights import Weights, container_bits, kernel_block
from edgeq.progress import SilentProgress
from tests.lowering.converting import TRACED, Case, export, integers, make_inputs, randomize, translate
from tests.lowering.memory_store import MemoryStore

Array = npt.NDArray[Any]
SCHEMES = [
    Scheme(bits=bits, group_size=group_size, symmetric=symmetric)
    for bits in (2, 3, 4, 8)
    for group_size in (16, 32, None)
    for symmetric in (True, False)
]


class Two(nn.Module):
    """Two linears of one input, a head tied to the table, and a table of its own."""

    def __init__(self, inputs: int = 40) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(inputs, 6), nn.Linear(inputs, 3)
        self.table, self.alone = nn.Embedding(24, inputs), nn.Embedding(24, inputs)
        self.head = nn.Linear(inputs, 24, bias=False)
        self.head.weight = self.table.weight
        randomize(self)

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        hidden = self.table(ids) + self.alone(ids)
        return self.head(hidden), self.first(hidden), self.second(hidden)


def stored(data: ExternalData, value: ir.Value | None) -> Array:
    """The bytes of an initializer as the file holds them, in its dtype and shape."""
    assert value is not None
    tensor = value.const_value
    assert isinstance(tensor, ir.ExternalTensor)
    raw = (data.directory / DATA_FILE).read_bytes()[tensor.offset or 0 :][: tensor.length]
    return np.frombuffer(raw, tensor.dtype.numpy()).reshape(tensor.shape.numpy())


@pytest.mark.parametrize("inputs", [32, 40, 172])
@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: str(scheme.label()))
def test_a_matrix_lies_as_matmulnbits_reads_it(tmp_path: Path, scheme: Scheme, inputs: int) -> None:
    names = ("first.weight", "second.weight")
    store = MemoryStore(Two(inputs), dict.fromkeys(names, scheme))
    weights = Weights(store.as_store, ExternalData(tmp_path), 4)
    matrix = weights.matrix(names)
    weights.data.write(SilentProgress())
    parts = [store.quantized(name) for name in names]
    narrow = scheme.bits == 3 or (scheme.bits == 2 and matrix.block not in (32, 64, 128))
    assert matrix.bits == (4 if narrow else scheme.bits)
    moved = 8 - scheme.default_zero_point if narrow and scheme.symmetric else 0
    codes = np.concatenate([part.codes for part in parts]) + np.uint8(moved)
    assert np.array_equal(stored(weights.data, matrix.codes), pack_groups(codes, matrix.bits, matrix.block))
    assert np.array_equal(stored(weights.data, matrix.scales), np.concatenate([part.scales for part in parts]))
    if scheme.symmetric:
        assert matrix.zero_points is None
    else:
        zeros = np.concatenate([part.zero_points for part in parts if part.zero_points is not None])
        assert np.array_equal(stored(weights.data, matrix.zero_points), pack_rows(zeros, matrix.bits))
    assert weights.matrix(names) is matrix
    assert weights.locations["first.weight"].container_bits == (4 if narrow else None)


def test_two_bits_without_int8_activations_are_stored_in_four() -> None:
    scheme = Scheme(bits=2)
    assert [container_bits(scheme, 32, level) for level in (1, 4)] == [4, 2]
    assert [container_bits(scheme, block, 4) for block in (16, 128, 256)] == [4, 2, 4]
    assert [container_bits(Scheme(bits=bits), 32, 1) for bits in (3, 4, 8)] == [4, 4, 8]


@pytest.mark.parametrize(("inputs", "block"), [(5, 16), (16, 16), (17, 32), (64, 64), (172, 256)])
def test_one_scale_per_channel_is_a_block_that_spans_the_row(inputs: int, block: int) -> None:
    assert kernel_block(Scheme(bits=4, group_size=None), inputs) == block
    assert kernel_block(Scheme(bits=4, group_size=64), inputs) == 64


def test_float_weights_keep_their_dtype_and_are_stored_once(tmp_path: Path) -> None:
    store = MemoryStore(Two(), {"first.weight": Scheme(bits=16)})
    weights = Weights(store.as_store, ExternalData(tmp_path), 4)
    half, turned = weights.floating("first.weight"), weights.floating("first.weight", transposed=True)
    tied, original = weights.floating("head.weight"), weights.floating("table.weight")
    both = weights.concatenated(("first.bias", "second.bias"))
    assert weights.concatenated(("first.bias",)) is weights.floating("first.bias")
    weights.data.write(SilentProgress())
    assert half.dtype == ir.DataType.FLOAT16
    assert tied is original
    assert np.array_equal(stored(weights.data, turned), store.values["first.weight"].T.astype(np.float16))
    expected = np.concatenate([store.values["first.bias"], store.values["second.bias"]])
    assert np.array_equal(stored(weights.data, both), expected)


def test_weights_are_found_by_initializers_that_the_graph_uses(tmp_path: Path) -> None:
    module, scheme = Two(), Scheme(bits=8)
    case = Case(
        name="two",
        operators=(),
        module=module,
        inputs=(integers("b", "s", low=0, high=24),),
        schemes=dict.fromkeys(("table.weight", "alone.weight", "first.weight", "second.weight"), scheme),
    )
    translation = translate(export(module, case.inputs, make_inputs(case, TRACED)), module, case, tmp_path)
    found = translation.translator.weights.placed()
    graph = ir.load(translation.save(tmp_path)).graph
    assert {location.codes for location in found.values()} <= set(graph.initializers)
    assert found["table.weight"].codes == "table.weight.codes"  # the head reads it
    assert found["alone.weight"].codes == "alone.weight.codes.rows"
    assert found["alone.weight"].scales == "alone.weight.scales"
    assert (found["first.weight"].codes, found["first.weight"].rows) == ("first+second.weight.codes", (0, 6))
    assert (found["second.weight"].codes, found["second.weight"].rows) == ("first+second.weight.codes", (6, 9))
