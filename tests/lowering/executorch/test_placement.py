"""Every weight is found in the finished file bit for bit, and read back from there with the same digest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from executorch.exir._serialize._program import deserialize_pte_binary

from edgeq.core.digest import tensor_digest, weights_digest
from edgeq.core.records import to_plain
from edgeq.core.tensor import QuantizedTensor
from edgeq.errors import UnsupportedModelError
from edgeq.lowering.executorch.backend import to_pte
from edgeq.lowering.executorch.checks import check_operators, check_size, weight_bytes
from edgeq.lowering.executorch.kernels import ExecuTorchKernels
from edgeq.lowering.executorch.placement import place
from edgeq.validation.executorch_weights import artifact_digest
from tests.lowering.executorch.samples import ENCODER, Chain, exported, kernels_of, random_tensor, scheme

ROWS, WIDTH = 25, 32  # a row more than what aligns the scales
TABLES = {
    "t4": random_tensor(scheme(4, 16, symmetric=False), ROWS, WIDTH, 1),
    "t4s": random_tensor(scheme(4, None, symmetric=True), ROWS, WIDTH, 2),
    "t2": random_tensor(scheme(2, 16, symmetric=False), ROWS, WIDTH, 11),
    "t3": random_tensor(scheme(3, None, symmetric=True), ROWS, WIDTH, 12),
    "t8": random_tensor(scheme(8, 16, symmetric=False), ROWS, WIDTH, 3),
    "t8s": random_tensor(scheme(8, None, symmetric=True), ROWS, WIDTH, 4),
}
LINEARS = {
    "l4": random_tensor(scheme(4, 32, symmetric=True), 80, 6 * WIDTH, 5),
    "l4 short": random_tensor(scheme(4, 32, symmetric=False), 64, 80, 6),
    "l3": random_tensor(scheme(3, 32, symmetric=False), 64, 64, 13),
    "l2": random_tensor(scheme(2, 32, symmetric=False), 64, 64, 14),
    "l3 even": random_tensor(scheme(3, None, symmetric=True), 64, 64, 15),
    "l8": random_tensor(scheme(8, None, symmetric=True), 32, 64, 7),
    "l8 asym": random_tensor(scheme(8, None, symmetric=False), 32, 32, 8),
    "l4 channel": random_tensor(scheme(4, None, symmetric=True), 16, 32, 9),
}
TENSORS = TABLES | LINEARS
IDS = torch.tensor([[3, 0, 23, 7, 7]])


@pytest.fixture(scope="module")
def kernels() -> ExecuTorchKernels:
    return kernels_of(TENSORS, tables=tuple(TABLES))


@pytest.fixture(scope="module")
def program(kernels: ExecuTorchKernels) -> torch.export.ExportedProgram:
    return exported(Chain(kernels, tuple(TABLES), tuple(LINEARS)), IDS)


@pytest.fixture(scope="module")
def pte(program: torch.export.ExportedProgram) -> bytes:
    return to_pte(program, ENCODER, 16)


def digest_of(tensors: dict[str, QuantizedTensor]) -> str:
    return weights_digest((name, tensor_digest(name, tensor)) for name, tensor in tensors.items())


def test_the_digest_of_the_file_is_that_of_the_codes(pte: bytes, kernels: ExecuTorchKernels, tmp_path: Path) -> None:
    places = place(pte, kernels.store, kernels)
    assert set(places) == set(TENSORS)
    containers = {name: where.container_bits for name, where in places.items() if where.container_bits is not None}
    assert containers == dict.fromkeys(("t3", "l3", "l2", "l3 even"), 4)
    assert {where.codes.partition(":")[0] for name, where in places.items() if name in TABLES} == {"constant"}
    assert {where.codes.partition(":")[0] for name, where in places.items() if name in LINEARS} == {"named"}
    (tmp_path / "model.pte").write_bytes(pte)
    assert artifact_digest(tmp_path / "model.pte", to_plain(places)) == digest_of(TENSORS)


@pytest.mark.parametrize("name", TENSORS)
def test_a_weight_that_is_not_in_the_file_is_refused_by_name(pte: bytes, kernels: ExecuTorchKernels, name: str) -> None:
    tensor = TENSORS[name]
    codes = tensor.codes.copy()
    codes[0, 0] ^= 1
    other = QuantizedTensor(scheme=tensor.scheme, codes=codes, scales=tensor.scales, zero_points=tensor.zero_points)
    changed = kernels_of(TENSORS | {name: other}, tables=tuple(TABLES))
    with pytest.raises(UnsupportedModelError, match=f"codes of {name}"):
        place(pte, changed.store, changed)


def test_the_file_holds_nothing_but_the_packed_weights(pte: bytes, program: torch.export.ExportedProgram) -> None:
    file = deserialize_pte_binary(pte)
    weights = sum(map(len, file.named_data.buffers)) + sum(len(one.storage) for one in file.program.constant_buffer)
    largest = weight_bytes(program)
    assert 0.75 * largest < weights <= largest
    check_operators(file)


def test_weights_that_grew_are_refused(pte: bytes, program: torch.export.ExportedProgram) -> None:
    file = deserialize_pte_binary(pte)
    largest = weight_bytes(program)
    check_size(file, largest)
    file.named_data.buffers.append(bytes(200_000))
    with pytest.raises(UnsupportedModelError, match="expanded to floats"):
        check_size(file, largest)


@pytest.mark.parametrize(
    ("name", "overload", "why"),
    [
        ("quantized_decomposed::dequantize_per_channel", "out", "left a quantized product"),
        ("torchao::choose_qparams_affine", "out", "left a quantized product"),
        ("vendor::unheard_of", "out", "no kernel"),
    ],
)
def test_operators_that_expand_weights_or_do_not_exist_are_refused(
    pte: bytes, name: str, overload: str, why: str
) -> None:
    file = deserialize_pte_binary(pte)
    operator = file.program.execution_plan[0].operators[0]
    operator.name, operator.overload = name, overload
    with pytest.raises(UnsupportedModelError, match=why):
        check_operators(file)


def test_other_backends_are_refused(pte: bytes) -> None:
    file = deserialize_pte_binary(pte)
    file.program.execution_plan[0].delegates[0].id = "VendorBackend"
    with pytest.raises(UnsupportedModelError, match="VendorBackend"):
        check_operators(file)


def test_the_program_says_what_the_eager_module_says(pte: bytes, kernels: ExecuTorchKernels) -> None:
    from executorch.runtime import Runtime

    expected = Chain(kernels, tuple(TABLES), tuple(LINEARS))(IDS).numpy()
    found = Runtime.get().load_program(pte).load_method("forward").execute([IDS])[0].numpy()
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()
