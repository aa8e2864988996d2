"""What `edgeq inspect` says about a model, a store and a bundle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeq import cli
from edgeq.core.model import ModelInfo
from edgeq.core.recipe import Plan, Recipe
from edgeq.errors import SourceNotFoundError
from edgeq.inspection import BundleInspection, ModelInspection, StoreInspection, inspect, planned_bytes
from edgeq.models import source
from edgeq.quantization import allocate, quantize
from edgeq.store import QuantizedModel
from edgeq.targets.profiles import load_profile
from tests.bundle.samples import sealed_bundle
from tests.reports.samples import DIGEST
from tests.tiny_models import tiny_llama


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def store(model: Path, tmp_path_factory: pytest.TempPathFactory) -> QuantizedModel:
    loaded = source.load(model)
    plan = allocate(loaded, Recipe(bits=4), load_profile("android"))
    return quantize(loaded, plan, tmp_path_factory.mktemp("store") / "store")


def test_a_model_is_told_by_its_roles_and_sizes(model: Path) -> None:
    found = inspect(model)
    assert isinstance(found, ModelInspection)
    assert found.architecture == "LlamaForCausalLM"
    assert found.tied == {"lm_head.weight": "model.embed_tokens.weight"}
    assert sum(role.parameters for role in found.roles.values()) == found.parameters
    assert sum(role.tensors for role in found.roles.values()) == found.tensors
    assert found.bytes_at_bits["4"] < found.bytes_at_bits["8"] < found.bytes_at_bits["16"]


def test_a_store_takes_what_its_plan_said(store: QuantizedModel) -> None:
    found = inspect(store.directory)
    assert isinstance(found, StoreInspection)
    assert found.weights_digest == store.weights_digest
    assert found.weights_bytes == planned_bytes(store.info, store.plan)
    assert found.bits_per_weight == pytest.approx(8 * found.weights_bytes / found.parameters)
    assert sum(found.schemes.values()) == len(store.names())


def test_what_the_plan_leaves_out_counts_as_float32(store: QuantizedModel) -> None:
    info: ModelInfo = store.info
    assert planned_bytes(info, Plan(assignments={})) == 4 * info.parameters


def test_a_bundle_is_told_by_its_manifest(tmp_path: Path) -> None:
    found = inspect(sealed_bundle(tmp_path / "work", tmp_path / "bundle"))
    assert isinstance(found, BundleInspection)
    assert found.weights_digest == DIGEST
    assert found.verdict == "passed"
    assert found.intact
    assert found.problem == ""


def test_a_changed_bundle_is_exit_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = sealed_bundle(tmp_path / "work", tmp_path / "bundle")
    (weights,) = bundle.rglob("model.onnx_data")
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    assert cli.run(["inspect", str(bundle), "--json"]) == 4
    found = json.loads(capsys.readouterr().out)
    assert not found["intact"]
    assert "model.onnx_data" in found["problem"]


def test_the_summary_shows_sizes_for_people(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["inspect", str(model)]) == 0
    assert "KiB" in capsys.readouterr().out


def test_a_path_that_is_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError):
        inspect(tmp_path / "nothing")
