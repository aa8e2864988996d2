"""Tasks, modules and what is refused before anything is built."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertModel, LlamaForCausalLM

from edgeq.errors import CorruptInputError, EdgeqError, SourceNotFoundError, UnsafeInputError, UnsupportedModelError
from edgeq.models.architecture import build_module, detect_task, load_module, read_config
from edgeq.models.roles import shared_names, stored_tensors, weight_roles


def write_config(directory: Path, **values: object) -> Path:
    (directory / "config.json").write_text(json.dumps(values))
    return directory


@pytest.mark.parametrize(
    ("fixture", "task"),
    [
        ("llama", "text-generation"),
        ("qwen2", "text-generation"),
        ("gpt2", "text-generation"),
        ("bert", "feature-extraction"),
    ],
)
def test_the_task_is_in_the_checkpoint(fixture: str, task: str, request: pytest.FixtureRequest) -> None:
    assert detect_task(request.getfixturevalue(fixture)) == task


@pytest.mark.parametrize("architecture", ["BertModel", "BertForMaskedLM", "MistralModel"])
def test_encoders_and_bare_models_extract_features(tmp_path: Path, architecture: str) -> None:
    assert detect_task(write_config(tmp_path, model_type="bert", architectures=[architecture])) == "feature-extraction"


def test_modules_json_wins_over_the_architecture(tmp_path: Path, llama: Path) -> None:
    shutil.copy(llama / "config.json", tmp_path)
    (tmp_path / "modules.json").write_text("[]")
    assert detect_task(tmp_path) == "feature-extraction"


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"model_type": "bert", "architectures": ["BertForMultipleChoice"]}, UnsupportedModelError, "MultipleChoice"),
        ({"model_type": "bert"}, UnsupportedModelError, "names no architecture"),
        ({"model_type": "not-known"}, UnsupportedModelError, "not-known"),
        ({}, UnsupportedModelError, "None"),
        ({"model_type": "mine", "auto_map": {"AutoModel": "x.Y"}}, UnsafeInputError, "never runs code"),
        ({"model_type": "llama", "quantization_config": {"quant_method": "gptq"}}, UnsupportedModelError, "gptq"),
        ({"model_type": "llama", "attn_implementation": "someone/kernel"}, UnsafeInputError, "attn_implementation"),
        ({"model_type": "llama", "transformers_weights": "x.safetensors"}, UnsafeInputError, "elsewhere"),
        ({"model_type": "llama", "hidden_size": "wide"}, CorruptInputError, "llama"),
    ],
)
def test_what_cannot_be_used_is_refused(
    tmp_path: Path, values: dict[str, Any], error: type[EdgeqError], words: str
) -> None:
    with pytest.raises(error, match=words):
        detect_task(write_config(tmp_path, **values))


def test_built_in_classes_run_although_the_checkpoint_brings_code(tmp_path: Path, llama: Path) -> None:
    values = json.loads((llama / "config.json").read_text())
    write_config(tmp_path, **values, auto_map={"AutoModelForCausalLM": "evil.Model"})
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    assert type(build_module(tmp_path, "text-generation")) is LlamaForCausalLM


def test_an_adapter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UnsupportedModelError, match="Merge"):
        read_config(write_config(tmp_path, model_type="llama"))


def test_a_directory_without_config_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match=r"config\.json"):
        read_config(tmp_path)


@pytest.mark.parametrize(("model_type", "words"), [("t5", "decoder"), ("vit", "no text-generation")])
def test_a_task_without_a_class_is_refused(tmp_path: Path, model_type: str, words: str) -> None:
    with pytest.raises(UnsupportedModelError, match=words):
        build_module(write_config(tmp_path, model_type=model_type), "text-generation")


def test_a_model_that_reads_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="pixel_values"):
        build_module(write_config(tmp_path, model_type="vit"), "feature-extraction")


def test_a_configuration_that_makes_no_module_is_refused(tmp_path: Path) -> None:
    write_config(tmp_path, model_type="bert", hidden_size=64, num_attention_heads=7)
    with pytest.raises((UnsupportedModelError, CorruptInputError)):
        build_module(tmp_path, "feature-extraction")


def test_the_module_is_float32_without_memory(llama: Path) -> None:
    module = build_module(llama, "text-generation")
    assert not module.training
    assert {parameter.device.type for parameter in module.parameters()} == {"meta"}
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}


def test_an_encoder_is_built_without_pooler(bert: Path) -> None:
    module = build_module(bert, "feature-extraction")
    assert isinstance(module, BertModel)
    assert module.pooler is None


def test_the_attention_can_be_chosen(llama: Path) -> None:
    module = build_module(llama, "text-generation", attn_implementation="eager")
    assert module.config._attn_implementation == "eager"


def test_loading_a_damaged_checkpoint_is_refused(tmp_path: Path, llama: Path) -> None:
    shutil.copy(llama / "config.json", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CorruptInputError, match="cannot load"):
        load_module(tmp_path, "text-generation", dtype="float32")


def test_conv1d_contracts_its_first_axis(gpt2: Path) -> None:
    roles = weight_roles(build_module(gpt2, "text-generation"))
    c_fc = roles["transformer.h.1.mlp.c_fc.weight"]
    assert (c_fc.role, c_fc.input_axis, c_fc.block) == ("linear", 0, 1)
    assert roles["transformer.wte.weight"].role == "embedding"
    assert roles["transformer.wpe.weight"].role == "other"
    assert "lm_head.weight" not in roles


def test_an_untied_head_has_its_own_role(qwen2: Path) -> None:
    module = build_module(qwen2, "text-generation")
    roles = weight_roles(module)
    assert (roles["lm_head.weight"].role, roles["lm_head.weight"].block) == ("head", None)
    assert roles["model.layers.0.self_attn.q_proj.bias"].role == "other"
    assert shared_names(module) == {}


def test_computed_buffers_are_not_weights(llama: Path) -> None:
    module = build_module(llama, "text-generation")
    assert any("inv_freq" in name for name, _ in module.named_buffers())
    assert not any("inv_freq" in name for name in stored_tensors(module))


def test_persistent_buffers_are_weights_and_blocks_nest_outside_in() -> None:
    module = torch.nn.Module()
    inner = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)])
    module.layers = torch.nn.ModuleList([torch.nn.Sequential(inner), torch.nn.BatchNorm1d(2)])
    assert "layers.1.running_mean" in stored_tensors(module)

    module.get_input_embeddings = lambda: None  # type: ignore[assignment]
    module.get_output_embeddings = lambda: None  # type: ignore[assignment]
    roles = weight_roles(module)  # type: ignore[arg-type]
    assert roles["layers.0.0.1.weight"].block == 0
    assert roles["layers.1.running_mean"].block == 1


def test_importing_the_source_loads_no_framework() -> None:
    code = "import sys, edgeq.models.source; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    child = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert child.stdout.strip() == "[]"
