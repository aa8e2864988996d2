"""Loading: the weights are transformers' own, whatever the names in the checkpoint; gaps are refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from edgeq.core.model import Task
from edgeq.errors import (
    EXIT_USAGE,
    CorruptInputError,
    SourceNotFoundError,
    UnsafeInputError,
    UnsupportedModelError,
)
from edgeq.models import source as source_module
from edgeq.models.architecture import load_module
from edgeq.models.checkpoint import SINGLE_FILE
from edgeq.models.demo_model import DEMO_NAME
from edgeq.models.roles import stored_tensors
from edgeq.models.source import SourceModel, load
from edgeq.models.weights import LoadedWeights, MappedWeights
from tests.tiny_models import VOCABULARY, tiny_bert, tiny_gpt2, tiny_llama

SHAPE = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 172,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1}


def save_random(directory: Path, config_class: str, auto_class: str, values: dict[str, Any]) -> None:
    """A bfloat16 model of any architecture, by the names of transformers' classes."""
    library: Any = transformers
    config = getattr(library, config_class)(**{**SHAPE, **values})
    getattr(library, auto_class).from_config(config, dtype=torch.bfloat16).save_pretrained(directory)


def assert_same_weights(model: SourceModel, directory: Path) -> None:
    """transformers' own loading is the oracle, bit by bit."""
    module, _ = load_module(directory, model.info.task, dtype="auto")
    expected = stored_tensors(module)
    assert set(model.info.weights) == set(expected)
    for name, tensor in expected.items():
        values = model.read(name)
        assert values.shape == tuple(tensor.shape) == model.info.weights[name].shape
        assert np.array_equal(values.astype(np.float32), tensor.detach().float().numpy()), name


@pytest.mark.parametrize("fixture", ["llama", "qwen2", "gpt2", "bert"])
def test_weights_are_those_that_transformers_loads(fixture: str, request: pytest.FixtureRequest) -> None:
    directory = request.getfixturevalue(fixture)
    model = load(directory)
    assert isinstance(model.weights, MappedWeights)
    assert_same_weights(model, directory)


@pytest.mark.parametrize(
    ("config_class", "task", "lazy"),
    [
        ("GemmaConfig", "text-generation", True),
        ("GPTNeoXConfig", "text-generation", True),
        ("PhiConfig", "text-generation", True),
        ("MixtralConfig", "text-generation", False),
        ("RobertaConfig", "feature-extraction", True),
        ("DistilBertConfig", "feature-extraction", True),
        ("T5Config", "feature-extraction", True),
        ("LlamaConfig", "feature-extraction", True),
    ],
)
def test_architectures_need_no_list(tmp_path: Path, config_class: str, task: Task, lazy: bool) -> None:
    extra: dict[str, Any] = {"MixtralConfig": EXPERTS, "T5Config": {"d_kv": 16}}.get(config_class, {})
    auto = {"text-generation": "AutoModelForCausalLM", "feature-extraction": "AutoModel"}[task]
    save_random(tmp_path, config_class, "AutoModelForTextEncoding" if config_class == "T5Config" else auto, extra)
    model = load(tmp_path)
    assert model.info.task == task
    assert isinstance(model.weights, MappedWeights) is lazy
    assert_same_weights(model, tmp_path)


def test_converted_checkpoints_are_loaded_whole_and_say_so(tmp_path: Path) -> None:
    save_random(tmp_path, "MixtralConfig", "AutoModelForCausalLM", EXPERTS)
    model = load(tmp_path)
    assert isinstance(model.weights, LoadedWeights)
    assert any("whole float model" in note for note in model.notes)
    assert any("stay float" in note for note in model.notes)
    assert {weight.dtype for weight in model.info.weights.values()} == {"BF16"}


def test_info_of_a_language_model(llama: Path) -> None:
    info = load(str(llama)).info
    assert (info.task, info.architecture, info.model_type) == ("text-generation", "LlamaForCausalLM", "llama")
    assert info.source == str(llama)
    assert info.tied == {"lm_head.weight": "model.embed_tokens.weight"}
    assert info.context_length == 128
    assert info.parameters == sum(int(np.prod(weight.shape)) for weight in info.weights.values())
    embedding = info.weights["model.embed_tokens.weight"]
    assert (embedding.role, embedding.shape, embedding.dtype) == ("embedding", (VOCABULARY, 64), "BF16")
    down = info.weights["model.layers.1.mlp.down_proj.weight"]
    assert (down.role, down.input_axis, down.block, down.outputs_inputs) == ("linear", 1, 1, (64, 172))
    assert info.weights["model.norm.weight"].role == "other"


def test_info_of_a_sentence_encoder(bert: Path) -> None:
    model = load(bert)
    info = model.info
    assert (info.task, info.architecture) == ("feature-extraction", "BertModel")
    assert (info.pooling, info.normalize) == ("mean", True)
    assert not any("pooler" in name for name in info.weights)
    assert any("pooler.dense" in note for note in model.notes)
    assert info.weights["embeddings.position_embeddings.weight"].role == "other"


def test_a_task_can_be_asked_for(llama: Path) -> None:
    info = load(llama, task="feature-extraction").info
    assert (info.architecture, info.pooling) == ("LlamaModel", "none")
    assert "embed_tokens.weight" in info.weights


def test_shards_are_joined(qwen2: Path) -> None:
    model = load(qwen2)
    assert isinstance(model.weights, MappedWeights)
    assert len(model.weights.checkpoint.files) > 1
    assert model.info.weights["lm_head.weight"].role == "head"
    assert model.info.tied == {}


