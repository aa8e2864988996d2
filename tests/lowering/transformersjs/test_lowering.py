"""Bundles of graphs for transformers.js: names, files, types, and what they say beside torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch

from edgeq.core.artifact import Artifact
from edgeq.core.digest import tensor_digest, weights_digest
from edgeq.core.recipe import Recipe
from edgeq.core.target import TargetProfile
from edgeq.lowering import lower
from edgeq.lowering.transformersjs.lowering import main_bits
from edgeq.models.architecture import load_module
from edgeq.models.source import load
from edgeq.progress import SilentProgress
from edgeq.quantization import allocate, quantize
from edgeq.store import QuantizedModel
from edgeq.targets.profiles import load_profile
from edgeq.validation.onnx_weights import OnnxWeights
from tests.lowering.converting import open_session
from tests.tiny_models import tiny_bert, tiny_llama, tiny_qwen2

Array = npt.NDArray[Any]
IDS = np.array([[5, 9, 3, 70, 41, 8, 22]])
PRECISE, HALF = 1e-5, 5e-3
"""Of the largest value."""


def browser(**changes: object) -> TargetProfile:
    """Activations stay float in a browser on the CPU; native kernels would round them."""
    return dataclasses.replace(load_profile("browser"), **{"accuracy_level": 1, **changes})  # type: ignore[arg-type]


def stored(source: Path, directory: Path, recipe: Recipe) -> QuantizedModel:
    model = load(source)
    return quantize(model, allocate(model, recipe, browser()), directory)


def lowered(store: QuantizedModel, directory: Path, **changes: object) -> Artifact:
    directory.mkdir()
    return lower(store, browser(**changes), "transformersjs", directory, SilentProgress())


def torch_with(store: QuantizedModel, source: Path) -> Any:  # noqa: ANN401 - a model of transformers
    module, _ = load_module(source, store.info.task, dtype="float32")
    tensors = dict(module.named_parameters())
    with torch.no_grad():
        for name in store.names():
            tensors[name].copy_(torch.from_numpy(store.dequantized(name)))
    return module


def logits_in_steps(path: Path) -> Array:
    """Five tokens, one more, and one more of which only the last logits are asked for."""
    session = open_session(path)
    past = {
        one.name: np.zeros((1, one.shape[1], 0, one.shape[3]), np.float16 if "16" in one.type else np.float32)
        for one in session.get_inputs()
        if one.name.startswith("past_key_values")
    }
    found = []
    for start, stop in ((0, 5), (5, 6), (6, 7)):
        feeds = {"input_ids": IDS[:, start:stop], "attention_mask": np.ones((1, stop), np.int64)}
        names = [one.name for one in session.get_outputs()]
        values = session.run(names, {**feeds, **past, "num_logits_to_keep": np.array(int(stop == 7))})
        outputs = dict(zip(names, values, strict=True))
        found.append(outputs.pop("logits"))
        past = {name.replace("present", "past_key_values"): value for name, value in outputs.items()}
    return np.concatenate(found, axis=1)


def distance(found: Array, wanted: Array) -> float:
    assert found.dtype == np.float32
    assert found.shape == wanted.shape
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize(
    ("bits", "names"),
    [
        (2, {"q2": "model_q2.onnx", "q2f16": "model_q2f16.onnx"}),
        (3, {"q4": "model_q4.onnx", "q4f16": "model_q4f16.onnx"}),
        (4, {"q4": "model_q4.onnx", "q4f16": "model_q4f16.onnx"}),
        (8, {"q8": "model_quantized.onnx"}),
        (16, {"fp16": "model_fp16.onnx"}),
    ],
)
def test_each_variant_has_the_name_that_transformers_js_looks_for(
    bits: int, names: dict[str, str], tmp_path: Path
) -> None:
    source = tiny_llama(tmp_path / "source")
    store = stored(source, tmp_path / "store", Recipe(bits=bits))
    artifact = lowered(store, tmp_path / "onnx")
    assert {one.dtype: one.entry for one in artifact.variants} == names
    assert artifact.entry == artifact.variants[0].entry
    assert set(artifact.files) == {path.name for path in (tmp_path / "onnx").iterdir()}
    assert set(artifact.files) == {file for name in names.values() for file in (name, f"{name}_data")}
    expected = torch_with(store, source)(torch.from_numpy(IDS)).logits.detach().numpy()
    for variant in artifact.variants:
        limit = PRECISE if variant.float_dtype == "float32" else HALF
        assert distance(logits_in_steps(tmp_path / "onnx" / variant.entry), expected) < limit


@pytest.mark.parametrize(("bits", "levels"), [(2, {4}), (4, {1, 4}), (8, {1})])
def test_only_two_bits_and_float16_have_integer_products(bits: int, levels: set[int], tmp_path: Path) -> None:
    store = stored(tiny_llama(tmp_path / "source"), tmp_path / "store", Recipe(bits=bits))
    artifact = lowered(store, tmp_path / "onnx", accuracy_level=4)
    found = {
        (variant.float_dtype, attribute.i)
        for variant in artifact.variants
        for node in onnx.load(tmp_path / "onnx" / variant.entry, load_external_data=False).graph.node
        for attribute in node.attribute
        if attribute.name == "accuracy_level" and node.op_type == "MatMulNBits"
    }
    assert {level for _, level in found} == levels
    assert ("float16", 1) not in found


@pytest.mark.parametrize("make", [tiny_llama, tiny_qwen2])
def test_both_variants_hold_the_weights_of_the_store(make: Callable[[Path], Path], tmp_path: Path) -> None:
    store = stored(make(tmp_path / "source"), tmp_path / "store", Recipe(bits=4))
    artifact = lowered(store, tmp_path / "onnx")
    for variant in artifact.variants:
        weights = OnnxWeights(tmp_path / "onnx" / variant.entry)
        found = ((name, tensor_digest(name, weights.tensor(place))) for name, place in artifact.weights.items())
        assert weights_digest(found) == artifact.weights_digest


def test_axes_and_the_cache_are_what_transformers_js_resolves(tmp_path: Path) -> None:
    store = stored(tiny_llama(tmp_path / "source"), tmp_path / "store", Recipe(bits=4))
    artifact = lowered(store, tmp_path / "onnx")
    heads, size = artifact.interface.cache[0]
    for variant in artifact.variants:
        session = open_session(tmp_path / "onnx" / variant.entry)
        inputs = {one.name: (one.shape, one.type) for one in session.get_inputs()}
        assert inputs["input_ids"] == (["batch_size", "sequence_length"], "tensor(int64)")
        assert inputs["attention_mask"] == (["batch_size", "total_sequence_length"], "tensor(int64)")
        assert inputs["num_logits_to_keep"] == ([], "tensor(int64)")
        kind = "tensor(float)" if variant.float_dtype == "float32" else "tensor(float16)"
        assert inputs["past_key_values.1.value"] == (["batch_size", heads, "past_sequence_length", size], kind)
        outputs = {one.name: one.type for one in session.get_outputs()}
        assert (outputs["logits"], outputs["present.0.key"]) == ("tensor(float)", kind)
        assert tuple(inputs) == artifact.interface.inputs
        assert tuple(outputs) == artifact.interface.outputs


def test_a_float16_graph_stores_no_float32_but_constants(tmp_path: Path) -> None:
    store = stored(tiny_qwen2(tmp_path / "source"), tmp_path / "store", Recipe(bits=4))
    lowered(store, tmp_path / "onnx")
    for file, weights in (("model_q4.onnx", onnx.TensorProto.FLOAT), ("model_q4f16.onnx", onnx.TensorProto.FLOAT16)):
        graph = onnx.load(tmp_path / "onnx" / file, load_external_data=False).graph
        stored_types = {one.name: one.data_type for one in graph.initializer if one.external_data}
        assert set(stored_types.values()) == {weights, onnx.TensorProto.UINT8}
        assert stored_types["model.norm.weight"] == weights


def test_a_small_file_limit_makes_many_files_and_the_same_model(tmp_path: Path) -> None:
    source = tiny_llama(tmp_path / "source", hidden=256, intermediate=1024)
    store = stored(source, tmp_path / "store", Recipe(bits=8))
    artifact = lowered(store, tmp_path / "onnx", file_limit_mib=1)
    data = [file for file in artifact.files if "_data" in file]
    assert data == [f"model_quantized.onnx_data{f'_{index}' if index else ''}" for index in range(len(data))]
    assert len(data) > 2
    assert all((tmp_path / "onnx" / file).stat().st_size <= 1 << 20 for file in data)
    expected = torch_with(store, source)(torch.from_numpy(IDS)).logits.detach().numpy()
    assert distance(logits_in_steps(tmp_path / "onnx" / artifact.entry), expected) < PRECISE


@pytest.mark.parametrize("pooling", ["mean", "cls", "none"])
def test_an_encoder_gives_the_token_vectors_too(pooling: Any, tmp_path: Path) -> None:  # noqa: ANN401
    source = tiny_bert(tmp_path / "source", pooling=pooling)
    store = stored(source, tmp_path / "store", Recipe(bits=4))
    artifact = lowered(store, tmp_path / "onnx")
    outputs = ("last_hidden_state",) if pooling == "none" else ("sentence_embedding", "last_hidden_state")
    assert artifact.interface.outputs == outputs
    mask = np.array([[1, 1, 1, 1, 1, 0, 0]])
    feeds = {"input_ids": IDS, "attention_mask": mask, "token_type_ids": np.zeros_like(IDS)}
    with torch.no_grad():
        hidden = torch_with(store, source)(
            **{name: torch.from_numpy(values) for name, values in feeds.items()}
        ).last_hidden_state.numpy()
    sentence = hidden[:, 0] if pooling == "cls" else hidden[:, :5].mean(1)
    sentence = sentence / np.linalg.norm(sentence)
    for variant in artifact.variants:
        found = open_session(tmp_path / "onnx" / variant.entry).run(list(outputs), feeds)
        limit = PRECISE if variant.float_dtype == "float32" else HALF
        assert distance(found[-1][:, :5], hidden[:, :5]) < limit
        if pooling != "none":
            assert distance(found[0], sentence) < limit


def test_what_webgpu_leaves_to_the_cpu_is_noted_where_the_profile_has_webgpu(tmp_path: Path) -> None:
    store = stored(tiny_llama(tmp_path / "source"), tmp_path / "store", Recipe(bits=4))
    note = "WebGPU has no kernel for 2 Cast, 1 Equal, 1 Max, 1 Range, 1 ReduceSum, 2 Shape, 2 Squeeze, 2 Sub, 1 Where"
    assert lowered(store, tmp_path / "both").notes == (f"{note}: they run on the CPU",)
    assert lowered(store, tmp_path / "wasm", execution_providers=("wasm",)).notes == ()


def test_the_name_is_that_of_most_weights(tmp_path: Path) -> None:
    source = tiny_llama(tmp_path / "source")
    assert main_bits(stored(source, tmp_path / "mixed", Recipe(bits=2, embedding_bits=8))) == 2
    assert main_bits(stored(source, tmp_path / "float", Recipe(bits=16))) == 16
