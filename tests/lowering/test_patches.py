"""Substitutions are made where the probe shows the same result, nowhere else, and never outlive the block."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Gemma3TextConfig, LlamaConfig
from transformers.models.gemma3.modeling_gemma3 import Gemma3RotaryEmbedding
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from edgeq.lowering.patches import patched

WIDTH = 8
CONTEXT = 24


class PlainRMSNorm(nn.Module):
    """Scales by its weight; subclasses by something else."""

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.ones(WIDTH)), eps

    def scale(self) -> torch.Tensor:
        return self.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale() * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)


class OffsetRMSNorm(PlainRMSNorm):
    def scale(self) -> torch.Tensor:
        return 1 + self.weight


class SquaredRMSNorm(PlainRMSNorm):
    def scale(self) -> torch.Tensor:
        return self.weight**2


class CentredRMSNorm(PlainRMSNorm):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x - x.mean(-1, keepdim=True))


class GatedRMSNorm(PlainRMSNorm):
    def forward(self, x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return super().forward(x) * gate


class BiasedRMSNorm(PlainRMSNorm):
    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.ones(WIDTH))


class Renamed(PlainRMSNorm):
    """Not called a norm, so not looked at."""


def operators_of(module: nn.Module, *inputs: torch.Tensor) -> list[str]:
    program = torch.export.export(module, inputs, strict=False)
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize(
    ("norm", "operators"),
    [(PlainRMSNorm(), ["edgeq.rms_norm.default"]), (OffsetRMSNorm(), ["aten.add.Tensor", "edgeq.rms_norm.default"])],
)
def test_norms_by_w_and_by_1_plus_w_become_one_operator(norm: nn.Module, operators: list[str]) -> None:
    with patched(norm, CONTEXT):
        assert operators_of(norm, torch.ones(2, WIDTH)) == operators


@pytest.mark.parametrize("kind", [SquaredRMSNorm, CentredRMSNorm, GatedRMSNorm, BiasedRMSNorm, Renamed])
def test_other_norms_are_left_alone(kind: Callable[[], nn.Module]) -> None:
    norm = kind()
    with patched(norm, CONTEXT):
        assert "forward" not in vars(norm)


def test_the_probe_leaves_the_module_as_it_was() -> None:
    norm = PlainRMSNorm()
    norm.weight = nn.Parameter(torch.empty(WIDTH, device="meta"))
    with patched(norm, CONTEXT):
        assert norm.weight.device.type == "meta"


def test_equal_norms_of_different_eps_keep_theirs() -> None:
    norms = nn.Sequential(PlainRMSNorm(1e-5), PlainRMSNorm(1e-2))
    with patched(norms, CONTEXT):
        program = torch.export.export(norms, (torch.ones(2, WIDTH),), strict=False)
        nodes = [node for node in program.graph.nodes if node.op == "call_function"]
        assert [node.args[2] for node in nodes] == [1e-5, 1e-2]


def test_linears_become_one_operator_but_not_their_subclasses_with_another_forward() -> None:
    class Doubling(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * 2

    module = nn.Sequential(nn.Linear(4, 4), Doubling(4, 4, bias=False))
    with patched(module, CONTEXT):
        assert operators_of(module, torch.ones(2, 4)) == [
            "edgeq.linear.default",
            "aten.linear.default",
            "aten.mul.Tensor",
        ]
    assert "forward" not in vars(module[0])


def rotate_halves(x: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat((-second, first), -1)


def rotate_pairs(x: torch.Tensor) -> torch.Tensor:
    return torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)


def rotary_function(rotate: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., Any]:
    def apply_rotary_pos_emb(q: Any, k: Any, cos: Any, sin: Any, unsqueeze_dim: int = 1) -> Any:  # noqa: ANN401
        cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
        return q * cos + rotate(q) * sin, k * cos + rotate(k) * sin

    return apply_rotary_pos_emb


class Rotating(nn.Module):
    """Calls the rotary function of the module that it is defined in, as models do."""

    unsqueeze_dim = 1

    def forward(self, q: torch.Tensor, cos: torch.Tensor) -> torch.Tensor:
        function = vars(sys.modules[type(self).__module__])["apply_rotary_pos_emb"]
        rotated: torch.Tensor = function(q, q, cos, cos, unsqueeze_dim=self.unsqueeze_dim)[0]
        return rotated


@pytest.fixture
def modeling(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module that defines `Rotating`, and no rotary function yet."""
    module = ModuleType("modeling_of_the_test")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(Rotating, "__module__", module.__name__)
    return module


Q, COS = torch.ones(2, 3, 5, WIDTH), torch.ones(2, 5, WIDTH)


def test_the_rotation_of_halves_becomes_one_operator(modeling: ModuleType) -> None:
    original = rotary_function(rotate_halves)
    vars(modeling)["apply_rotary_pos_emb"] = original
    with patched(Rotating(), CONTEXT):
        assert "edgeq.rotary.default" in operators_of(Rotating(), Q, COS)
    assert vars(modeling)["apply_rotary_pos_emb"] is original


