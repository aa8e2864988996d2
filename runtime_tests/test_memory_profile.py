"""The smallest memory of real bundles, and their memory by context length, on each backend of this machine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgeq.core.memory_profile import ContextMemory, ContextPoint
from edgeq.core.report import Verdict
from edgeq.errors import CorruptInputError
from edgeq.validation import validate_bundle
from edgeq.validation.gates import Criteria
from edgeq.validation.limits import backends
from edgeq.validation.memory_profile import FINEST_BYTES, MemoryMeasurement
from runtime_tests.tiny_onnx import CONTEXT, HEAD_SIZE, HEADS, KV_HEADS, make_bundle, relist

MEBIBYTE = 1 << 20
USABLE = [backend.name for backend in backends() if backend.usable]
CACHE_BYTES = 2 * 4 * KV_HEADS * HEAD_SIZE
"""A key and a value in float32."""
LONG = 2048
"""The model knows no positions: it takes any length."""
SCORES_BYTES = HEADS * LONG * LONG * 4
"""What attention holds of a prompt in one piece, with one score for each pair of tokens."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle"), bits=8)


@pytest.fixture(scope="module")
def long_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = make_bundle(tmp_path_factory.mktemp("long"), bits=8)
    path = directory / "edgeq.json"
    manifest = json.loads(path.read_text())
    manifest["interface"]["context_length"] = LONG
    path.write_text(json.dumps(manifest))
    return directory


def by_context(bundle: Path, limit: int, backend: str | None = None) -> ContextMemory:
    return MemoryMeasurement.of_bundle(bundle, backend=backend).by_context(
        target="edge", limit_bytes=limit, planned_length=4096, cache_bytes_per_token=CACHE_BYTES
    )


