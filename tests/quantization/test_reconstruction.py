"""Reconstruction: a block comes nearer to its float outputs, on batches that it has not seen, or nothing changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgeq.core.scheme import Scheme
from edgeq.core.tensor import QuantizedTensor
from edgeq.models.blocks import BlockRunner
from edgeq.models.source import load
from edgeq.quantization import reconstruction
from edgeq.quantization.nf4 import quantize_nf4
from edgeq.quantization.reconstruction import Task, reconstruct
from edgeq.quantization.rtn import round_to_nearest
from tests.tiny_models import tiny_bert, tiny_gpt2, tiny_llama

SEQUENCES = tuple(tuple(np.random.default_rng(row).integers(5, 200, 16).tolist()) for row in range(64))
SCHEME = Scheme(bits=3, group_size=32)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeq.models.blocks.BATCH_TOKENS", 64)
    monkeypatch.setattr(reconstruction, "STEPS", 60)


def prepared(directory: Path) -> tuple[Task, nn.Module, dict[str, QuantizedTensor]]:
    """Block 1 behind a float block 0, rounded to nearest."""
    runner = BlockRunner(load(directory), SEQUENCES)
    inputs = runner.run(runner.load(0), 0, runner.embed())
    block = runner.load(1)
    wanted = runner.run(block, 1, inputs)
    tensors = {}
    for name, linear in runner.linears(1, block).items():
        weight = linear.weight
        assert isinstance(weight, torch.Tensor)
        matrix = weight.numpy() if isinstance(linear, nn.Linear) else weight.numpy().T
        tensors[name] = round_to_nearest(np.ascontiguousarray(matrix), SCHEME, name)
    return Task(runner=runner, index=1, inputs=inputs, wanted=wanted), block, tensors


def error(task: Task, tensors: dict[str, QuantizedTensor]) -> float:
    """Of the whole block's output with these weights, over all batches."""
    block = task.runner.load(1)
    for name, linear in task.runner.linears(1, block).items():
        values = torch.from_numpy(tensors[name].dequantize())
        weight = linear.weight
        assert isinstance(weight, torch.Tensor)
        weight.copy_(values if isinstance(linear, nn.Linear) else values.t())
    found = task.runner.run(block, 1, task.inputs)
    return sum(float((a - b).square().sum()) for a, b in zip(found, task.wanted, strict=True))


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2, tiny_bert])
def test_a_block_comes_nearer_to_its_outputs(make: Callable[[Path], Path], tmp_path: Path) -> None:
    task, block, tensors = prepared(make(tmp_path / "source"))
    found = reconstruct(task, block, tensors)
    assert found.keys() == tensors.keys()
    assert error(task, found) < 0.8 * error(task, tensors)
    assert any((found[name].codes != tensors[name].codes).any() for name in tensors)
    assert all(tensor.scheme == SCHEME for tensor in found.values())


def test_what_does_not_help_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstruction, "CODE_RATE", {3: 5.0})
    task, block, tensors = prepared(tiny_llama(tmp_path / "source"))
    found = reconstruct(task, block, tensors)
    assert all(found[name] is tensors[name] for name in tensors)


def test_codebooks_stay(tmp_path: Path) -> None:
    task, block, tensors = prepared(tiny_llama(tmp_path / "source"))
    name = next(iter(tensors))
    weight = task.runner.linears(1, block)[name].weight
    assert isinstance(weight, torch.Tensor)
    tensors[name] = quantize_nf4(weight.numpy(), Scheme(bits=4, symmetric=True, codebook="nf4"), name)
    found = reconstruct(task, block, tensors)
    assert found[name] is tensors[name]


def test_without_enough_batches_nothing_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeq.models.blocks.BATCH_TOKENS", 64 * 16)
    task, block, tensors = prepared(tiny_llama(tmp_path / "source"))
    assert len(task.inputs) == 1
    assert reconstruct(task, block, tensors) == tensors