@pytest.mark.parametrize(
    ("q", "cos", "unsqueeze_dim"),
    [(Q.transpose(1, 2), COS, 2), (Q, COS[:, None], 0), (Q[..., :1], COS, 1)],
    ids=["other axes", "a table per head", "part of the width"],
)
def test_a_call_that_the_operator_does_not_cover_goes_to_the_original(
    modeling: ModuleType, q: torch.Tensor, cos: torch.Tensor, unsqueeze_dim: int
) -> None:
    def rotate(x: torch.Tensor) -> torch.Tensor:
        return rotate_halves(x) if x.shape[-1] > 1 else x

    vars(modeling)["apply_rotary_pos_emb"] = rotary_function(rotate)
    module = Rotating()
    module.unsqueeze_dim = unsqueeze_dim
    with patched(module, CONTEXT):
        assert "edgeq.rotary.default" not in operators_of(module, q, cos)


def _other_names(query: Any, key: Any, cos: Any, sin: Any) -> Any:  # noqa: ANN401
    return rotary_function(rotate_halves)(query, key, cos, sin)


def _fails(q: Any, k: Any, cos: Any, sin: Any) -> Any:  # noqa: ANN401
    raise ValueError


@pytest.mark.parametrize("function", [rotary_function(rotate_pairs), _other_names, _fails])
def test_another_rotation_is_left_alone(modeling: ModuleType, function: Callable[..., Any]) -> None:
    vars(modeling)["apply_rotary_pos_emb"] = function
    with patched(Rotating(), CONTEXT) as patches:
        assert vars(modeling)["apply_rotary_pos_emb"] is function
        assert patches.tables == []


def llama_rotary(rope: dict[str, Any]) -> LlamaRotaryEmbedding:
    config = LlamaConfig(
        hidden_size=32, num_attention_heads=4, max_position_embeddings=16, rope_parameters={"rope_theta": 100.0, **rope}
    )
    return LlamaRotaryEmbedding(config)


STATIC: list[dict[str, Any]] = [
    {"rope_type": "default"},
    {"rope_type": "linear", "factor": 2.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
]


@pytest.mark.parametrize("rope", STATIC, ids=lambda rope: str(rope["rope_type"]))
def test_angles_that_depend_on_positions_alone_become_tables(rope: dict[str, Any]) -> None:
    rotary = llama_rotary(rope)
    cos, sin = rotary(torch.zeros(1), torch.arange(CONTEXT)[None])
    with patched(WithRotary(rotary), CONTEXT) as patches:
        (found,) = patches.tables
        assert operators_of(rotary, torch.zeros(1), torch.zeros(2, 3, dtype=torch.int64))[0] == (
            "edgeq.rope_tables.default"
        )
    half = cos.shape[-1] // 2
    assert torch.equal(torch.from_numpy(found[0]), cos[0, :, :half])
    assert torch.equal(torch.from_numpy(found[1]), sin[0, :, :half])
    assert "forward" not in vars(rotary)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "dynamic", "factor": 2.0},
        {
            "rope_type": "longrope",
            "factor": 2.0,
            "short_factor": [1.0] * 4,
            "long_factor": [2.0] * 4,
            "original_max_position_embeddings": 16,
        },
    ],
    ids=lambda rope: str(rope["rope_type"]),
)
def test_angles_that_depend_on_the_length_stay(rope: dict[str, Any]) -> None:
    rotary = llama_rotary(rope)
    with patched(WithRotary(rotary), CONTEXT) as patches:
        assert patches.tables == []
        assert "forward" not in vars(rotary)


def test_kinds_of_layers_have_their_own_tables() -> None:
    config = Gemma3TextConfig(
        hidden_size=32, num_attention_heads=4, head_dim=8, num_hidden_layers=2, max_position_embeddings=16
    )
    config.layer_types = ["sliding_attention", "full_attention"]
    rotary = Gemma3RotaryEmbedding(config)
    with patched(WithRotary(rotary), CONTEXT) as patches:
        assert len(patches.tables) == 2
        assert not (patches.tables[0][0] == patches.tables[1][0]).all()


class WithRotary(nn.Module):
    """A module whose file has the rotation of halves: Llama's."""

    def __init__(self, rotary: nn.Module) -> None:
        super().__init__()
        self.rotary = rotary


def test_everything_is_restored_after_an_exception(modeling: ModuleType) -> None:
    original = rotary_function(rotate_halves)
    vars(modeling)["apply_rotary_pos_emb"] = original
    rotary, norm, linear = llama_rotary({"rope_type": "default"}), PlainRMSNorm(), nn.Linear(4, 4)
    llama = sys.modules[LlamaRotaryEmbedding.__module__]
    before = vars(llama)["apply_rotary_pos_emb"]
    module = nn.Sequential(Rotating(), WithRotary(rotary), norm, linear)

    def patched_then_failing() -> None:
        with patched(module, CONTEXT):
            assert all("forward" in vars(part) for part in (rotary, norm, linear))
            assert vars(llama)["apply_rotary_pos_emb"] is not before
            msg = "while tracing"
            raise RuntimeError(msg)

    with pytest.raises(RuntimeError, match="while tracing"):
        patched_then_failing()
    assert not any("forward" in vars(part) for part in (rotary, norm, linear))
    assert vars(llama)["apply_rotary_pos_emb"] is before
    assert vars(modeling)["apply_rotary_pos_emb"] is original
