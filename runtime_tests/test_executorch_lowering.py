"""Lowered models in ExecuTorch's own runtime: they say what the eager module says, however they are called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from edgeq.core.artifact import TABLE_SUFFIX, Artifact
from edgeq.core.model import Task
from edgeq.core.recipe import Recipe
from edgeq.core.records import to_plain
from edgeq.errors import UnsupportedModelError
from edgeq.lowering import lower
from edgeq.lowering.executorch import activations
from edgeq.lowering.executorch.lowering import build
from edgeq.models.architecture import build_module
from edgeq.models.pooling import SentenceEmbedding
from edgeq.models.source import load
from edgeq.progress import SilentProgress
from edgeq.quantization import allocate, quantize
from edgeq.runtimes.executorch import Encoder, TextGenerator, planned_memory
from edgeq.store import QuantizedModel
from edgeq.targets.profiles import load_profile
from edgeq.validation.weights import artifact_digest
from runtime_tests.families import VOCABULARY, WINDOW, Family, save_random
from tests.tiny_models import tiny_bert, tiny_gpt2, tiny_llama, tiny_qwen2

Floats = npt.NDArray[np.float32]
TARGET = load_profile("android")
RUNTIME_NOISE = 2e-2
"""Of logits, relative: what tips from one int8 step of an activation to the next is carried on by later layers."""
IDS = [int(token) for token in np.random.default_rng(0).integers(5, VOCABULARY, 13)]
PROMPT = "The boat left the harbour"


def gemma2(directory: Path) -> Path:
    return save_random(Family(model_type="gemma2", options=WINDOW), directory)


LANGUAGE_MODELS: dict[str, tuple[Callable[[Path], Path], Recipe]] = {
    "llama, 4 bits, tied": (tiny_llama, Recipe(bits=4)),
    "qwen2, zero points": (tiny_qwen2, Recipe(bits=4, symmetric=False)),
    "gpt2, 8 bits": (tiny_gpt2, Recipe(bits=8)),
    "gemma2, window and softcap": (gemma2, Recipe(bits=4)),
}


@dataclass(frozen=True, kw_only=True)
class Lowered:
    store: QuantizedModel
    artifact: Artifact
    source: Path

    @property
    def path(self) -> Path:
        return self.artifact.directory / self.artifact.entry


def lowered_into(directory: Path, make: Callable[[Path], Path], recipe: Recipe, task: Task) -> Lowered:
    source = make(directory / "source")
    model = load(source, task=task)
    store = quantize(model, allocate(model, recipe, TARGET, ("executorch",)), directory / "store")
    (directory / "artifact").mkdir()
    artifact = lower(store, TARGET, "executorch", directory / "artifact", SilentProgress())
    return Lowered(store=store, artifact=artifact, source=source)


@pytest.fixture(scope="module", params=LANGUAGE_MODELS)
def language_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Lowered:
    make, recipe = LANGUAGE_MODELS[request.param]
    return lowered_into(tmp_path_factory.mktemp("model"), make, recipe, "text-generation")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Lowered:
    return lowered_into(tmp_path_factory.mktemp("llama"), tiny_llama, Recipe(bits=4), "text-generation")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Lowered:
    return lowered_into(tmp_path_factory.mktemp("bert"), tiny_bert, Recipe(bits=4), "feature-extraction")


def relative(found: Floats, expected: Floats) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def dequantized(model: Lowered, task: Task) -> nn.Module:
    module: nn.Module = build_module(model.store.source_directory, task, device="cpu")
    names = [*model.store.names(), *model.store.info.tied]
    weights = {name: torch.from_numpy(np.array(model.store.dequantized(name))) for name in names}
    module.load_state_dict(weights, strict=False)
    return module.train(mode=False)


def test_building_says_nothing_past_python(llama: Lowered, capfd: pytest.CaptureFixture[str]) -> None:
    """Its probes call ExecuTorch's operators, which write to stderr themselves."""
    build(llama.store, llama.artifact.interface.context_length)
    assert "allocator" not in capfd.readouterr().err


