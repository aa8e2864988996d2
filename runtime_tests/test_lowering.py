"""Lowered models of many architectures in the raw runtime: however called, they equal torch with the same weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeq.lowering.onnx.external_data import ALIGNMENT, DATA_FILE
from edgeq.lowering.onnx.model import OPSET, PLAIN_NOTE
from runtime_tests.families import (
    ENCODERS,
    FAMILIES,
    LANGUAGE_MODELS,
    VOCABULARY,
    Array,
    Family,
    Lowered,
    lowered_into,
    prepare,
    quantized,
)

TOLERANCE = 1e-4
"""Of the largest logit: float32 kernels that add in another order stay two orders of magnitude below this, a wrong
weight, mask or position two above."""
LENGTH = 13
READERS = {"MatMulNBits", "GatherBlockQuantized"}


@pytest.fixture(scope="module")
def lowered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Lowered:
    family: Family = FAMILIES[request.param]
    return prepare(family, tmp_path_factory.mktemp("family"))


every_family = pytest.mark.parametrize("lowered", FAMILIES, indirect=True)
every_language_model = pytest.mark.parametrize("lowered", LANGUAGE_MODELS, indirect=True)
every_encoder = pytest.mark.parametrize("lowered", ENCODERS, indirect=True)


def some_ids(rows: int = 2, length: int = LENGTH) -> Array:
    return np.random.default_rng(0).integers(5, VOCABULARY, (rows, length))


def assert_close(found: Array, expected: Array) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


def forward(
    model: Lowered, ids: Array, mask: Array, keep: int, cache: dict[str, Array]
) -> tuple[Array, dict[str, Array]]:
    logits, *present = model.run(input_ids=ids, attention_mask=mask, num_logits_to_keep=np.array(keep), **cache)
    return logits, dict(zip(cache, present, strict=True))


@every_language_model
def test_pieces_through_the_cache_equal_the_whole(lowered: Lowered) -> None:
    ids = some_ids(rows=1)
    cache, pieces = lowered.empty_cache(1), []
    for start, stop in ((0, 6), (6, 10), (10, 11), (11, 12), (12, LENGTH)):
        logits, cache = forward(lowered, ids[:, start:stop], np.ones((1, stop), np.int64), 0, cache)
        pieces.append(logits)
    assert_close(np.concatenate(pieces, axis=1), lowered.reference(input_ids=ids))


@every_language_model
def test_only_the_last_logits_are_computed_when_asked(lowered: Lowered) -> None:
    ids = some_ids()
    logits, _ = forward(lowered, ids, np.ones_like(ids), 1, lowered.empty_cache(2))
    assert_close(logits, lowered.reference(input_ids=ids)[:, -1:])


@every_language_model
def test_a_batch_padded_on_the_right_equals_single_sequences(lowered: Lowered) -> None:
    ids, short = some_ids(length=LENGTH + 1), 7
    mask = np.ones((2, LENGTH + 1), np.int64)
    mask[1, short:LENGTH] = 0
    first, cache = forward(lowered, ids[:, :LENGTH], mask[:, :LENGTH], 0, lowered.empty_cache(2))
    second, _ = forward(lowered, ids[:, LENGTH:], mask, 0, cache)
    alone = lowered.reference(input_ids=np.concatenate([ids[1:, :short], ids[1:, LENGTH:]], axis=1))
    assert_close(first[1:, :short], alone[:, :short])
    if not lowered.family.counts_padding:
        assert_close(second[1:], alone[:, short:])
    together = lowered.reference(input_ids=ids[:1])
    assert_close(np.concatenate([first, second], axis=1)[:1], together)


@every_encoder
def test_padded_sentences_equal_torch(lowered: Lowered) -> None:
    ids = some_ids()
    mask = np.ones_like(ids)
    mask[1, 6:] = 0
    feeds = {"input_ids": ids, "attention_mask": mask}
    if "token_type_ids" in lowered.artifact.interface.inputs:
        feeds["token_type_ids"] = np.tile(np.arange(LENGTH) > 3, (2, 1)).astype(np.int64)
    (found,) = lowered.run(**feeds)
    expected = lowered.reference(**feeds)
    if lowered.family.pooling == "none":
        found, expected = found * mask[..., None], expected * mask[..., None]
    assert_close(found, expected)
    alone = {name: values[1:, :6] for name, values in feeds.items()}
    if lowered.family.pooling != "none":
        assert_close(lowered.run(**alone)[0], found[1:])


@every_family
def test_quantized_weights_reach_only_the_kernels_that_expand_them_as_they_compute(lowered: Lowered) -> None:
    graph = lowered.graph()
    assert {node.op_type for node in graph.node}.isdisjoint({"DequantizeLinear", "QuantizeLinear"})
    assert set(lowered.artifact.weights) == {name for name in lowered.store.names() if lowered.store.is_quantized(name)}
    initializers = {initializer.name for initializer in graph.initializer}
    for location in lowered.artifact.weights.values():
        assert location.codes in initializers
        assert {node.op_type for node in graph.node if location.codes in node.input} <= READERS
    quantized = [node for node in graph.node if node.op_type in READERS]
    assert (lowered.family.recipe.bits == 16) == (not quantized)


@every_family
def test_the_graph_keeps_its_public_form(lowered: Lowered) -> None:
    model = onnx.load(lowered.model_file, load_external_data=False)
    assert {opset.domain: opset.version for opset in model.opset_import} == {"": OPSET, "com.microsoft": 1}
    axes = {given.name: given.shape for given in lowered.session.get_inputs()}
    interface = lowered.artifact.interface
    assert tuple(axes) == interface.inputs
    assert tuple(given.name for given in lowered.session.get_outputs()) == interface.outputs
    assert axes["input_ids"] == ["batch_size", "sequence_length"]
    notes = (PLAIN_NOTE,) if lowered.family.plain else ()
    assert lowered.artifact.notes == notes
    if lowered.family.task == "feature-extraction":
        assert axes["attention_mask"] == ["batch_size", "sequence_length"]
        assert interface.outputs == ("last_hidden_state" if lowered.family.pooling == "none" else "sentence_embedding",)
        return
    assert axes["attention_mask"] == ["batch_size", "total_sequence_length"]
    assert axes["num_logits_to_keep"] == []
    cache = [
        ["batch_size", heads, "past_sequence_length", size] for heads, size in interface.cache for _ in ("key", "value")
    ]
    assert [shape for name, shape in axes.items() if name.startswith("past_key_values.")] == cache
    assert interface.vocabulary == VOCABULARY


def places(directory: Path) -> dict[str, tuple[int, int]]:
    """Offset and length in the data file of every initializer that lies there."""
    graph = onnx.load(directory / "model.onnx", load_external_data=False).graph
    entries = {tensor.name: {e.key: e.value for e in tensor.external_data} for tensor in graph.initializer}
    return {name: (int(e["offset"]), int(e["length"])) for name, e in entries.items() if e}


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_and_table_are_the_same_bytes(tied: bool, tmp_path: Path) -> None:
    family = Family(model_type="llama", options={"tie_word_embeddings": tied})
    lowered_into(tmp_path / "artifact", quantized(family, tmp_path))
    found = places(tmp_path / "artifact")
    tables = [name for name in found if "embed_tokens" in name or "lm_head" in name]
    table = "model.embed_tokens.weight"
    parts = [f"{table}.codes.rows", f"{table}.scales", f"{table}.zero_points"]
    if tied:
        assert sorted(tables) == sorted([f"{table}.codes", *parts])
        assert found[f"{table}.codes"] == found[f"{table}.codes.rows"]
    else:
        head = [f"lm_head.weight.{part}" for part in ("codes", "scales", "zero_points")]
        assert sorted(tables) == sorted([*parts, *head])
    stored = sorted(set(found.values()))
    size = sum(-(-length // ALIGNMENT) * ALIGNMENT for _, length in stored[:-1]) + stored[-1][1]
    assert (tmp_path / "artifact" / DATA_FILE).stat().st_size == size


@pytest.mark.parametrize("name", ["llama", "bloom", "bert"])
def test_two_lowerings_give_the_same_bytes(name: str, tmp_path: Path) -> None:
    store = quantized(FAMILIES[name], tmp_path)
    first, second = (lowered_into(tmp_path / part, store) for part in ("first", "second"))
    assert first.files == second.files == ("model.onnx", DATA_FILE)
    assert first.weights == second.weights
    for file in first.files:
        assert (first.directory / file).read_bytes() == (second.directory / file).read_bytes()
