"""The parts of the training script that a short run cannot get wrong unseen: text, windows, loss and optimizers."""

from __future__ import annotations

import itertools
import math
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from edgeq.models.source import load

SCRIPT = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "examples" / "train_demo_model.py")))
TEXT = "The river ran past the old mill. Nobody knew — not even she — where it went.\n" * 40


def test_plain_english_drops_unknown_words_and_headings_and_sets_punctuation() -> None:
    text = (
        " = A heading = \n"
        ' She said " yes , it is " , and left . The <unk> sat down . It cost $ 3 @.@ 5 ( or 1 @,@ 000 ) . \n'
        " A well @-@ known man 's hat . \n"
    )
    assert SCRIPT.plain_english(text) == (
        'She said "yes, it is", and left. It cost $3.5 (or 1,000). A well-known man\'s hat.'
    )


def test_tokens_of_any_text_decode_to_it() -> None:
    tokenizer = SCRIPT.train_tokenizer([TEXT])
    other = "Überall 漢字\n\n\ttabs"
    assert tokenizer.decode(SCRIPT.encode(tokenizer, other).tolist()) == other
    assert len(SCRIPT.encode(tokenizer, TEXT)) < len(TEXT) // 3


def test_an_epoch_is_every_window_once_in_an_order_of_its_own() -> None:
    tokens = torch.arange(10 * SCRIPT.CONTEXT)
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.cat(SCRIPT.epoch_batches(tokens, generator)) for _ in range(2))
    assert first.shape == (8, SCRIPT.CONTEXT + 1)  # nine windows behind the offset, in batches of four
    for windows in (first, second):
        assert bool((windows.diff(dim=1) == 1).all())
        starts = sorted(windows[:, 0].tolist())
        assert len(set(starts)) == 8
        assert {(start - starts[0]) % SCRIPT.CONTEXT for start in starts} == {0}
    assert first[:, 0].tolist() != second[:, 0].tolist()
    again = torch.cat(SCRIPT.epoch_batches(tokens, torch.Generator().manual_seed(0)))
    assert torch.equal(first, again)


def test_mean_loss_is_that_of_every_token_but_each_windows_first() -> None:
    """Against log softmax, written out; a model that knows nothing loses log(vocabulary)."""
    model = _small("gpt_neox")
    tokens = torch.randint(64, (SCRIPT.CONTEXT + 40,), generator=torch.Generator().manual_seed(1))
    losses = []
    for window in (tokens[: SCRIPT.CONTEXT + 1], tokens[SCRIPT.CONTEXT :]):
        with torch.no_grad():
            logits = model(window[None, :-1]).logits[0].double()
        chances = logits.exp() / logits.exp().sum(dim=-1, keepdim=True)
        losses += [-math.log(chances[i, token]) for i, token in enumerate(window[1:].tolist())]
    assert len(losses) == len(tokens) - 1
    assert SCRIPT.mean_loss(model, tokens) == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    nn.init.zeros_(model.get_parameter("lm_head.weight"))
    assert SCRIPT.mean_loss(model, tokens) == pytest.approx(math.log(64), rel=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
def test_muon_gets_the_hidden_matrices_and_adamw_the_rest(architecture: str) -> None:
    model = _small(architecture)
    muon, adamw = ([id(p) for g in each.param_groups for p in g["params"]] for each in SCRIPT.optimizers_of(model))
    hidden = {
        id(part.weight) for name, part in model.named_modules() if isinstance(part, nn.Linear) and "layers" in name
    }
    assert set(muon) == hidden
    assert sorted(muon + adamw) == sorted(id(parameter) for parameter in model.parameters())


def test_training_learns_and_what_it_saves_edgeq_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _count_steps_as_seconds(monkeypatch)
    model = _small("gpt_neox")
    tokens = torch.arange(5 * SCRIPT.CONTEXT) % 7
    before = SCRIPT.mean_loss(model, tokens)
    SCRIPT.train(model, tokens, tokens, minutes=1)
    assert SCRIPT.mean_loss(model, tokens) < before - 1
    SCRIPT.save(model, SCRIPT.train_tokenizer([TEXT]), tmp_path)
    info = load(str(tmp_path)).info
    assert info.task == "text-generation"
    assert {weight.role for weight in info.weights.values()} == {"linear", "embedding", "head", "other"}


def test_the_weights_with_the_lowest_held_out_loss_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    _count_steps_as_seconds(monkeypatch)
    monkeypatch.setitem(SCRIPT.train.__globals__, "EVALUATE_EVERY", 4)
    model, seen = _small("gpt_neox"), []

    def pretended_loss(model: PreTrainedModel, held_out: torch.Tensor) -> float:
        seen.append(model.get_parameter("lm_head.weight").detach().clone())
        return (3.0, 1.0, 2.0, 4.0)[min(len(seen), 4) - 1]

    monkeypatch.setitem(SCRIPT.train.__globals__, "mean_loss", pretended_loss)
    tokens = torch.arange(5 * SCRIPT.CONTEXT) % 7
    SCRIPT.train(model, tokens, tokens, minutes=0.25)
    kept = model.get_parameter("lm_head.weight")
    assert [torch.equal(kept, one) for one in seen] == [False, True, False, False]


def test_the_model_for_benchmarks_has_little_in_common_with_the_demo() -> None:
    with torch.device("meta"):
        parameters = dict(_model("gpt_neox").named_parameters())
    assert 7e6 < sum(parameter.numel() for parameter in parameters.values()) < 9e6
    assert "lm_head.weight" in parameters
    layer = "gpt_neox.layers.5"
    assert {f"{layer}.input_layernorm.bias", f"{layer}.mlp.dense_h_to_4h.bias"} <= set(parameters)
    assert parameters[f"{layer}.attention.query_key_value.weight"].shape == (3 * 320, 320)


def _count_steps_as_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The schedule follows the clock, so the clock follows the schedule."""
    monkeypatch.setitem(SCRIPT.train.__globals__, "time", SimpleNamespace(monotonic=itertools.count().__next__))


def _small(architecture: str) -> PreTrainedModel:
    """One layer of 40 and 64 tokens."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 40, "intermediate_size": 48, "num_hidden_layers": 1, "head_dim": 10}
    return _model(architecture, **sizes)


def _model(architecture: str, **changed: int) -> PreTrainedModel:
    """The script's own configuration, changed."""
    configuration = SCRIPT.CONFIGURATIONS[architecture]
    changed_one = type(configuration)(**{**configuration.to_dict(), **changed})
    model = AutoModelForCausalLM.from_config(changed_one)  # type: ignore[no-untyped-call]
    assert isinstance(model, PreTrainedModel)
    return model