def test_a_language_model_says_what_the_eager_module_says(language_model: Lowered) -> None:
    interface = language_model.artifact.interface
    generator = TextGenerator(language_model.path, interface, threads=1)
    module, names, _ = build(language_model.store, interface.context_length)
    assert interface.inputs == names == ("tokens", "input_pos")
    with torch.no_grad():
        eager = module(torch.tensor([IDS]), torch.arange(len(IDS)))[0, -1].numpy()
        exact = dequantized(language_model, "text-generation")(torch.tensor([IDS])).logits[0].numpy()
    found = generator.prefill(IDS)[-1]
    noise = relative(eager, exact[-1])
    assert relative(found, eager) <= max(RUNTIME_NOISE, noise)
    whole = generator.prefill(IDS, keep=0)
    # int8 activations cost a model of two layers and 64 channels a few per cent; a fault costs everything.
    assert relative(whole, exact) < 0.15


def test_pieces_through_the_cache_equal_the_whole(language_model: Lowered) -> None:
    generator = TextGenerator(language_model.path, language_model.artifact.interface, threads=1)
    whole = generator.prefill(IDS)[-1]
    generator.prefill([9] * 20)  # what stays in the cache behind a shorter sequence is not read
    generator.reset()
    for start, stop in ((0, 6), (6, 10), (10, 11), (11, 12)):
        generator.forward(IDS[start:stop])
    assert relative(generator.step(IDS[12]), whole) < RUNTIME_NOISE


def test_the_weights_in_the_file_are_those_of_the_store(language_model: Lowered) -> None:
    artifact, store = language_model.artifact, language_model.store
    assert artifact.weights_digest == store.weights_digest
    assert artifact_digest("executorch", language_model.path, to_plain(artifact.weights)) == store.weights_digest
    names = {name.removesuffix(TABLE_SUFFIX) for name in artifact.weights}
    assert names == {name for name in store.names() if store.is_quantized(name)}


def test_one_changed_byte_of_a_weight_changes_the_digest(llama: Lowered, tmp_path: Path) -> None:
    from executorch.exir._serialize._program import deserialize_pte_binary

    data = bytearray(llama.path.read_bytes())
    named = deserialize_pte_binary(bytes(data)).named_data
    weight = llama.artifact.weights["model.layers.1.mlp.up_proj.weight"]
    for place in (weight.codes, weight.scales):
        stored = bytes(named.buffers[named.pte_data[place.partition(":")[2]].buffer_index])
        changed = bytearray(data)
        changed[data.index(stored) + 5] ^= 1
        (tmp_path / "model.pte").write_bytes(changed)
        found = artifact_digest("executorch", tmp_path / "model.pte", to_plain(llama.artifact.weights))
        assert found != llama.store.weights_digest


def test_the_program_describes_itself_to_executorchs_runners(llama: Lowered) -> None:
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(llama.path)
    answers = {name: program.load_method(name).execute([]) for name in program.method_names if name != "forward"}
    interface = llama.artifact.interface
    assert answers.pop("get_eos_ids") == list(interface.end_of_text_ids)
    assert {name: values[0] for name, values in answers.items()} == {
        "get_max_seq_len": interface.context_length - 1,
        "get_max_context_len": interface.context_length,
        "get_vocab_size": interface.vocabulary,
        "get_bos_id": interface.begin_of_text_id,
        "use_kv_cache": True,
        "use_sdpa_with_kv_cache": True,
        "enable_dynamic_shape": True,
    }


