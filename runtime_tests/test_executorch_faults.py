"""The two faults that XNNPACK commits without a word, provoked on purpose, are caught by partitioner and checks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import ExecutorchBackendConfig, to_edge_transform_and_lower
from executorch.runtime import Runtime
from torch import nn

from edgeq.core.tensor import QuantizedTensor
from edgeq.errors import UnsupportedModelError
from edgeq.lowering.executorch import backend
from edgeq.lowering.executorch.carriers import QuantizedLinear, carrier
from edgeq.lowering.executorch.checks import check, weight_bytes
from edgeq.lowering.executorch.placement import place
from edgeq.lowering.quiet import quiet_torch
from edgeq.validation.executorch_weights import read_program
from edgeq.validation.kernel_coverage import program_gate, slow_calls
from tests.lowering.executorch.samples import ENCODER, exported, kernels_of, random_tensor, scheme

Floats = npt.NDArray[np.float32]
NAME = "w"
OUTPUTS, INPUTS = 256, 512
X = torch.randn(1, 7, INPUTS, generator=torch.Generator().manual_seed(0))
RIGHT, WRONG = 0.02, 0.1
"""Relative errors: of int8 activations at most, and of a fault at least."""


def product(weight: nn.Parameter) -> nn.Module:
    """An `nn.Linear` as torchao's own tools leave it, with nothing of edgeq's around it."""
    linear = nn.Linear(INPUTS, OUTPUTS, bias=False, device="meta")
    linear.weight = weight
    return nn.Sequential(linear)


class Ours(nn.Module):
    def __init__(self, tensor: QuantizedTensor) -> None:
        super().__init__()
        self.linear = QuantizedLinear(NAME, tensor)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.linear(x, None)
        return output


def weight_only(tensor: QuantizedTensor) -> nn.Module:
    return product(carrier(tensor, zero_points=False, int8_activations=False))


def with_zero_points(tensor: QuantizedTensor) -> nn.Module:
    return product(carrier(tensor, zero_points=True, int8_activations=True))


def lowered(module: nn.Module, *, delegated: bool = True) -> bytes:
    """What ExecuTorch's own documentation makes of it, with nothing that checks."""
    with quiet_torch():
        partitioners = [XnnpackPartitioner()] if delegated else []
        edge = to_edge_transform_and_lower(exported(module, X), partitioner=partitioners)
        pte: bytes = edge.to_executorch(ExecutorchBackendConfig(do_quant_fusion_and_const_prop=True)).buffer
    return pte


def error(pte: bytes, tensor: QuantizedTensor) -> float:
    """Of the program's answer, relative to that of the dequantized weights."""
    found = Runtime.get().load_program(pte).load_method("forward").execute([X])[0]
    exact = X @ torch.from_numpy(tensor.dequantize()).T
    return float((found - exact).norm() / exact.norm())


def assert_not_placed(pte: bytes, tensor: QuantizedTensor, what: str) -> None:
    kernels = kernels_of({NAME: tensor})
    with pytest.raises(UnsupportedModelError, match=f"{what} of {NAME}"):
        place(pte, kernels.store, kernels)


@pytest.mark.parametrize("bits", [4, 8])
def test_weight_only_products_lose_their_scales_and_are_caught(bits: int) -> None:
    tensor = random_tensor(scheme(bits, 32 if bits == 4 else None, symmetric=True), OUTPUTS, INPUTS)
    module = weight_only(tensor)
    pte = lowered(module)
    assert error(pte, tensor) > 1.0, "the fault is gone: the partitioner's exceptions can go too"
    with pytest.raises(UnsupportedModelError, match="expanded to floats"):
        check(pte, weight_bytes(exported(module, X)))
    assert_not_placed(pte, tensor, "codes")
    with pytest.raises(UnsupportedModelError, match="ExecuTorch"):
        backend.to_pte(exported(module, X), ENCODER, 16)


@pytest.mark.parametrize("bits", [4, 8])
def test_zero_points_are_dropped_and_that_is_caught(bits: int) -> None:
    tensor = random_tensor(scheme(bits, 32 if bits == 4 else None, symmetric=False), OUTPUTS, INPUTS)
    pte = lowered(with_zero_points(tensor))
    assert error(pte, tensor) > WRONG, "the fault is gone: zero points need no correction any more"
    assert_not_placed(pte, tensor, "zero points")


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "group_size"), [(4, 32), (4, 128), (4, None), (8, None)])
def test_edgeqs_own_products_are_right(bits: int, group_size: int | None, symmetric: bool) -> None:
    tensor = random_tensor(scheme(bits, group_size, symmetric=symmetric), OUTPUTS, INPUTS)
    pte = backend.to_pte(exported(Ours(tensor), X), ENCODER, 16)
    assert error(pte, tensor) < RIGHT
    kernels = kernels_of({NAME: tensor})
    assert set(place(pte, kernels.store, kernels)) == {NAME}


@pytest.mark.parametrize("damage", [np.negative, lambda scales: scales * np.float32(1.5)])
def test_other_scales_are_caught(damage: Callable[[Floats], Floats]) -> None:
    tensor = random_tensor(scheme(4, 32, symmetric=True), OUTPUTS, INPUTS)
    pte = backend.to_pte(exported(Ours(tensor), X), ENCODER, 16)
    other = QuantizedTensor(scheme=tensor.scheme, codes=tensor.codes, scales=damage(tensor.scales), zero_points=None)
    kernels = kernels_of({NAME: tensor})
    kernels.store.tensors[NAME] = other  # type: ignore[attr-defined]
    with pytest.raises(UnsupportedModelError, match=f"scales of {NAME}"):
        place(pte, kernels.store, kernels)


@pytest.mark.parametrize("delegated", [True, False])
def test_products_that_are_not_xnnpacks_are_named(delegated: bool, tmp_path: Path) -> None:
    path = tmp_path / "model.pte"
    path.write_bytes(lowered(nn.Sequential(nn.Linear(INPUTS, OUTPUTS)), delegated=delegated))
    slow = slow_calls(read_program(path).program)
    assert [name.split(",")[0] for name in slow] == ([] if delegated else ["forward: aten::addmm"])
    (gate,) = program_gate(slow, 1)
    assert gate.verdict == ("passed" if delegated else "failed")
