"""Models that coremltools itself converts and compresses, interpreted: as torch, and as coremltools unpacks them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from edgeq.runtimes.coreml.interpreter import Interpreter
from edgeq.runtimes.coreml.package import import_coremltools, open_package

ct = import_coremltools()
Array = npt.NDArray[Any]
WIDTH, HEADS, LENGTH, WORDS = 64, 4, 12, 50


class Mixture(nn.Module):
    """Attention, a gated layer, convolutions and norms, with what a converter makes many small operations of."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.query, self.key, self.value, self.output = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.norm, self.last = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.gate, self.up, self.down = nn.Linear(WIDTH, 96), nn.Linear(WIDTH, 96), nn.Linear(96, WIDTH)
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3, padding=1, groups=4)
        self.batch = nn.BatchNorm1d(WIDTH)

    def forward(self, ids: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        x = self.words(ids) * scale
        x = x + self._attention(self.norm(x))
        x = x + self.down(nn.functional.silu(self.gate(x)) * torch.sigmoid(self.up(x)))
        y = self.batch(self.conv(x.transpose(1, 2))).transpose(1, 2)
        x = torch.cat((nn.functional.gelu(y), nn.functional.softplus(x)), dim=-1)
        first, second = x.chunk(2, dim=-1)
        x = self.last(torch.maximum(first, second.roll(1, dims=1)) / (1 + x.mean(dim=-1, keepdim=True).abs()))
        signed: torch.Tensor = torch.where(ids[..., None] > WORDS // 2, x, -x).clamp(-3, 3).cumsum(dim=1)
        return signed

    def _attention(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            layer(x).unflatten(-1, (HEADS, WIDTH // HEADS)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        hidden = torch.triu(torch.ones(LENGTH, LENGTH), 1) * -1e4
        scores = torch.einsum("bhqd,bhkd->bhqk", query, key) / math.sqrt(WIDTH // HEADS) + hidden
        mixed = torch.softmax(scores, dim=-1) @ value
        result: torch.Tensor = self.output(mixed.transpose(1, 2).flatten(-2))
        return result


IDS = np.random.default_rng(0).integers(0, WORDS, (1, LENGTH)).astype(np.int32)
SCALE = np.array([1.5], dtype=np.float32)


@pytest.fixture(scope="module")
def module() -> Mixture:
    torch.manual_seed(0)
    mixture = Mixture().eval()
    with torch.no_grad():
        mixture.batch.running_mean.normal_()  # type: ignore[union-attr]
        mixture.batch.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return mixture


def _convert(module: Mixture, precision: Any) -> Any:  # noqa: ANN401 - coremltools has no types
    examples = (torch.from_numpy(IDS), torch.from_numpy(SCALE))
    exported = torch.export.export(module, examples).run_decompositions({})
    return ct.convert(
        exported, minimum_deployment_target=ct.target.iOS18, compute_precision=precision, skip_model_load=True
    )


@pytest.fixture(scope="module")
def converted(module: Mixture) -> Any:  # noqa: ANN401
    return _convert(module, ct.precision.FLOAT32)


def _run(model: Any, path: Path, *, round_halves: bool = False) -> Array:  # noqa: ANN401
    model.save(str(path))
    (result,) = Interpreter(open_package(path), round_halves=round_halves).run("main", _feeds(path)).values()
    return result


def _feeds(path: Path) -> dict[str, Array]:
    ids, scale = open_package(path).inputs["main"]
    return {ids: IDS, scale: SCALE}


def _expected(module: Mixture) -> Array:
    with torch.no_grad():
        return np.asarray(module(torch.from_numpy(IDS), torch.from_numpy(SCALE)).numpy())


def _relative(found: Array, expected: Array) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def test_float32_is_what_torch_computes(module: Mixture, converted: Any, tmp_path: Path) -> None:  # noqa: ANN401
    assert _relative(_run(converted, tmp_path / "model.mlpackage"), _expected(module)) < 1e-5


def test_float16_is_near_and_rounding_every_result_less_so(module: Mixture, tmp_path: Path) -> None:
    model = _convert(module, ct.precision.FLOAT16)
    expected = _expected(module)
    stored = _relative(_run(model, tmp_path / "stored.mlpackage"), expected)
    rounded = _relative(_run(model, tmp_path / "rounded.mlpackage", round_halves=True), expected)
    assert 1e-6 < stored < rounded < 2e-2


def _compress(model: Any, kind: str) -> Any:  # noqa: ANN401
    import coremltools.optimize.coreml as cto

    blocks = {"granularity": "per_block", "block_size": 32, "weight_threshold": 0}
    groups = {"granularity": "per_grouped_channel", "group_size": 16, "weight_threshold": 0}
    quantizer, palettizer = cto.OpLinearQuantizerConfig, cto.OpPalettizerConfig
    settings = {
        "int4 blocks": quantizer(mode="linear_symmetric", dtype="int4", **blocks),
        "uint4 blocks with offsets": quantizer(mode="linear", dtype="uint4", **blocks),
        "int8 rows": quantizer(mode="linear_symmetric", dtype="int8", weight_threshold=0),
        "4-bit tables": palettizer(mode="kmeans", nbits=4, **groups),
        "2-bit tables": palettizer(mode="kmeans", nbits=2, **groups),
    }
    config = cto.OptimizationConfig(global_config=settings[kind])
    apply = cto.palettize_weights if "tables" in kind else cto.linear_quantize_weights
    return apply(model, config)


@pytest.mark.parametrize(
    "kind", ["int4 blocks", "uint4 blocks with offsets", "int8 rows", "4-bit tables", "2-bit tables"]
)
def test_compressed_weights_are_what_coremltools_unpacks(converted: Any, kind: str, tmp_path: Path) -> None:  # noqa: ANN401
    import coremltools.optimize.coreml as cto

    compressed = _compress(converted, kind)
    found = _run(compressed, tmp_path / "compressed.mlpackage")
    plain = _run(cto.decompress_weights(compressed), tmp_path / "plain.mlpackage")
    np.testing.assert_allclose(found, plain, rtol=0, atol=1e-6)
    operations = open_package(tmp_path / "compressed.mlpackage").function("main").operations
    assert any(operation.op_type.startswith("constexpr_") for operation in operations)