def rename(directory: Path, rules: dict[str, str]) -> None:
    """Substitute regular expressions in the tensor names of the checkpoint."""
    tensors = {}
    for name, tensor in load_file(directory / SINGLE_FILE).items():
        renamed = name
        for old, new in rules.items():
            renamed = re.sub(old, new, renamed)
        tensors[renamed] = tensor
    save_file(tensors, directory / SINGLE_FILE, metadata={"format": "pt"})


@pytest.mark.parametrize(
    "rules",
    [{"^": "bert."}, {r"LayerNorm\.weight$": "LayerNorm.gamma", r"LayerNorm\.bias$": "LayerNorm.beta"}],
    ids=["prefix added", "gamma"],
)
def test_old_names_of_an_encoder_are_found(tmp_path: Path, rules: dict[str, str]) -> None:
    directory = tiny_bert(tmp_path)
    expected = {name: load(directory).read(name).copy() for name in load(directory).info.weights}
    rename(directory, rules)
    model = load(directory)
    assert all(np.array_equal(model.read(name), values) for name, values in expected.items())


def test_names_without_the_base_prefix_are_found(tmp_path: Path) -> None:
    directory = tiny_gpt2(tmp_path)
    rename(directory, {r"^transformer\.": ""})
    assert_same_weights(load(directory), directory)


def test_a_tied_table_may_be_stored_under_the_name_of_the_head(tmp_path: Path) -> None:
    directory = tiny_llama(tmp_path)
    rename(directory, {"^model.embed_tokens": "lm_head"})
    model = load(directory)
    assert model.info.tied == {"lm_head.weight": "model.embed_tokens.weight"}
    assert_same_weights(model, directory)


@pytest.mark.parametrize("same", [True, False])
def test_two_copies_of_a_tied_table_must_agree(tmp_path: Path, same: bool) -> None:
    directory = tiny_llama(tmp_path)
    tensors = load_file(directory / SINGLE_FILE)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + (0.0 if same else 1.0)
    save_file(tensors, directory / SINGLE_FILE)
    if same:
        assert load(directory).notes == ()
    else:
        with pytest.raises(CorruptInputError, match="tie_word_embeddings"):
            load(directory)


def test_a_missing_weight_is_named_and_never_invented(tmp_path: Path) -> None:
    directory = tiny_llama(tmp_path, tied=False)
    rename(directory, {"^lm_head": "something"})
    with pytest.raises(CorruptInputError, match=r"lm_head\.weight"):
        load(directory)


def test_a_config_of_another_size_is_refused(tmp_path: Path) -> None:
    directory = tiny_llama(tmp_path)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"intermediate_size": 256}))
    with pytest.raises(CorruptInputError, match=r"\(172, 64\).*\(256, 64\)"):
        load(directory)


def test_a_missing_weight_of_a_converted_checkpoint_is_named(tmp_path: Path) -> None:
    save_random(tmp_path, "MixtralConfig", "AutoModelForCausalLM", EXPERTS)
    rename(tmp_path, {"^model.norm": "unknown"})
    with pytest.raises(CorruptInputError, match=r"model\.norm\.weight"):
        load(tmp_path)


def test_companions_are_the_files_beside_the_weights(bert: Path) -> None:
    names = [str(path) for path in load(bert).companion_files()]
    assert names == ["config.json", "tokenizer.json", "tokenizer_config.json", "modules.json", "1_Pooling/config.json"]


def test_a_companion_that_is_a_link_outwards_is_refused(tmp_path: Path, llama: Path) -> None:
    directory = tmp_path / "model"
    shutil.copytree(llama, directory)
    (tmp_path / "secret").write_text("key")
    (directory / "LICENSE").symlink_to(tmp_path / "secret")
    with pytest.raises(UnsafeInputError, match="link"):
        load(directory).companion_files()


def test_no_source_is_the_demo_model(monkeypatch: pytest.MonkeyPatch, llama: Path) -> None:
    monkeypatch.setattr(source_module, "demo_directory", lambda: llama)
    assert load(None).info.source == DEMO_NAME


def test_a_hub_id_is_fetched(monkeypatch: pytest.MonkeyPatch, llama: Path) -> None:
    monkeypatch.setattr(source_module, "snapshot", lambda name: llama if name == "owner/name" else None)
    assert load("owner/name").info.source == "owner/name"


@pytest.mark.parametrize("name", ["./no/such/directory", "/no/such", "nothing", "a/b/c", "../x/y", ""])
def test_what_is_neither_a_directory_nor_a_hub_id_is_not_found(name: str) -> None:
    with pytest.raises((SourceNotFoundError, UnsupportedModelError)) as caught:
        load(name or "nothing-at-all")
    assert caught.value.exit_code == EXIT_USAGE


def test_a_file_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(UnsupportedModelError, match="is a file"):
        load(tmp_path / "model.gguf")


def test_an_encoder_knows_its_longest_sentence(tmp_path: Path) -> None:
    directory = tiny_bert(tmp_path, context=100)
    assert load(directory).info.context_length == 100
    (directory / "sentence_bert_config.json").write_text('{"max_seq_length": 32}')
    assert load(directory).info.context_length == 32


def test_positions_that_padding_occupies_do_not_count(tmp_path: Path) -> None:
    save_random(tmp_path, "RobertaConfig", "AutoModel", {"pad_token_id": 1})
    assert load(tmp_path).info.context_length == 62
