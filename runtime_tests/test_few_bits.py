"""2 and 3 bits in each runtime: natively or in 4-bit codes, as the notes say, they compute what torch does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from edgeq.core.artifact import Artifact
from edgeq.core.recipe import Recipe
from edgeq.core.records import to_plain
from edgeq.core.target import Format
from edgeq.lowering import lower
from edgeq.models.architecture import build_module
from edgeq.models.pooling import SentenceEmbedding
from edgeq.models.source import load
from edgeq.progress import SilentProgress
from edgeq.quantization import allocate, quantize
from edgeq.runtimes.generation import Opening
from edgeq.runtimes.opening import runtime_of
from edgeq.store import QuantizedModel
from edgeq.targets.profiles import load_profile
from edgeq.validation.weights import artifact_digest
from runtime_tests.families import VOCABULARY
from tests.tiny_models import tiny_bert

Floats = npt.NDArray[np.float32]
TARGETS: dict[Format, str] = {"onnx": "edge", "executorch": "android", "coreml": "ios"}
TOLERANCES: dict[Format, float] = {"onnx": 0.05, "executorch": 0.05, "coreml": 2e-3}
"""Relative: int8 activations cost a few per cent of a model of two layers, float16 next to nothing."""
IDS = [[int(token) for token in np.random.default_rng(0).integers(5, VOCABULARY, 13)]]
TABLE = "embeddings.word_embeddings.weight"
LINEAR = "encoder.layer.1.output.dense.weight"
# (format, bits) -> bits that a code takes: of linears, of tables.
STORED = {
    ("onnx", 2): (2, 2),
    ("onnx", 3): (4, 4),
    ("executorch", 2): (4, 2),
    ("executorch", 3): (4, 4),
    ("coreml", 2): (4, 4),
    ("coreml", 3): (4, 4),
}


def lowered(directory: Path, format: Format, recipe: Recipe, level: int = 4) -> tuple[QuantizedModel, Artifact]:
    """The encoder with all weights as the recipe says; inputs of 172 leave a short last group."""
    model = load(tiny_bert(directory / "source"), task="feature-extraction")
    target = replace(load_profile(TARGETS[format]), accuracy_level=level)
    store = quantize(model, allocate(model, recipe, target, (format,)), directory / "store")
    (directory / "artifact").mkdir()
    return store, lower(store, target, format, directory / "artifact", SilentProgress())


def relative_error(store: QuantizedModel, artifact: Artifact) -> float:
    """Of the artifact in its runtime, against torch with the weights that it was to hold."""
    model = build_module(store.source_directory, "feature-extraction", device="cpu")
    names = [*store.names(), *store.info.tied]
    model.load_state_dict({name: torch.from_numpy(np.array(store.dequantized(name))) for name in names}, strict=False)
    model.train(mode=False)
    ids = torch.tensor(IDS)
    with torch.no_grad():
        expected = SentenceEmbedding(model, "mean", True)(input_ids=ids, attention_mask=torch.ones_like(ids))
    path = artifact.directory / artifact.entry
    found = runtime_of(artifact.format).open_encoder(path, artifact.interface, Opening(threads=1)).forward(IDS)
    return float(np.linalg.norm(found - expected.numpy()) / np.linalg.norm(expected.numpy()))


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("format", "bits"), STORED)
def test_a_model_of_few_bits_equals_torch(format: Format, bits: int, symmetric: bool, tmp_path: Path) -> None:
    recipe = Recipe(bits=bits, embedding_bits=bits, symmetric=symmetric)
    store, artifact = lowered(tmp_path, format, recipe)
    assert relative_error(store, artifact) < TOLERANCES[format]
    path = artifact.directory / artifact.entry
    assert artifact_digest(format, path, to_plain(artifact.weights)) == store.weights_digest
    linear, table = STORED[format, bits]
    assert artifact.weights[LINEAR].stored_bits == linear
    assert artifact.weights[TABLE].stored_bits == table
    said = [note for note in artifact.notes if f"of {bits} bits are stored in 4 bits a code" in note]
    assert len(said) == (linear != bits or table != bits)


def test_float32_activations_take_two_bits_in_four(tmp_path: Path) -> None:
    store, artifact = lowered(tmp_path, "onnx", Recipe(bits=2), level=1)
    assert artifact.weights[LINEAR].container_bits == 4
    assert relative_error(store, artifact) < 1e-4


@pytest.mark.parametrize("bits", [2, 3, 6])
def test_palettes_of_few_bits_are_stored_in_them(bits: int, tmp_path: Path) -> None:
    store, artifact = lowered(tmp_path, "coreml", Recipe(bits=bits, method="kmeans"))
    assert artifact.weights[LINEAR].container_bits is None
    assert relative_error(store, artifact) < TOLERANCES["coreml"]
    assert artifact_digest("coreml", artifact.directory / artifact.entry, to_plain(artifact.weights)) == (
        store.weights_digest
    )
