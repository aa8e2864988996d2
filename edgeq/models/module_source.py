"""A plain torch module as what a quantizer reads: its weights by name, with roles that its graph shows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeq.core.model import ModelInfo, WeightInfo
from edgeq.models.roles import WeightRole, shared_names, stored_tensors
from edgeq.models.weights import LoadedWeights

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, kw_only=True, eq=False)
class ModuleSource:
    """What quantizing needs of a module. `directory` is empty: no file came with it."""

    info: ModelInfo
    directory: Path
    weights: LoadedWeights

    def read(self, name: str) -> npt.NDArray[Any]:
        """One weight, float32, not copied."""
        return self.weights.read(name)

    def companion_files(self) -> tuple[Path, ...]:
        return ()


def module_source(module: nn.Module, uses: Mapping[str, set[str]], directory: Path) -> ModuleSource:
    """uses: of each parameter in the graph; those that are missing there are no part of the model."""
    tied = shared_names(module)
    merged: dict[str, set[str]] = {}
    for name, kinds in uses.items():
        merged.setdefault(tied.get(name, name), set()).update(kinds)
    tensors = {name: tensor for name, tensor in stored_tensors(module).items() if name in merged}
    weights = {}
    for name, tensor in tensors.items():
        role = role_of(merged[name])
        weights[name] = WeightInfo(
            name=name, shape=tuple(tensor.shape), dtype="F32", role=role.role, input_axis=role.input_axis
        )
    name = type(module).__name__
    info = ModelInfo(
        source=name,
        revision=_digest(module),
        task="module",
        architecture=name,
        model_type="module",
        parameters=sum(tensor.numel() for tensor in tensors.values()),
        weights=weights,
        tied={copy: original for copy, original in tied.items() if original in weights},
        licence=None,
    )
    return ModuleSource(info=info, directory=directory, weights=LoadedWeights(tensors=tensors))


def role_of(kinds: set[str]) -> WeightRole:
    """A weight that is used in several ways stays float, unless as a tied table and head."""
    if kinds == {"linear"}:
        return WeightRole(role="linear")
    if kinds == {"turned"}:
        return WeightRole(role="linear", input_axis=0)
    if kinds == {"convolution"}:
        return WeightRole(role="convolution")
    if kinds in ({"embedding"}, {"embedding", "linear"}):
        return WeightRole(role="embedding")
    return WeightRole(role="other")


def _digest(module: nn.Module) -> str:
    """Hex sha256 of the module's class, names and values."""
    digest = hashlib.sha256(type(module).__qualname__.encode())
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(_bytes(tensor).data)
    return digest.hexdigest()


def _bytes(tensor: torch.Tensor) -> npt.NDArray[np.uint8]:
    import torch

    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