def test_executorchs_own_runner_generates_the_same_text(
    llama: Lowered, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    from executorch.extension.llm.runner import GenerationConfig, TextLLMRunner

    tokenizer = llama.source / "tokenizer.json"
    generator = TextGenerator(llama.path, llama.artifact.interface, tokenizer_path=tokenizer, threads=1)
    expected = printable(generator.generate(PROMPT, max_new_tokens=12))
    config = GenerationConfig(echo=False, max_new_tokens=12, temperature=0.0, num_bos=0, num_eos=0)
    capfdbinary.readouterr()
    # Its callback takes whole characters only, which a single token need not be: what it prints is read instead.
    TextLLMRunner(str(llama.path), str(tokenizer)).generate(PROMPT, config)
    found = printable(capfdbinary.readouterr().out.decode(errors="replace"))
    assert expected
    assert found.startswith(expected)


def printable(text: str) -> str:
    """What the runner prints of a token: it leaves everything but printable ASCII out."""
    return "".join(character for character in text if " " <= character <= "~")


def test_the_notes_say_what_the_cache_takes(llama: Lowered) -> None:
    cache = sum(2 * heads * size * 128 * 4 for heads, size in llama.artifact.interface.cache)
    assert llama.artifact.interface.cache == ((2, 16), (2, 16))
    assert any(f"{cache / 2**20:.1f} MiB of the" in note for note in llama.artifact.notes)
    assert planned_memory(llama.path).arena_bytes > cache


def test_outlying_activations_are_multiplied_apart_and_cost_no_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activations, "LARGEST_ERROR", 0.0)
    lowered = lowered_into(tmp_path, tiny_bert, Recipe(bits=4), "feature-extraction")
    interface = lowered.artifact.interface
    module, names, kernels = build(lowered.store, interface.context_length)
    assert {linear.activations for linear in kernels.quantized_linears().values()} == {"split"}
    assert any("stick" in note for note in lowered.artifact.notes)
    inputs = {"input_ids": torch.tensor([IDS]), "attention_mask": torch.ones((1, len(IDS)), dtype=torch.long)}
    inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
    with torch.no_grad():
        eager = module(*(inputs[name] for name in names)).numpy()
    found = Encoder(lowered.path, interface, threads=1).forward([IDS])
    assert relative(found, eager) <= RUNTIME_NOISE / 2
    assert artifact_digest("executorch", lowered.path, to_plain(lowered.artifact.weights)) == (
        lowered.store.weights_digest
    )


def test_an_encoder_respects_padding(bert: Lowered) -> None:
    interface = bert.artifact.interface
    encoder = Encoder(bert.path, interface, threads=1)
    together = encoder.forward([IDS, IDS[:5]])
    alone = encoder.forward([IDS[:5]])
    assert relative(together[1:], alone) < RUNTIME_NOISE
    module, names, _ = build(bert.store, interface.context_length)
    assert names == interface.inputs
    ids = torch.tensor([IDS])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    with torch.no_grad():
        eager = module(*(inputs[name] for name in names)).numpy()
        exact = SentenceEmbedding(dequantized(bert, "feature-extraction"), "mean", True)(**inputs).numpy()
    assert relative(together[:1], eager) < RUNTIME_NOISE
    assert relative(together[:1], exact) < 0.05
    assert artifact_digest("executorch", bert.path, to_plain(bert.artifact.weights)) == bert.store.weights_digest


def refused(tmp_path: Path, recipe: Recipe, match: str) -> None:
    model = load(tiny_llama(tmp_path / "source"))
    store = quantize(model, allocate(model, recipe, TARGET, ("onnx",)), tmp_path / "store")
    with pytest.raises(UnsupportedModelError, match=match):
        lower(store, TARGET, "executorch", tmp_path, SilentProgress())
    assert not (tmp_path / "model.pte").exists()


def test_schemes_of_other_formats_are_refused_by_name(tmp_path: Path) -> None:
    refused(tmp_path / "a", Recipe(bits=8), r"model\.layers\.0\..*8-bit groups of.*--format executorch")
    refused(tmp_path / "b", Recipe(bits=4), r"model\.layers\.0\..*not exact in bfloat16.*--format executorch")
