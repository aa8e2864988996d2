"""Plain modules as graphs: free and fixed batches, what each weight is for, and what cannot be traced."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from edgeq.core.artifact import TensorSpec
from edgeq.errors import UnsupportedModelError
from edgeq.lowering.module_capture import CapturedModule, capture_module, weight_uses
from edgeq.lowering.onnx.module import simplified
from edgeq.models.examples import evaluating, flat_outputs, read_examples
from edgeq.models.module_source import module_source


def captured(module: nn.Module, *inputs: torch.Tensor) -> CapturedModule:
    with evaluating(module):
        names = tuple(flat_outputs(module(*inputs)))
        return simplified(capture_module(module, read_examples(module, inputs), names))


class Tied(nn.Module):
    """A table that is a head too, a weight `[in, out]`, one with two uses, one that is summed and one that is idle."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 64)
        self.turned = nn.Parameter(torch.randn(64, 48))
        self.back = nn.Linear(48, 64)
        self.twice = nn.Linear(64, 64, bias=False)
        self.summed = nn.Linear(64, 64, bias=False)
        self.idle = nn.Linear(64, 64)
        self.head = nn.Linear(64, 50, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.back(self.table(ids) @ self.turned)
        hidden = self.twice(hidden) + hidden @ self.twice.weight.T
        logits: torch.Tensor = self.head(hidden + self.summed.weight.sum())
        return logits


def test_weights_are_what_the_graph_does_with_them(tmp_path: Path) -> None:
    module = Tied()
    source = module_source(module, weight_uses(captured(module, torch.zeros(2, 3, dtype=torch.int64)).graph), tmp_path)
    roles = {name: (weight.role, weight.input_axis) for name, weight in source.info.weights.items()}
    assert roles == {
        "table.weight": ("embedding", 1),
        "turned": ("linear", 0),
        "back.weight": ("linear", 1),
        "back.bias": ("other", 1),
        "twice.weight": ("linear", 1),
        "summed.weight": ("other", 1),
    }
    assert source.info.tied == {"head.weight": "table.weight"}
    assert source.info.parameters == sum(tensor.numel() for tensor in source.weights.tensors.values())
    assert not any(name.startswith("idle") for name in source.info.weights)


class Convolved(nn.Module):
    """A convolution over channels, a depthwise one, one whose filters are summed as well, and a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.deep = nn.Conv2d(3, 16, 3, padding="same"), nn.Conv2d(16, 16, 3, groups=16)
        self.summed, self.norm = nn.Conv2d(16, 8, 1), nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = self.norm(self.summed(self.deep(self.wide(x))))
        return normed + self.summed.weight.sum()


def test_filters_over_channels_are_convolutions(tmp_path: Path) -> None:
    module = Convolved()
    source = module_source(module, weight_uses(captured(module, torch.zeros(2, 3, 8, 8)).graph), tmp_path)
    found = {name for name, weight in source.info.weights.items() if weight.role == "convolution"}
    assert found == {"wide.weight"}
    assert source.info.weights["wide.weight"].outputs_inputs == (16, 27)


def test_the_revision_follows_the_weights(tmp_path: Path) -> None:
    module = nn.Linear(8, 8)
    uses = {"weight": {"linear"}, "bias": {"other"}}
    first = module_source(module, uses, tmp_path).info.revision
    assert module_source(module, uses, tmp_path).info.revision == first
    with torch.no_grad():
        module.weight[0, 0] += 1
    assert module_source(module, uses, tmp_path).info.revision != first


@pytest.mark.parametrize("rows", [1, 3])
def test_the_batch_is_free_where_the_module_allows_it(rows: int) -> None:
    found = captured(nn.Linear(8, 4), torch.zeros(rows, 8))
    assert found.inputs == (TensorSpec(name="input", dtype="float32", shape=("batch", 8)),)
    assert found.outputs == (TensorSpec(name="output", dtype="float32", shape=("batch", 4)),)
    assert found.has_free_batch


class FixedBatch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(2, 4) * 2


def test_the_batch_is_fixed_where_it_does_not() -> None:
    found = captured(FixedBatch(), torch.zeros(2, 4))
    assert found.inputs[0].shape == (2, 4)
    assert not found.has_free_batch
    assert "cannot trace FixedBatch" in found.note
    assert captured(nn.ReLU(), torch.tensor(1.0)).note == "the first input has no batch axis"


class Branch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if bool(x.sum() > 0) else x - 1


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert isinstance(self.seen, torch.Tensor)
        self.seen.add_(1)
        return x + self.seen


class Inverse(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inverse: torch.Tensor = torch.linalg.inv(x)
        return inverse


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Branch(), "torch cannot trace Branch"),
        (Counter(), "forward changes 'module.seen'"),
        (Inverse(), "operators that edgeq cannot write as ONNX yet: aten.linalg_inv_ex"),
    ],
)
def test_what_cannot_be_captured_is_refused_with_the_reason(module: nn.Module, message: str) -> None:
    inputs = read_examples(module, (torch.eye(3),))
    with evaluating(module), pytest.raises(UnsupportedModelError, match=message):
        simplified(capture_module(module, inputs, ("output",)))
