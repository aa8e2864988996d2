"""Capture: attention whole where the model's is what the operator computes, else plain; nothing is left registered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor
from transformers import AutoConfig
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from edgeq.core.model import ModelInfo, Pooling, Task
from edgeq.errors import UnsupportedModelError
from edgeq.lowering import operators
from edgeq.lowering.capture import IMPLEMENTATION, CapturedModel, capture

CONTEXT = 32
SMALL: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 44,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT_NAMES: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT}


def captured(
    directory: Path, model_type: str, task: Task = "text-generation", pooling: Pooling = "none", **options: object
) -> CapturedModel:
    """Capture needs a configuration; weights are never read."""
    AutoConfig.for_model(model_type, **{**SMALL, **options}).save_pretrained(directory)
    info = ModelInfo(
        source="test",
        revision="1",
        task=task,
        architecture="",
        model_type=model_type,
        parameters=1,
        weights={},
        tied={},
        licence=None,
        pooling=pooling,
    )
    return capture(info, directory, CONTEXT)


def nodes(model: CapturedModel, operator: Any) -> list[fx.Node]:  # noqa: ANN401
    return [node for node in model.program.graph.nodes if node.target == operator]


def test_an_architecture_on_the_interface_has_one_attention_per_layer(tmp_path: Path) -> None:
    model = captured(tmp_path, "llama")
    attentions = nodes(model, operators.attention)
    assert not model.plain
    assert [node.args[4] for node in attentions] == [0, 1]
    assert [node.args[5:] for node in attentions] == [(8**-0.5, 0, 0.0, True)] * 2
    assert len(nodes(model, operators.rms_norm)) == 5
    assert len(nodes(model, operators.linear)) == 15
    assert len(nodes(model, operators.rotary)) == 4
    assert [table[0].shape for table in model.tables] == [(CONTEXT, 4)]


def test_no_weight_is_loaded_and_every_one_is_named(tmp_path: Path) -> None:
    model = captured(tmp_path, "gpt2", **GPT_NAMES)
    assert all(isinstance(value, FakeTensor) for _, value in model.program.named_parameters())
    assert "transformer.h.1.mlp.c_fc.weight" in model.weight_names.values()
    assert "lm_head.weight" in model.weight_names.values()
    placeholders = {node.name for node in model.program.graph.nodes if node.op == "placeholder"}
    assert set(model.weight_names) <= placeholders


def test_windows_and_softcaps_reach_the_operator(tmp_path: Path) -> None:
    model = captured(
        tmp_path,
        "gemma2",
        head_dim=8,
        sliding_window=8,
        query_pre_attn_scalar=16,
        layer_types=["sliding_attention", "full_attention"],
        attn_logit_softcapping=30.0,
    )
    assert [node.args[5:] for node in nodes(model, operators.attention)] == [
        (0.25, 8, 30.0, True),
        (0.25, 0, 30.0, True),
    ]


@pytest.mark.parametrize(
    ("model_type", "options"),
    [("bloom", {"n_layer": 2, "n_head": 4}), ("gptj", {**GPT_NAMES, "rotary_dim": 8}), ("diffllama", {})],
    ids=["alibi", "not on the interface", "two attentions in a layer"],
)
def test_attention_of_its_own_is_captured_plain(model_type: str, options: dict[str, Any], tmp_path: Path) -> None:
    model = captured(tmp_path, model_type, **options)
    assert model.plain
    assert nodes(model, operators.attention) == []
    assert sorted({int(str(node.args[3])) for node in nodes(model, operators.append_cache)}) == [0, 1]


@pytest.mark.parametrize(("every", "plain"), [(1, False), (2, True)])
def test_a_window_on_bidirectional_attention_is_captured_plain(every: int, plain: bool, tmp_path: Path) -> None:
    model = captured(
        tmp_path,
        "modernbert",
        "feature-extraction",
        global_attn_every_n_layers=every,
        local_attention=8,
        cls_token_id=1,
        sep_token_id=2,
    )
    assert model.plain is plain


@pytest.mark.parametrize(
    ("model_type", "options", "inputs"),
    [
        ("bert", {}, ["input_ids", "attention_mask", "token_type_ids"]),
        ("distilbert", {"dim": 32, "hidden_dim": 44, "n_layers": 2, "n_heads": 4}, ["input_ids", "attention_mask"]),
    ],
)
def test_encoders_take_what_their_module_takes(
    model_type: str, options: dict[str, Any], inputs: list[str], tmp_path: Path
) -> None:
    model = captured(tmp_path, model_type, "feature-extraction", "mean", **options)
    assert not model.plain
    assert list(model.program.graph_signature.user_inputs) == inputs
    assert [node.args[8] for node in nodes(model, operators.attention)] == [False, False]


def test_a_causal_model_as_encoder_keeps_no_cache(tmp_path: Path) -> None:
    model = captured(tmp_path, "qwen3", "feature-extraction", "lasttoken", head_dim=8)
    assert [node.args[8] for node in nodes(model, operators.attention)] == [True, True]
    assert nodes(model, operators.append_cache) == []


def test_nothing_stays_registered(tmp_path: Path) -> None:
    captured(tmp_path, "llama")
    _assert_clean()


@pytest.mark.parametrize(("model_type", "options"), [("mamba", {"state_size": 4}), ("openai-gpt", GPT_NAMES)])
def test_a_model_without_a_key_value_cache_is_refused(model_type: str, options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="keeps no key-value cache"):
        captured(tmp_path, model_type, **options)


def test_experts_are_captured_without_loops(tmp_path: Path) -> None:
    model = captured(tmp_path, "mixtral", num_local_experts=4, num_experts_per_tok=2)
    assert len(nodes(model, torch.ops.aten.topk.default)) == 2
    assert not any("grouped_mm" in str(node.target) for node in model.program.graph.nodes)


def test_a_model_that_cannot_be_traced_is_one_clear_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    with pytest.raises(UnsupportedModelError, match="torch could not trace") as caught:
        captured(tmp_path, "jamba")
    assert "\n" not in str(caught.value)
    assert "Traceback" not in capfd.readouterr().err
    assert [str(w.message) for w in recwarn if w.category is FutureWarning] == []
    _assert_clean()


def _assert_clean() -> None:
    assert IMPLEMENTATION not in ALL_ATTENTION_FUNCTIONS.valid_keys()
    assert IMPLEMENTATION not in ALL_MASK_ATTENTION_FUNCTIONS.valid_keys()
    linear = torch.nn.Linear(2, 2)
    assert linear.weight.device.type == "cpu"
