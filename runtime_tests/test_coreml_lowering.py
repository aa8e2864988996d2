"""Lowered packages, run operation by operation: they compute what torch does with the same weights, however called."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from edgeq.core.artifact import Artifact
from edgeq.core.model import Task
from edgeq.core.recipe import Recipe, Rule
from edgeq.core.records import to_plain
from edgeq.core.scheme import Scheme
from edgeq.core.target import ComputeUnit
from edgeq.errors import UnsupportedModelError
from edgeq.lowering import lower
from edgeq.lowering.coreml.lowering import CHUNK
from edgeq.models.architecture import load_module
from edgeq.models.pooling import SentenceEmbedding
from edgeq.models.source import load
from edgeq.progress import SilentProgress
from edgeq.quantization import allocate, quantize
from edgeq.runtimes.coreml.drivers import Encoder, TextGenerator
from edgeq.runtimes.coreml.package import open_package
from edgeq.store import QuantizedModel
from edgeq.validation.coreml_weights import artifact_digest
from runtime_tests.families import FAMILIES, VOCABULARY, Family, save_random, target
from tests.tiny_models import tiny_llama

Floats = npt.NDArray[np.float32]
TOLERANCE = 1e-3
"""Relative, of all logits of a position: what float16 states leave. A wrong weight or mask leaves 0.1."""
CONTEXT = 128
BLOCKS = Scheme(bits=4, group_size=32, scale_dtype="float16")
CHANNELS = Scheme(bits=8, group_size=None, symmetric=True, scale_dtype="float16")
LANGUAGE_MODELS = {
    "llama": BLOCKS,
    "mistral": replace(BLOCKS, symmetric=True),  # a window of 8
    "gpt2": CHANNELS,  # learned positions, weights that lie the other way round
    "cohere": BLOCKS,  # angles computed in the graph
    "gemma2": BLOCKS,  # a window, caps, and weights of norms that 1 is added to
    "gemma3_text": BLOCKS,
}
TANH_BERT = Family(
    model_type="bert", options={"hidden_act": "gelu_pytorch_tanh"}, task="feature-extraction", pooling="mean"
)
ENCODERS = {
    "bert": FAMILIES["bert"],
    "bert with tanh": TANH_BERT,
    "mpnet": FAMILIES["mpnet"],  # buckets of distances, chosen where the condition has the larger shape
    "qwen3 as encoder": FAMILIES["qwen3 as encoder"],
}


@dataclass(frozen=True, kw_only=True)
class Prepared:
    store: QuantizedModel
    artifact: Artifact
    module: nn.Module

    @property
    def path(self) -> Path:
        return self.artifact.directory / self.artifact.entry


def stored(source: Path, directory: Path, scheme: Scheme, task: Task) -> QuantizedModel:
    recipe = Recipe(rules=(Rule(tensors="*", scheme=scheme, method="rtn"),))
    model = load(source, task=task)
    return quantize(model, allocate(model, recipe, target()), directory)


def lowered(store: QuantizedModel, directory: Path, unit: ComputeUnit = "gpu") -> Artifact:
    directory.mkdir()
    profile = replace(target(), compute_unit=unit, context_length=CONTEXT)
    return lower(store, profile, "coreml", directory, SilentProgress())


def rounded(store: QuantizedModel, name: str) -> torch.Tensor:
    """A weight as Core ML has it, in float16. Gemma multiplies by 1 + w, which is one constant of the program: rounding
    all 13 of a model of two layers moves its logits by 8e-4, and nothing else of it does by more than 3e-4."""
    weight = torch.from_numpy(store.dequantized(name))
    if weight.dim() == 1 and store.info.model_type.startswith("gemma"):
        return (weight + 1).half().float() - 1
    return weight.half().float()


def prepare(source: Path, directory: Path, scheme: Scheme, task: Task = "text-generation") -> Prepared:
    """A lowered model, and torch's with the weights that it was to hold, rounded to float16 as Core ML does."""
    store = stored(source, directory / "store", scheme, task)
    model, _ = load_module(source, task, dtype="float32")
    with torch.no_grad():
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        for name in store.names():
            tensors[name].copy_(rounded(store, name))
    module = SentenceEmbedding(model, store.info.pooling, store.info.normalize) if task != "text-generation" else model
    return Prepared(store=store, artifact=lowered(store, directory / "artifact"), module=module.eval())


