"""Classifiers of texts and models of images through the whole pipeline, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeq.api import export
from edgeq.bundle.manifest import read_manifest
from edgeq.core.images import picture
from edgeq.core.report import ClassDrift, EmbeddingDrift, Verdict
from edgeq.errors import UnsupportedModelError, UsageError
from edgeq.models.source import load
from edgeq.runtimes.generation import Encoder
from edgeq.runtimes.onnxruntime import open_session
from edgeq.runtimes.opening import open_bundle
from edgeq.runtimes.pictures import PictureGraph
from tests.tiny_tasks import tiny_bert_classifier, tiny_convnext, tiny_vit


def check(bundle: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", str(bundle / "run.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd="/")


def test_a_text_classifier_runs_from_its_bundle_alone(tmp_path: Path) -> None:
    report = export(tiny_bert_classifier(tmp_path / "model"), target="edge", method="mse", output=tmp_path / "bundle")
    assert report.verdict is Verdict.PASSED, report.reason
    assert report.model.task == "text-classification"
    assert report.drift is not None
    assert isinstance(report.drift.total, ClassDrift)
    assert report.drift.total.answers == 64
    assert 0 < report.drift.quantization.distance < 0.08
    result = check(tmp_path / "bundle", "--check")
    assert (result.returncode, result.stdout) == (0, "all is well\n"), result.stderr
    said = check(tmp_path / "bundle", "The boat left the harbour.")
    assert "class 1" in said.stdout, said.stderr
    model = open_bundle(tmp_path / "bundle")
    assert isinstance(model, Encoder)
    assert model.encode(["A boat.", "Seven plus five is twelve."]).shape == (2, 3)


def test_a_vision_transformer_embeds_images(tmp_path: Path) -> None:
    report = export(tiny_vit(tmp_path / "model", head=False), target="edge", output=tmp_path / "bundle")
    assert report.verdict is Verdict.PASSED, report.reason
    assert report.model.task == "image-feature-extraction"
    assert report.drift is not None
    assert isinstance(report.drift.total, EmbeddingDrift)
    assert report.drift.total.cosine_mean < 0.9999  # 4 bits are heard
    result = check(tmp_path / "bundle", "--check")
    assert (result.returncode, result.stdout) == (0, "all is well\n"), result.stderr
    image = read_manifest(tmp_path / "bundle").interface.image
    assert image is not None
    assert "picture_graph" in {gate.name for gate in report.gates}
    paths = [tmp_path / f"{number}.png" for number in range(2)]
    larger = [picture(number, replace(image, height=70, width=90)) for number in range(2)]
    for pixels, path in zip(larger, paths, strict=True):
        Image.fromarray(pixels).save(path)
    said = check(tmp_path / "bundle", *map(str, paths))
    session = open_session(next((tmp_path / "bundle").rglob("model.onnx")))
    graph = PictureGraph(next((tmp_path / "bundle").rglob("preprocess.onnx")))
    values = np.concatenate([graph.values(pixels) for pixels in larger])
    vectors = session.run(["image_embedding"], {"pixel_values": values})[0]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = [list(map(float, line.split()[:2])) for line in said.stdout.splitlines()]
    np.testing.assert_allclose(found, vectors @ vectors.T, atol=1e-3, err_msg=said.stderr)


def test_other_formats_are_refused_before_any_work(tmp_path: Path) -> None:
    directory = tiny_convnext(tmp_path / "model")
    with pytest.raises(UnsupportedModelError, match="does not lower models for image-classification to") as caught:
        export(directory, target="browser", output=tmp_path / "bundle")
    assert "--format onnx" in caught.value.remedy
    assert not (tmp_path / "bundle").exists()


def test_bits_are_not_chosen_for_what_cannot_be_weighed(tmp_path: Path) -> None:
    directory = tiny_convnext(tmp_path / "model")
    with pytest.raises(UsageError, match="does not choose bits for image-classification"):
        export(directory, bits="auto", max_size=10**6, output=tmp_path / "bundle")
    with pytest.raises(UsageError, match="does not calibrate models of images"):
        export(directory, method="distill", output=tmp_path / "bundle")
    assert load(directory).info.labels[0] == "LABEL_0"
