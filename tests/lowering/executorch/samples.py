"""Random quantized weights, and programs that use them, for tests of what ExecuTorch makes of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from edgeq.core.artifact import Interface
from edgeq.core.scheme import Scheme
from edgeq.core.tensor import QuantizedTensor
from edgeq.lowering.executorch.kernels import ExecuTorchKernels
from edgeq.lowering.quiet import quiet_torch
from edgeq.store import QuantizedModel

ENCODER = Interface(task="feature-extraction", inputs=("ids",), outputs=("out",), vocabulary=24, context_length=16)


def scheme(bits: int, group_size: int | None, *, symmetric: bool) -> Scheme:
    return Scheme(
        bits=bits, group_size=group_size, symmetric=symmetric, scale_dtype="bfloat16", signed_scales=not symmetric
    )


def random_tensor(scheme: Scheme, outputs: int, inputs: int, seed: int = 0) -> QuantizedTensor:
    """Random codes and zero points, and positive scales that bfloat16 holds."""
    rng = np.random.default_rng(seed)
    shape = (outputs, scheme.groups(inputs))
    scales = torch.from_numpy((rng.random(shape) + 0.5).astype(np.float32) / (8 << scheme.bits))
    return QuantizedTensor(
        scheme=scheme,
        codes=rng.integers(0, scheme.levels, (outputs, inputs), dtype=np.uint8),
        scales=scales.bfloat16().float().numpy(),
        zero_points=None if scheme.symmetric else rng.integers(0, scheme.levels, shape, dtype=np.uint8),
    )


class CodesStore:
    """What kernels and their placement read of a store."""

    def __init__(self, tensors: dict[str, QuantizedTensor]) -> None:
        self.tensors = tensors
        self.info = SimpleNamespace(tied={}, task="feature-extraction")

    def names(self) -> list[str]:
        return list(self.tensors)

    def is_quantized(self, name: str) -> bool:
        return name in self.tensors

    def quantized(self, name: str) -> QuantizedTensor:
        return self.tensors[name]


def kernels_of(tensors: dict[str, QuantizedTensor], *, tables: tuple[str, ...] = ()) -> ExecuTorchKernels:
    """Kernels with every tensor as the weight of a product, those in `tables` for look-ups."""
    kernels = ExecuTorchKernels(cast("QuantizedModel", CodesStore(tensors)), 16)
    for name in tensors:
        if name in tables:
            kernels.add_table(name)
        else:
            kernels.add_linear(name)
    return kernels


class Chain(nn.Module):
    """A look-up in each table, their rows side by side, and from there one product after the other."""

    def __init__(self, kernels: ExecuTorchKernels, tables: tuple[str, ...], linears: tuple[str, ...]) -> None:
        super().__init__()
        self.kernels, self.tables, self.linears = kernels, tables, linears

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.kernels.embedding(self.tables[0], ids)
        for name in self.tables[1:]:  # one by one: XNNPACK takes no more than five at once
            x = torch.cat((x, self.kernels.embedding(name, ids)), dim=-1)
        for name in self.linears:
            x = torch.tanh(self.kernels.linear(name, x, None))
        return x


def exported(module: nn.Module, *examples: torch.Tensor) -> ExportedProgram:
    """The second axis of every input is dynamic."""
    sequence = Dim("sequence", max=16)
    with torch.no_grad(), quiet_torch():
        return torch.export.export(
            module.eval(), examples, dynamic_shapes=tuple({1: sequence} for _ in examples), strict=False
        )
