"""Block by block against the whole model, for many architectures; what is not a chain of blocks is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from edgeq.errors import InternalError, UnsupportedModelError, UsageError
from edgeq.models import blocks
from edgeq.models.architecture import load_module
from edgeq.models.blocks import BlockRunner
from edgeq.models.chain import Chain, find_blocks, split_output
from edgeq.models.pooling import SentenceEmbedding
from edgeq.models.source import SourceModel, load
from runtime_tests.families import FAMILIES, Family, save_random

SEQUENCES = [
    np.random.default_rng(index).integers(3, 300, length).tolist() for index, length in enumerate((12, 7, 12, 1, 12, 7))
]
REFUSED = {"albert"}
MORE = {
    "qwen3_moe": Family(
        model_type="qwen3_moe",
        options={"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    ),
    "opt that embeds in fewer dimensions": Family(
        model_type="opt", options={"ffn_dim": 172, "word_embed_proj_dim": 32}
    ),
}
CHAINS = {name: family for name, family in FAMILIES.items() if name not in REFUSED and " bits" not in name} | MORE
UNFIT = {
    "albert": (FAMILIES["albert"], "block 0 runs more than once"),
    "t5": (
        Family(
            model_type="t5",
            options={"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4},
            task="feature-extraction",
        ),
        "block 1 takes more from block 0 than its hidden states",
    ),
    "deberta with a convolution": (
        Family(model_type="deberta-v2", options={"conv_kernel_size": 3}, task="feature-extraction"),
        "what block 0 returns is changed before block 1 takes it",
    ),
    "xlm": (
        Family(
            model_type="xlm",
            options={"emb_dim": 64, "n_layers": 2, "n_heads": 4},
            task="feature-extraction",
        ),
        "lists of blocks",
    ),
}


def whole_outputs(model: SourceModel) -> list[torch.Tensor]:
    """Of the whole model, one forward per sequence."""
    module, _ = load_module(model.directory, model.info.task, dtype="float32")
    encoder = SentenceEmbedding(module, model.info.pooling, model.info.normalize)
    found = []
    with torch.no_grad():
        for sequence in SEQUENCES:
            tokens = torch.tensor([sequence])
            mask = torch.ones_like(tokens)
            is_encoder = model.info.task == "feature-extraction"
            found.append(encoder(tokens, mask)[0] if is_encoder else module(tokens, attention_mask=mask).logits[0])
    return found


def run_all(runner: BlockRunner) -> tuple[blocks.Activations, dict[str, nn.Module]]:
    activations = runner.embed()
    linears: dict[str, nn.Module] = {}
    for index in range(runner.count):
        block = runner.load(index)
        linears |= runner.linears(index, block)
        activations = runner.run(block, index, activations)
    return activations, linears


def by_sequence(runner: BlockRunner, outputs: list[torch.Tensor]) -> list[torch.Tensor]:
    placed = {
        row: output[place]
        for batch, output in zip(runner.batches, outputs, strict=True)
        for place, row in enumerate(batch.rows)
    }
    return [placed[row] for row in range(len(SEQUENCES))]


@pytest.mark.parametrize("name", CHAINS)
def test_blocks_in_order_are_the_whole_model(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BATCH_TOKENS", 24)  # several batches of one shape
    family = CHAINS[name]
    model = load(save_random(family, tmp_path), task=family.task)
    runner = BlockRunner(model, SEQUENCES)
    activations, linears = run_all(runner)
    assert [tuple(batch.tokens.shape) for batch in runner.batches] == [(2, 12), (1, 12), (2, 7), (1, 1)]
    for found, expected in zip(
        by_sequence(runner, list(runner.finish(activations))), whole_outputs(model), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    planned = {
        name for name, weight in model.info.weights.items() if weight.role == "linear" and weight.block is not None
    }
    assert set(linears) == planned


@pytest.mark.parametrize("name", UNFIT)
def test_what_is_no_chain_is_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    family, reason = UNFIT[name]
    model = load(save_random(family, tmp_path), task=family.task)
    with pytest.raises(UnsupportedModelError, match=reason) as error:
        BlockRunner(model, SEQUENCES)
    assert "method without calibration" in error.value.remedy


def test_one_block_is_in_memory_at_a_time(llama: Path) -> None:
    model = load(llama)
    reads: list[str] = []

    class Watched:
        info, directory = model.info, model.directory

        @staticmethod
        def read(name: str) -> npt.NDArray[np.float32]:
            reads.append(name)
            return np.asarray(model.read(name), np.float32)

    runner = BlockRunner(Watched(), SEQUENCES)
    assert all(parameter.is_meta for parameter in runner._module.parameters())
    activations = runner.embed()
    assert all(parameter.is_meta for parameter in runner._module.parameters())
    reads.clear()
    block = runner.load(1)
    assert reads
    assert all(".layers.1." in name for name in reads)
    assert not any(parameter.is_meta or parameter.requires_grad for parameter in block.parameters())
    assert {parameter.dtype for parameter in block.parameters()} == {torch.float32}
    assert not block.training
    runner.run(block, 1, activations)
    list(runner.finish(activations))
    assert all(parameter.is_meta for parameter in runner._module.parameters())


def test_a_block_is_the_callers_own(llama: Path) -> None:
    runner = BlockRunner(load(llama), SEQUENCES)
    first = runner.load(0)
    for parameter in first.parameters():
        parameter.zero_()
    assert all(bool(parameter.any()) for parameter in runner.load(0).parameters())


def test_equal_shapes_share_what_their_blocks_are_called_with(gpt2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BATCH_TOKENS", 12)
    runner = BlockRunner(load(gpt2), SEQUENCES)
    runner.embed()
    assert len(runner.batches) == 6
    assert len({id(calls) for calls in runner._calls}) == 3


def test_two_streams_differ_by_their_weights_alone(qwen2: Path) -> None:
    model = load(qwen2)
    runner = BlockRunner(model, SEQUENCES)
    exact, rough = runner.embed(), runner.embed(lambda name: np.round(np.asarray(model.read(name), np.float32), 1))
    assert not any(torch.equal(a, b) for a, b in zip(exact, rough, strict=True))
    block, changed = runner.load(0), runner.load(0, lambda name: np.asarray(model.read(name), np.float32) * 0)
    assert not any(bool(parameter.any()) for parameter in changed.parameters())
    outputs = runner.run(block, 0, exact)
    runner.run(changed, 0, rough)
    for again, before in zip(runner.run(block, 0, exact), outputs, strict=True):
        assert torch.equal(again, before)


def test_two_finishes_may_run_side_by_side(qwen2: Path) -> None:
    model = load(qwen2)
    runner = BlockRunner(model, SEQUENCES)
    activations, _ = run_all(runner)
    doubled = [2 * values for values in activations]
    alone = [list(runner.finish(activations)), list(runner.finish(doubled))]
    together = zip(runner.finish(activations), runner.finish(doubled), strict=True)
    for index, (first, second) in enumerate(together):
        assert torch.equal(first, alone[0][index])
        assert torch.equal(second, alone[1][index])
        assert not torch.equal(first, second)


def test_gradients_flow_through_a_block_and_the_head(llama: Path) -> None:
    runner = BlockRunner(load(llama), SEQUENCES)
    activations = runner.embed()
    block = runner.load(1)
    (name, linear), *_ = runner.linears(1, block).items()
    assert name == "model.layers.1.self_attn.q_proj.weight"
    weight = linear.weight
    assert isinstance(weight, nn.Parameter)
    weight.requires_grad_()
    outputs = [runner.forward(block, 1, batch, hidden) for batch, hidden in enumerate(activations)]
    sum(logits.square().mean() for logits in runner.finish(outputs)).backward()  # type: ignore[union-attr]
    assert weight.grad is not None
    assert bool(weight.grad.any())
    assert not runner.run(block, 1, activations)[0].requires_grad


def test_large_vocabularies_make_small_batches(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "LARGEST_LOGITS", 4 * 384 * 24)
    assert [len(batch.rows) for batch in BlockRunner(load(llama), SEQUENCES).batches] == [2, 1, 2, 1]


def test_misuse_is_an_error(llama: Path) -> None:
    model = load(llama)
    with pytest.raises(UsageError, match="no tokens"):
        BlockRunner(model, [])
    runner = BlockRunner(model, SEQUENCES)
    with pytest.raises(InternalError, match="embedded"):
        runner.forward(runner.load(0), 0, 0, torch.zeros(1, 12, 64))


class Block(nn.Module):
    """Hands on what it takes."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, hidden: torch.Tensor, extra: object = None) -> torch.Tensor:
        return hidden * self.scale


