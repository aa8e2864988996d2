"""Convolutions: small in the file, float in the runtime, read back by the digest, and missed where they are damaged."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from transformers import AutoModelForImageClassification

from edgeq.api import export
from edgeq.bundle.manifest import MANIFEST, file_entry, manifest_bytes, read_manifest
from edgeq.core.images import picture
from edgeq.core.report import Report, Verdict
from edgeq.errors import UsageError
from edgeq.pipeline import validate
from edgeq.runtimes.onnxruntime import ImageModel
from edgeq.runtimes.opening import open_bundle
from edgeq.validation.onnx_weights import artifact_digest
from tests.tiny_tasks import tiny_mobilenet


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    folder = tmp_path_factory.mktemp("mobilenet")
    report = export(tiny_mobilenet(folder / "model"), target="android", output=folder / "bundle")
    return folder / "bundle", report


def gates(report: Report) -> dict[str, str]:
    return {gate.name: gate.verdict.value for gate in report.gates}


def test_a_convolutional_net_is_small_in_the_file_and_float_in_the_runtime(mobilenet: tuple[Path, Report]) -> None:
    bundle, report = mobilenet
    assert report.verdict is Verdict.PASSED, report.reason
    assert gates(report)["weights_digest"] == "passed"
    manifest = read_manifest(bundle)
    unpacked = {name: one for name, one in manifest.weights.items() if one.is_unpacked}
    assert len(unpacked) > 20
    assert any("unpacked to float32 once" in note for note in report.notes)
    # what ONNX Runtime makes of the graph before it first runs: every convolution reads stored filters
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(bundle.parent / "optimized.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(bundle / manifest.model, options, providers=["CPUExecutionProvider"])
    graph = onnx.load(bundle.parent / "optimized.onnx", load_external_data=False).graph
    stored = {tensor.name for tensor in graph.initializer}
    convolutions = [node for node in graph.node if "Conv" in node.op_type]
    assert len(convolutions) >= len(unpacked)
    assert all(node.input[1] in stored for node in convolutions)


def test_any_image_gets_what_torch_says_of_it(mobilenet: tuple[Path, Report]) -> None:
    bundle, _ = mobilenet
    model = open_bundle(bundle)
    assert isinstance(model, ImageModel)
    pixels = np.stack([picture(number, model.image) for number in (100, 101)])
    source = bundle.parent / "model"
    reference = AutoModelForImageClassification.from_pretrained(source).eval()
    with torch.no_grad():
        expected = reference(pixel_values=torch.from_numpy(model.image.normalized(pixels))).logits.numpy()
    found = model.see(pixels)
    assert found.shape == expected.shape == (2, 10)
    assert np.linalg.norm(found - expected) < 0.25 * np.linalg.norm(expected)  # 4-bit linears, 8-bit filters
    assert len(model.interface.labels) == 10
    with pytest.raises(UsageError, match="takes uint8 images"):
        model.see(pixels[:, :16])
    with pytest.raises(UsageError, match="takes uint8 images"):
        model.see(pixels.astype(np.float32))


@pytest.mark.parametrize("is_forged", [False, True])
def test_a_corrupted_filter_fails(mobilenet: tuple[Path, Report], tmp_path: Path, is_forged: bool) -> None:
    """By its digest; and by what it answers, where the manifest claims the weights that are there."""
    bundle = Path(shutil.copytree(mobilenet[0], tmp_path / "bundle"))
    manifest = read_manifest(bundle)
    name = max(manifest.weights, key=lambda one: manifest.weights[one].unpacked_bytes)
    model = bundle / manifest.model
    graph = onnx.load(model, load_external_data=False)
    tensor = next(one for one in graph.graph.initializer if one.name == manifest.weights[name].codes)
    where = {entry.key: entry.value for entry in tensor.external_data}
    with (model.parent / where["location"]).open("r+b") as stream:
        stream.seek(int(where["offset"]))
        codes = np.frombuffer(stream.read(int(where["length"])), np.uint8)
        stream.seek(int(where["offset"]))
        stream.write(codes[::-1].tobytes())
    files = tuple(file_entry(bundle, entry.path) for entry in manifest.files)
    manifest = replace(manifest, files=files)
    if is_forged:
        plain = json.loads(manifest_bytes(manifest))
        manifest = replace(manifest, weights_digest=artifact_digest(model, plain["weights"]))
    (bundle / MANIFEST).write_bytes(manifest_bytes(manifest))
    failed = {gate.name for gate in validate(bundle).gates if gate.verdict is Verdict.FAILED}
    assert "lowering_relative_error" in failed
    assert ("weights_digest" in failed) == (not is_forged)