@pytest.fixture(scope="module")
def boundary(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    directory = tmp_path_factory.mktemp("boundary")
    return prepare(tiny_llama(directory / "source", context=CONTEXT), directory, BLOCKS)


def relative_error(found: Floats, expected: Floats) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def some_ids(length: int, seed: int = 0) -> list[int]:
    return [int(id) for id in np.random.default_rng(seed).integers(5, VOCABULARY, length)]


def torch_logits(module: nn.Module, ids: list[int]) -> Floats:
    with torch.no_grad():
        logits: Floats = module(input_ids=torch.tensor([ids])).logits[0].numpy()
    return logits


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_a_language_model_equals_torch_in_chunks_and_in_steps(name: str, tmp_path: Path) -> None:
    model = prepare(save_random(FAMILIES[name], tmp_path / "source"), tmp_path, LANGUAGE_MODELS[name])
    weights = {key: to_plain(entry) for key, entry in model.artifact.weights.items()}
    assert artifact_digest(model.path, weights) == model.store.weights_digest
    ids = some_ids(40)
    expected = torch_logits(model.module, ids)
    runtime = TextGenerator(model.path, model.artifact.interface)
    assert relative_error(runtime.forward(ids, keep=1)[-1], expected[-1]) <= TOLERANCE
    runtime.reset()
    found = runtime.forward(ids[:20], keep=3)
    for row, logits in zip(found, expected[17:20], strict=True):
        assert relative_error(row, logits) <= TOLERANCE
    for position in range(20, 30):
        assert relative_error(runtime.forward([ids[position]])[-1], expected[position]) <= TOLERANCE


def test_a_long_prompt_goes_in_several_chunks_and_the_rest_in_steps(tmp_path: Path) -> None:
    """The second chunk starts at 64 and is padded to the context's end; 100 of its 128 positions count."""
    model = prepare(tiny_llama(tmp_path / "source", context=CONTEXT), tmp_path, BLOCKS)
    ids = some_ids(CONTEXT - 1)
    expected = torch_logits(model.module, ids)
    runtime = TextGenerator(model.path, model.artifact.interface)
    assert relative_error(runtime.forward(ids[:100])[-1], expected[99]) <= TOLERANCE
    assert relative_error(runtime.forward(ids[100:])[-1], expected[-1]) <= TOLERANCE


@pytest.mark.parametrize("length", [CHUNK - 4, CHUNK, CHUNK + 1, CHUNK + 10])
def test_generation_across_a_chunk_s_end_chooses_torch_s_tokens(boundary: Prepared, length: int) -> None:
    """From a prompt that ends before, at and behind the end of the first chunk, padding included, to some way behind
    it; and with a second text in the same states."""
    runtime = TextGenerator(boundary.path, boundary.artifact.interface)
    for seed in (0, 1):
        ids = some_ids(length, seed)
        runtime.reset()
        logits = runtime.forward(ids)[-1]
        for _ in range(8):
            expected = torch_logits(boundary.module, ids)[-1]
            assert relative_error(logits, expected) <= TOLERANCE
            token = int(logits.argmax())
            assert token == int(expected.argmax())
            ids.append(token)
            logits = runtime.forward([token])[-1]


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_equals_torch_at_every_length(name: str, tmp_path: Path) -> None:
    model = prepare(save_random(ENCODERS[name], tmp_path / "source"), tmp_path, BLOCKS, "feature-extraction")
    runtime = Encoder(model.path, model.artifact.interface)
    for length in (1, 2, 7, 40):
        ids = torch.tensor([some_ids(length)])
        with torch.no_grad():
            expected = model.module(input_ids=ids, attention_mask=torch.ones_like(ids)).numpy()
        found = runtime.forward(ids.tolist())
        assert relative_error(found, expected) <= TOLERANCE


def test_the_approximation_of_gelu_is_the_model_s(tmp_path: Path) -> None:
    """The two differ by less than float16 leaves, so the saved program itself is asked."""
    for name, family, mode in (
        ("encoder", TANH_BERT, "TANH_APPROXIMATION"),
        ("exact", FAMILIES["bert"], "EXACT"),
        ("decoder", FAMILIES["gemma2"], "TANH_APPROXIMATION"),
    ):
        (tmp_path / name).mkdir()
        store = stored(save_random(family, tmp_path / name / "source"), tmp_path / name / "store", BLOCKS, family.task)
        artifact = lowered(store, tmp_path / name / "artifact")
        package = open_package(artifact.directory / artifact.entry)
        operations = [operation for function in package.inputs for operation in package.function(function).operations]
        modes = [str(operation.inputs["mode"].val) for operation in operations if operation.op_type == "gelu"]
        assert modes == [mode] * 2 * len(package.inputs)  # two layers


def test_two_lowerings_give_the_same_files(tmp_path: Path) -> None:
    store = stored(tiny_llama(tmp_path / "source"), tmp_path / "store", BLOCKS, "text-generation")
    first, second = (lowered(store, tmp_path / name) for name in "ab")
    for file in first.files:
        assert (first.directory / file).read_bytes() == (second.directory / file).read_bytes()


def test_blocks_are_refused_for_the_neural_engine(tmp_path: Path) -> None:
    store = stored(tiny_llama(tmp_path / "source"), tmp_path / "store", BLOCKS, "text-generation")
    with pytest.raises(UnsupportedModelError, match="Neural Engine"):
        lowered(store, tmp_path / "artifact", "neural_engine")


def test_attention_in_pieces_is_refused_by_name(tmp_path: Path) -> None:
    source = save_random(FAMILIES["bloom"], tmp_path / "source")
    store = stored(source, tmp_path / "store", BLOCKS, "text-generation")
    with pytest.raises(UnsupportedModelError, match=r"attention .* Core ML state"):
        lowered(store, tmp_path / "artifact")
