"""Packages of one product or one table, for tests of how quantized weights are stored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edgeq.core.model import WeightInfo
from edgeq.core.records import to_plain
from edgeq.core.scheme import Scheme
from edgeq.core.target import ComputeUnit
from edgeq.core.tensor import QuantizedTensor
from edgeq.lowering.coreml import operators
from edgeq.lowering.coreml.constants import Constants
from edgeq.lowering.coreml.conversion import convert
from edgeq.lowering.coreml.converters import Converters
from edgeq.lowering.coreml.package import PACKAGE, assemble, write_package
from edgeq.store import QuantizedModel

NAME = "layer.weight"
SCHEMES = [
    Scheme(bits=bits, group_size=group_size, symmetric=symmetric, scale_dtype="float16")
    for bits in (2, 3, 4, 8)
    for group_size in (None, 16)
    for symmetric in (True, False)
]
CODEBOOKS = [
    Scheme(bits=4, group_size=16, symmetric=True, scale_dtype="float16", codebook="nf4"),
    *(
        Scheme(bits=bits, group_size=None, symmetric=True, scale_dtype="float16", codebook="palette", palette_rows=rows)
        for bits, rows in ((2, 4), (3, None), (4, None), (4, 4), (4, 8), (6, 8), (8, None))
    ),
]
"""Of the 12 rows of a test, 8 leave 4 for the last table."""
Entries = dict[str, Any]


def random_tensor(scheme: Scheme, outputs: int = 12, inputs: int = 40, seed: int = 0) -> QuantizedTensor:
    """Random codes, zero points, and scales or tables that float16 holds."""
    rng = np.random.default_rng(seed)
    shape = (outputs, scheme.groups(inputs))
    tables = (rng.normal(size=(scheme.tables(outputs), scheme.levels))).astype(np.float16).astype(np.float32)
    return QuantizedTensor(
        scheme=scheme,
        codes=rng.integers(0, scheme.levels, (outputs, inputs), dtype=np.uint8),
        scales=((rng.random(shape) + 0.1) if scheme.has_scales else np.ones(shape))
        .astype(np.float16)
        .astype(np.float32),
        zero_points=None if scheme.symmetric else rng.integers(0, scheme.levels, shape, dtype=np.uint8),
        codebook=None if scheme.codebook is None else tables,
    )


@dataclass(frozen=True)
class _Info:
    weights: dict[str, WeightInfo]


@dataclass(frozen=True)
class _Store:
    """What the converters read of a store."""

    tensor: QuantizedTensor

    @property
    def info(self) -> _Info:
        weight = WeightInfo(name=NAME, shape=self.tensor.shape, dtype="F32", role="linear")
        return _Info({NAME: weight})

    def quantized(self, name: str) -> QuantizedTensor:
        assert name == NAME
        return self.tensor

    def quantization(self, name: str) -> Scheme:
        assert name == NAME
        return self.tensor.scheme


class _Product(nn.Module):
    def __init__(self, outputs: int, bias: npt.NDArray[np.float32] | None) -> None:
        super().__init__()
        self.outputs = outputs
        self.bias = None if bias is None else nn.Parameter(torch.from_numpy(bias), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = operators.linear(x, 0, self.outputs, self.bias)
        return result


class _TiedProduct(_Product):
    """A table whose rows are multiplied with the same table."""

    def __init__(self, outputs: int, width: int) -> None:
        super().__init__(outputs, None)
        self.width = width

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = super().forward(operators.embedding(ids, 0, self.width))
        return result


def product_package(
    directory: Path,
    tensor: QuantizedTensor,
    *,
    unit: ComputeUnit = "gpu",
    bias: npt.NDArray[np.float32] | None = None,
    functions: tuple[str, ...] = ("main",),
) -> tuple[Path, Entries]:
    """`x` `[1, inputs]` to `y` `[1, outputs]`, and where the weight is."""
    module = _Product(tensor.shape[0], bias)
    return _package(directory, tensor, unit, module, torch.zeros(1, tensor.shape[1]), functions)


def tied_package(directory: Path, tensor: QuantizedTensor) -> tuple[Path, Entries]:
    """`ids` int32 `[1, 3]` to the products of those rows with all rows."""
    return _package(
        directory, tensor, "gpu", _TiedProduct(*tensor.shape), torch.zeros(1, 3, dtype=torch.int32), ("main",)
    )


def _package(  # noqa: PLR0917 - one caller each for a product and a table
    directory: Path,
    tensor: QuantizedTensor,
    unit: ComputeUnit,
    module: nn.Module,
    example: torch.Tensor,
    functions: tuple[str, ...],
) -> tuple[Path, Entries]:
    constants = Constants(unit)
    store = cast("QuantizedModel", _Store(tensor))
    programs = {
        name: convert(module, (example,), None, "y", Converters(store, {NAME: 0}, constants)) for name in functions
    }
    directory.mkdir(exist_ok=True)
    write_package(assemble(programs, constants), directory)
    return directory / PACKAGE, {name: to_plain(entry) for name, entry in constants.locations.items()}
