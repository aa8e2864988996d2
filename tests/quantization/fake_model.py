"""A model that is a dict of arrays: what the quantize stage needs of one, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from edgeq.core.model import ModelInfo, WeightInfo
from edgeq.core.recipe import Role
from edgeq.core.target import TargetProfile

Arrays = dict[str, npt.NDArray[Any]]
_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "bool": "BOOL"}


class FakeModel:
    """Keeps the SourceModel protocol over `arrays`; `reads` lists what was read."""

    def __init__(self, directory: Path, arrays: Arrays, weights: dict[str, WeightInfo], tied: dict[str, str]) -> None:
        self.directory = directory
        self.arrays = arrays
        self.reads: list[str] = []
        self.info = ModelInfo(
            source="fake",
            revision="1",
            task="text-generation",
            architecture="FakeForCausalLM",
            model_type="fake",
            parameters=sum(array.size for array in arrays.values()),
            weights=weights,
            tied=tied,
            licence=None,
        )

    def read(self, name: str) -> npt.NDArray[Any]:
        self.reads.append(name)
        return self.arrays[name]

    def companion_files(self) -> tuple[Path, ...]:
        found = (path for path in self.directory.rglob("*") if path.is_file() and path.suffix != ".safetensors")
        return tuple(sorted(path.relative_to(self.directory) for path in found))


def fake_model(directory: Path, *, blocks: int = 3, dtype: str = "bfloat16", seed: int = 0) -> FakeModel:
    """A tied embedding, `blocks` blocks of linear, Conv1D, bias and norm, a last norm, a tiny table and a buffer."""
    random = np.random.default_rng(seed)
    arrays: Arrays = {}
    weights: dict[str, WeightInfo] = {}

    def add(name: str, shape: tuple[int, ...], role: Role, block: int | None = None, input_axis: int = 1) -> None:
        kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
        arrays[name] = (random.standard_normal(shape) * 0.05).astype(kind)
        weights[name] = WeightInfo(
            name=name, shape=shape, dtype=_DTYPES[dtype], role=role, input_axis=input_axis, block=block
        )

    add("embed.weight", (96, 64), "embedding")
    for block in range(blocks):
        add(f"layers.{block}.up.weight", (172, 64), "linear", block)
        add(f"layers.{block}.up.bias", (172,), "other", block)
        add(f"layers.{block}.down.weight", (172, 64), "linear", block, input_axis=0)
        add(f"layers.{block}.norm.weight", (64,), "other", block)
    add("norm.weight", (64,), "other")
    add("types.weight", (2, 64), "embedding")
    arrays["positions"] = np.arange(16)
    weights["positions"] = WeightInfo(name="positions", shape=(16,), dtype="I64", role="other")
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text("{}")
    (directory / "1_Pooling").mkdir(exist_ok=True)
    (directory / "1_Pooling" / "config.json").write_text("{}\n")
    return FakeModel(directory, arrays, weights, {"head.weight": "embed.weight"})


def target() -> TargetProfile:
    return TargetProfile(
        name="test",
        description="",
        surface="android",
        formats=("onnx",),
        memory_limit_mib=2048,
        memory_reserve_mib=256,
        bundle_limit_mib=None,
        threads=2,
        context_length=128,
        accuracy_level=4,
        provenance={},
    )
