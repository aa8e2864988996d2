"""Graphs for browsers in onnxruntime-web: on both providers they equal torch, and what falls back is what was said."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeq.core.artifact import Artifact
from edgeq.core.target import ExecutionProvider
from edgeq.lowering import lower
from edgeq.models.pooling import SentenceEmbedding
from edgeq.progress import SilentProgress
from edgeq.runtimes import browser
from edgeq.runtimes.generation import Opening
from edgeq.targets.profiles import load_profile
from runtime_tests.browser_page import require_browser
from runtime_tests.families import FAMILIES, VOCABULARY, Array, quantized, reference_module

SAMPLES = ("llama", "llama 8 bits", "gemma2", "gpt_neox", "bert", "modernbert")
PRECISE, HALF = 1e-5, 5e-3
"""Of the largest value. Neither provider rounds activations to int8 here: the software adapter has no such products."""
IDS = np.random.default_rng(0).integers(5, VOCABULARY, (2, 9))


@pytest.fixture(scope="module", params=SAMPLES)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.nn.Module, Artifact]:
    """Torch with a store's weights, and the store for browsers, laid out as in a bundle."""
    require_browser()
    directory, family = tmp_path_factory.mktemp("family"), FAMILIES[request.param]
    target = dataclasses.replace(load_profile("browser"), context_length=64)
    store = quantized(family, directory, target)
    (directory / "onnx").mkdir()
    artifact = lower(store, target, "transformersjs", directory / "onnx", SilentProgress())
    counts = {
        one.entry: sum(file.startswith(f"{one.entry}_data") for file in artifact.files) for one in artifact.variants
    }
    config = {"transformers.js_config": {"use_external_data_format": counts}}
    (directory / "config.json").write_text(json.dumps(config))
    return reference_module(family, store, directory), artifact


def answer(path: Path, artifact: Artifact, provider: ExecutionProvider) -> tuple[Array, dict[str, str]]:
    opening = Opening(execution_provider=provider, threads=1)
    if artifact.interface.task == "feature-extraction":
        encoder = browser.open_encoder(path, artifact.interface, opening)
        try:
            return encoder.forward([IDS[0].tolist(), IDS[1, :6].tolist()]), encoder.facts()
        finally:
            encoder.close()
    generator = browser.open_generator(path, artifact.interface, opening)
    try:
        ids = IDS[0].tolist()
        pieces = [generator.prefill(ids[:5], keep=0), *(generator.step(token)[None] for token in ids[5:])]
        return np.concatenate(pieces), generator.facts()
    finally:
        generator.close()


def distance(found: Array, module: torch.nn.Module) -> float:
    with torch.no_grad():
        if isinstance(module, SentenceEmbedding):
            mask = np.array([[1] * 9, [1] * 6 + [0] * 3])
            wanted = module(torch.from_numpy(IDS * mask), torch.from_numpy(mask)).numpy()
        else:
            wanted = module(torch.from_numpy(IDS[:1])).logits[0].numpy()
    assert found.shape == wanted.shape
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def test_every_variant_equals_torch_in_webassembly(both: tuple[torch.nn.Module, Artifact]) -> None:
    module, artifact = both
    for variant in artifact.variants:
        found, _ = answer(artifact.directory / variant.entry, artifact, "wasm")
        assert distance(found, module) < (PRECISE if variant.float_dtype == "float32" else HALF)


def test_webgpu_equals_torch_and_falls_back_where_it_was_said(both: tuple[torch.nn.Module, Artifact]) -> None:
    module, artifact = both
    found, facts = answer(artifact.directory / artifact.entry, artifact, "webgpu")
    assert distance(found, module) < PRECISE
    (note,) = (note for note in artifact.notes if note.startswith("WebGPU has no kernel for"))
    predicted = Counter({name: int(count) for count, name in re.findall(r"(\d+) (\w+)", note)})
    happened = Counter({name: int(n) for name, n in re.findall(r"(\w+) x(\d+)", facts["fallback_nodes"])})
    assert happened <= predicted  # what the runtime folds into constants is nowhere