def add_constant(path: Path, size: int) -> None:
    """Add the mean of `size` bytes of zeros, held within the file, to what the encoder says."""
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.zeros(size // 4, dtype=np.float32), "constant"))
    last = next(node for node in graph.node if node.output[0] == "sentence_embedding")
    last.output[0] = "before"
    graph.node.append(helper.make_node("ReduceMean", ["constant"], ["mean"], keepdims=0))
    graph.node.append(helper.make_node("Add", ["before", "mean"], ["sentence_embedding"]))
    onnx.save(model, path)


def peak_of(point: ContextPoint) -> int:
    assert point.peak_dirty_bytes is not None
    return point.peak_dirty_bytes


@pytest.mark.parametrize("backend", USABLE)
def test_the_smallest_memory_is_what_the_bundle_holds(bundle: Path, backend: str) -> None:
    minimum = MemoryMeasurement.of_bundle(bundle, backend=backend).minimum()
    assert minimum.backend == backend
    assert minimum.failed_bytes < minimum.minimum_bytes
    assert minimum.minimum_bytes - minimum.failed_bytes <= max(FINEST_BYTES, 0.02 * minimum.minimum_bytes)
    assert minimum.minimum_bytes == pytest.approx(minimum.peak_dirty_bytes, rel=0.05)
    at_minimum = [trial for trial in minimum.trials if trial.limit_bytes == minimum.minimum_bytes]
    assert [trial.survived for trial in at_minimum] == [True] * 3
    assert list(minimum.phases) == ["load", "prefill", "decode"]
    assert max(minimum.phases.values()) <= minimum.peak_dirty_bytes


def test_the_judge_agrees_with_the_smallest_memory(bundle: Path) -> None:
    minimum = MemoryMeasurement.of_bundle(bundle).minimum().minimum_bytes

    def survives(limit: int) -> bool:
        criteria = Criteria(bits=8, parameters=10_000, accuracy_level=1, memory_limit_bytes=limit)
        (gate,) = (gate for gate in validate_bundle(bundle, criteria=criteria).gates if gate.name == "survived")
        return gate.verdict is Verdict.PASSED

    assert not survives(int(0.95 * minimum))
    assert survives(int(1.05 * minimum))


def test_the_smallest_memory_is_stable(bundle: Path) -> None:
    found = [MemoryMeasurement.of_bundle(bundle).minimum().minimum_bytes for _ in range(3)]
    assert max(found) <= 1.05 * min(found)


def test_an_encoder_is_measured_too(tmp_path: Path) -> None:
    measurement = MemoryMeasurement.of_bundle(make_bundle(tmp_path, task="feature-extraction"))
    assert list(measurement.minimum().phases) == ["load", "encode"]
    context = measurement.by_context(target="edge", limit_bytes=1 << 30, planned_length=4096, cache_bytes_per_token=0)
    assert [(point.tokens, point.cache_bytes) for point in context.points] == [(32, 0), (37, 0), (42, 0), (CONTEXT, 0)]
    assert list(context.points[0].phases) == ["load", "encode"]


def test_a_spike_while_loading_is_named_and_counts(tmp_path: Path) -> None:
    """The runtime folds a large constant into a number while it loads the model, and lets go of it."""
    bundle = make_bundle(tmp_path, task="feature-extraction")
    add_constant(bundle / "model" / "model.onnx", 48 * MEBIBYTE)
    relist(bundle)
    minimum = MemoryMeasurement.of_bundle(bundle).minimum()
    assert minimum.peak_phase == "load"
    assert minimum.phases["load"] > minimum.phases["encode"] + 48 * MEBIBYTE
    assert minimum.minimum_bytes > 0.95 * minimum.phases["load"]


@pytest.mark.parametrize("backend", USABLE)
def test_memory_by_context_length_is_split_into_its_parts(long_bundle: Path, backend: str) -> None:
    context = by_context(long_bundle, 1 << 30, backend)
    assert (context.backend, context.fits_tokens, context.bound) == (backend, LONG, "model")
    assert [point.tokens for point in context.points] == [32, 128, 512, LONG]
    for point in context.points:
        parts = (point.runtime_bytes, point.weights_bytes, point.cache_bytes, point.scratch_bytes)
        assert sum(part or 0 for part in parts) == point.peak_dirty_bytes
        assert point.cache_bytes == CACHE_BYTES * point.tokens
    first, last = context.points[0], context.points[-1]
    assert (last.scratch_bytes or 0) > SCORES_BYTES
    assert (first.scratch_bytes or 0) < 4 * MEBIBYTE
    assert abs((last.weights_bytes or 0) - (first.weights_bytes or 0)) < MEBIBYTE
    assert last.peak_phase == "prefill"
    assert context.growth_bytes_per_token is not None
    assert context.growth_bytes_per_token > SCORES_BYTES / LONG


def test_a_limit_ends_the_context_where_memory_does(long_bundle: Path) -> None:
    whole = by_context(long_bundle, 1 << 30)
    limit = (peak_of(whole.points[-1]) + peak_of(whole.points[-2])) // 2
    context = by_context(long_bundle, limit)
    assert context.bound == "memory"
    assert 512 < context.fits_tokens < LONG
    by_tokens = {point.tokens: point for point in context.points}
    assert peak_of(by_tokens[context.fits_tokens]) <= limit
    first_too_long = min(point.tokens for point in context.points if not point.survived)
    assert first_too_long - context.fits_tokens <= 0.02 * context.fits_tokens + 1
    assert by_tokens[first_too_long].reason.startswith("killed at the limit")
    assert by_tokens[first_too_long].peak_dirty_bytes is None


def test_a_limit_below_the_model_leaves_no_context(bundle: Path) -> None:
    context = by_context(bundle, 8 * MEBIBYTE)
    assert (context.fits_tokens, context.bound, context.growth_bytes_per_token) == (0, "memory", None)
    assert not any(point.survived for point in context.points)


def test_a_context_shorter_than_the_first_length_is_measured_whole(bundle: Path) -> None:
    context = by_context(bundle, 1 << 30)
    assert [point.tokens for point in context.points][-1] == CONTEXT
    assert context.fits_tokens == CONTEXT


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    model = bundle / "model" / "model.onnx"
    model.write_bytes(model.read_bytes()[:-20])
    with pytest.raises(CorruptInputError, match=r"model\.onnx has"):
        MemoryMeasurement.of_bundle(bundle)


def test_a_bundle_that_never_runs_has_no_memory(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    (bundle / "model" / "model.onnx").write_bytes(b"no model")
    relist(bundle)
    measurement = MemoryMeasurement.of_bundle(bundle)
    with pytest.raises(CorruptInputError, match="does not run even without a limit: ONNX Runtime refuses"):
        measurement.minimum()
    with pytest.raises(CorruptInputError, match="does not run with 32 tokens: ONNX Runtime refuses"):
        measurement.by_context(target="edge", limit_bytes=1 << 30, planned_length=4096, cache_bytes_per_token=1)
