"""Pairs of channels that may be scaled: found in many architectures, refused where the answer would change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from edgeq.models.blocks import BlockRunner
from edgeq.models.folding import Fold, apply_fold, find_folds
from edgeq.models.source import load
from runtime_tests.families import FAMILIES, save_random

SEQUENCES = [list(range(5, 17)), list(range(40, 47))]
LLAMA = [
    ("input_layernorm", ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    ("self_attn.v_proj", ["self_attn.o_proj"]),
    ("post_attention_layernorm", ["mlp.gate_proj", "mlp.up_proj"]),
    ("mlp.up_proj", ["mlp.down_proj"]),
]
GEMMA2 = [*LLAMA[:2], ("pre_feedforward_layernorm", LLAMA[2][1]), LLAMA[3]]
EXPECTED = {
    "llama": LLAMA,
    "gemma2": GEMMA2,
    "olmo2": [LLAMA[1], LLAMA[3]],  # norms behind what they follow are read by nobody but the sum
    "phi3": [
        ("input_layernorm", ["self_attn.qkv_proj"]),
        ("self_attn.qkv_proj", ["self_attn.o_proj"]),
        ("post_attention_layernorm", ["mlp.gate_up_proj"]),
        ("mlp.gate_up_proj", ["mlp.down_proj"]),
    ],
    "gpt2": [("ln_1", ["attn.c_attn"]), ("attn.c_attn", ["attn.c_proj"]), ("ln_2", ["mlp.c_fc"])],
    "gpt_neox": [
        ("input_layernorm", ["attention.query_key_value"]),
        ("post_attention_layernorm", ["mlp.dense_h_to_4h"]),
    ],
    "phi": [
        ("input_layernorm", ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.fc1"]),
        ("self_attn.v_proj", ["self_attn.dense"]),
    ],
    "nemotron": [*LLAMA[:2], ("post_attention_layernorm", ["mlp.up_proj"])],
    "bert": [("attention.self.value", ["attention.output.dense"])],
}


def answers(runner: BlockRunner, scale: bool) -> tuple[list[torch.Tensor], int]:
    """Of the whole model, with every pair of every block scaled at random or none; and how many pairs there were."""
    activations, count = runner.embed(), 0
    for index in range(runner.count):
        block = runner.load(index)
        if scale:
            for fold in find_folds(runner, index, block):
                apply_fold(block, fold, random_scales(fold.channels, count))
                count += 1
        activations = runner.run(block, index, activations)
    return list(runner.finish(activations)), count


def random_scales(channels: int, seed: int = 0) -> torch.Tensor:
    return 4 ** (2 * torch.rand(channels, generator=torch.manual_seed(seed)) - 1)


def described(folds: list[Fold]) -> list[tuple[str, list[str]]]:
    return [(fold.producer, list(fold.consumers)) for fold in folds]


@pytest.mark.parametrize("name", EXPECTED)
def test_the_model_answers_as_before(name: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    runner = BlockRunner(load(save_random(family, tmp_path), task=family.task), SEQUENCES)
    block = runner.load(0)
    before = {path: values.clone() for path, values in block.state_dict().items()}
    folds = find_folds(runner, 0, block)
    assert described(folds) == EXPECTED[name]
    assert all(torch.equal(values, before[path]) for path, values in block.state_dict().items())
    norms = [fold for fold in folds if "norm" in fold.producer]
    assert all(fold.one_plus == (name in {"gemma2", "nemotron"}) for fold in norms)
    plain, _ = answers(runner, scale=False)
    scaled, count = answers(runner, scale=True)
    assert count == 2 * len(EXPECTED[name])
    for expected, actual in zip(plain, scaled, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


# -- toy blocks -------------------------------------------------------------------------------------------------------

Between = Callable[[torch.Tensor], torch.Tensor]


class OnePlusNorm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.1 * torch.randn(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / x.square().mean(-1, keepdim=True).sqrt() * (1 + self.weight)


class Block(nn.Module):
    """A norm, an up projection, something `between`, a down projection; `also`: what is added to the sum, of (x, the
    norm's output, the up projection's)."""

    def __init__(
        self,
        between: Between = lambda x: x,
        also: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor] = lambda x, _normed, _up: x,
        *,
        channels: int = 24,
        inputs: int = 24,
        norm: type[nn.Module] = nn.LayerNorm,
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.between, self.also = between, also
        self.norm, self.up, self.down = norm(16), nn.Linear(16, channels), nn.Linear(inputs, 16)
        for parameter in self.parameters():
            parameter.requires_grad_(False)
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = self.norm(x)
        up = self.up(normed)
        result: torch.Tensor = self.also(x, normed, up) + self.down(self.between(up))
        return result


class Noise:
    def probe(self, block: nn.Module, index: int) -> torch.Tensor:
        result: torch.Tensor = block(torch.randn((1, 9, 16), generator=torch.manual_seed(index)))
        return result


NORM, UP = ("norm", ["up"]), ("up", ["down"])


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        pytest.param(Block(), [NORM, UP], id="nothing between"),
        pytest.param(Block(torch.relu), [NORM, UP], id="what scales with its input"),
        pytest.param(Block(nn.functional.gelu), [NORM], id="an activation"),
        pytest.param(Block(torch.tanh), [NORM], id="another activation"),
        pytest.param(Block(lambda x: x.clamp(-8, 8)), [NORM], id="a clamp that the probe does not reach"),
        pytest.param(Block(lambda x: x.flip(-1)), [NORM], id="channels in another order"),
        pytest.param(Block(lambda x: x * x), [NORM], id="a square"),
        pytest.param(Block(also=lambda x, normed, _up: x + normed), [UP], id="a norm with another reader"),
        pytest.param(Block(also=lambda x, _normed, up: x + up[..., :16]), [NORM], id="a linear with another reader"),
        pytest.param(Block(lambda up: 0 * up), [NORM][:0], id="a dead branch"),
    ],
)
def test_only_what_leaves_the_answer_alone_is_a_pair(block: Block, expected: list[tuple[str, list[str]]]) -> None:
    assert described(find_folds(Noise(), 0, block)) == expected


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm, OnePlusNorm])
def test_norms_of_both_kinds_are_told_apart(norm: type[nn.Module]) -> None:
    folds = find_folds(Noise(), 0, Block(norm=norm))
    assert described(folds) == [NORM, UP]
    assert folds[0].one_plus == (norm is OnePlusNorm)


@pytest.mark.parametrize(("channels", "size"), [(24, 3), (24, 8), (24, 24), (12, 1)])
def test_heads_that_share_their_values_share_scales(channels: int, size: int) -> None:
    """24 channels in heads of `size`, each read twice as in attention with grouped queries."""

    def repeat(values: torch.Tensor) -> torch.Tensor:
        heads = values.reshape(*values.shape[:-1], channels // size, size)
        return heads.repeat_interleave(2, dim=-2).flatten(-2)

    block = Block(repeat, channels=channels, inputs=2 * channels)
    folds = find_folds(Noise(), 0, block)
    assert described(folds) == [NORM, UP]
    expected = [head * size + at for head in range(channels // size) for _ in range(2) for at in range(size)]
    assert folds[1].columns.tolist() == expected
    assert folds[1].channels == channels


@pytest.mark.parametrize("first", [0, 24, 48])
def test_a_part_of_a_fused_linear_is_a_producer(first: int) -> None:
    """Of three parts, two go through what no scale passes."""

    def attend(values: torch.Tensor) -> torch.Tensor:
        return values[..., first : first + 24] * torch.tanh(values[..., first - 24 : first or None])

    folds = find_folds(Noise(), 0, Block(attend, channels=72))
    assert described(folds) == [NORM, UP]
    assert (folds[1].first, folds[1].channels) == (first, 24)


def test_a_fold_is_what_it_says() -> None:
    block = Block(channels=8, inputs=6)
    before = {name: values.clone() for name, values in block.state_dict().items()}
    columns, scales = torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([0.5, 2.0, 8.0])
    apply_fold(block, Fold(producer="up", consumers=("down",), columns=columns, first=4), scales)
    found = block.state_dict()
    for channel in range(8):
        by = float(scales[channel - 4]) if 4 <= channel < 7 else 1.0
        assert torch.equal(found["up.weight"][channel], before["up.weight"][channel] / by)
        assert float(found["up.bias"][channel]) == float(before["up.bias"][channel]) / by
    for column in range(6):
        assert torch.equal(found["down.weight"][:, column], before["down.weight"][:, column] * scales[column % 3])
    for name in ("norm.weight", "norm.bias", "down.bias"):
        assert torch.equal(found[name], before[name])