def test_blocks_must_be_one_list_that_runs_whole_and_in_order() -> None:
    with pytest.raises(UnsupportedModelError, match="no list of blocks"):
        find_blocks(nn.Sequential(Block()))
    with pytest.raises(UnsupportedModelError, match="2 lists"):
        find_blocks(nn.ModuleDict({"a": nn.ModuleList([Block()]), "b": nn.ModuleList([Block()])}))
    nested = nn.ModuleDict({"a": nn.ModuleList([nn.ModuleList([Block()])])})
    assert find_blocks(nested)[0] == "a"
    stack = nn.ModuleList([Block(), Block()])
    chain = Chain(stack, {Block: None})
    hidden = torch.ones(1, 2, 4)
    with pytest.raises(UnsupportedModelError, match="runs 1 of its 2"), chain.replaced(lambda _, x, __: x):
        stack[0](hidden)
    with pytest.raises(UnsupportedModelError, match="block 1 runs before block 0"), chain.replaced(lambda _, x, __: x):
        stack[1](hidden)
    with pytest.raises(UnsupportedModelError, match="does not take hidden"), chain.replaced(lambda _, x, __: x):
        stack[0]("text")
    assert torch.equal(stack[0](hidden), hidden)  # its own forward is back


def test_a_block_must_return_hidden_states() -> None:
    hidden = torch.ones(1, 2, 4)
    assert split_output(hidden, hidden) == (hidden, None)
    assert split_output((hidden,), hidden) == (hidden, ())
    assert split_output((hidden, None, 3), hidden) == (hidden, (True, False))
    for output in ({"hidden": hidden}, (), hidden[:, :1], None):
        with pytest.raises(UnsupportedModelError, match="another kind"):
            split_output(output, hidden)
