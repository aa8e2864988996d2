"""What the surfaces of classifiers and of models of images hold: golden cases, Kotlin, `run.py`'s requirements."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from edgeq.bundle import android, edge
from edgeq.bundle.golden import CASES, Classes, PictureClasses, PictureEmbedding, build_golden
from edgeq.bundle.memory import RUNTIME_BYTES, model_bytes, required_bytes
from edgeq.core.artifact import Interface, WeightLocation, unpacking_notes
from edgeq.core.images import ImageInput, mosaic
from edgeq.core.model import Task
from edgeq.validation.golden import tokenizer_problem
from tests.bundle.samples import LOCATION, encoder_interface, staged_bundle
from tests.bundle.sources import check_source, texts_in

IMAGE = ImageInput(channels=3, height=32, width=48, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
FILTERS = dataclasses.replace(LOCATION, bits=8, group_size=None, shape=(64, 288), is_unpacked=True)


def interface(task: Task) -> Interface:
    pixels = task.startswith("image")
    return dataclasses.replace(
        encoder_interface(),
        task=task,
        inputs=("pixel_values",) if pixels else ("input_ids", "attention_mask"),
        outputs=("image_embedding",) if task == "image-feature-extraction" else ("logits",),
        pooling="none",
        image=IMAGE if pixels else None,
        labels=("cat", 'a "dog" for $5') if "classification" in task else (),
    )


def spell(ids: object) -> str:
    return repr(ids)


@pytest.mark.parametrize("by_token", [False, True])
def test_golden_classes_are_the_reference_s_logits(by_token: bool) -> None:
    rng = np.random.default_rng(0)
    sequences = [tuple(range(5 + index)) for index in range(8)]
    outputs = [rng.normal(size=(len(one), 3) if by_token else 3).astype(np.float32) for one in sequences]
    task: Task = "token-classification" if by_token else "text-classification"
    golden = build_golden(task, sequences, outputs, decode=spell, accuracy_level=4)
    assert [case.input_ids for case in golden.cases if isinstance(case, Classes)] == sequences[::2]
    for case, output in zip(golden.cases, outputs[::2], strict=True):
        assert isinstance(case, Classes)
        np.testing.assert_allclose(case.logits, output[0] if by_token else output, rtol=1e-5)
    size = np.sqrt(np.mean([np.mean(output.astype(float) ** 2) for output in outputs]))
    assert golden.tolerance == pytest.approx(0.3 * size, rel=1e-4)


def test_golden_images_are_mosaics_that_carry_their_squares() -> None:
    numbers = [(number,) for number in range(32)]
    outputs = [np.full(4, number, dtype=np.float32) for number in range(32)]
    vectors = build_golden("image-feature-extraction", numbers, outputs, decode=spell, accuracy_level=4, image=IMAGE)
    assert len(vectors.cases) == CASES
    for case, number in zip(vectors.cases, (3, 11, 19, 27), strict=True):
        assert isinstance(case, PictureEmbedding)
        assert bytes.fromhex(case.squares) == mosaic(number, 3).tobytes()
        assert case.embedding == (float(number),) * 4
    classes = build_golden("image-classification", numbers, outputs, decode=spell, accuracy_level=4, image=IMAGE)
    assert all(isinstance(case, PictureClasses) for case in classes.cases)


def test_a_tokenizer_has_no_say_about_images(tmp_path: Path) -> None:
    numbers, outputs = [(3,), (7,)], [np.zeros(4, np.float32)] * 2
    golden = build_golden("image-classification", numbers, outputs, decode=spell, accuracy_level=4, image=IMAGE)
    (tmp_path / "golden.json").write_text(golden.to_json())
    assert tokenizer_problem(tmp_path / "golden.json", None) == ""


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("text-classification", ("fun classify(ids: LongArray)", "fun labels()", "largestDifference", "math.abs")),
        ("token-classification", ("of each token in turn", "fun labels()", '"logits"')),
        ("image-classification", ("fun classify(argb: IntArray)", "HEIGHT = 32", "WIDTH = 48", "fun labels()")),
        ("image-feature-extraction", ("fun encode(argb: IntArray)", "floatArrayOf(0.2f, 0.25f, 0.3f)", "cosine")),
    ],
)
def test_kotlin_is_whole(tmp_path: Path, task: Task, words: tuple[str, ...]) -> None:
    staged = staged_bundle(tmp_path / "work", tmp_path / "bundle", interface=interface(task))
    manifest = dataclasses.replace(staged.manifest, interface=interface(task))
    folder = tmp_path / "again"
    folder.mkdir()
    android.write(manifest, folder)
    written = texts_in(folder / "android")
    check_source(written["EdgeqModel.kt"])
    for word in words:
        assert word in written["EdgeqModel.kt"]
    assert ("getPixels" in written["README.md"]) == task.startswith("image")
    assert ("classify(" in written["README.md"]) == ("classification" in task)


def test_run_py_asks_for_what_reads_images(tmp_path: Path) -> None:
    staged = staged_bundle(tmp_path / "work", tmp_path / "bundle", surface="edge")
    expected: dict[Task, bool] = {"image-classification": True, "text-classification": False}
    for task, found in expected.items():
        edge.write(dataclasses.replace(staged.manifest, interface=interface(task)), staged.directory)
        assert ("pillow" in (staged.directory / "requirements.txt").read_text()) == found


def test_what_is_unpacked_counts_as_memory_and_is_said(tmp_path: Path) -> None:
    manifest = staged_bundle(
        tmp_path / "work", tmp_path / "bundle", interface=interface("image-classification")
    ).manifest
    weights: dict[str, WeightLocation] = {"a": FILTERS, "b": LOCATION}
    more = required_bytes(dataclasses.replace(manifest, weights=weights))
    assert more == model_bytes(manifest) + 4 * 64 * 288 + RUNTIME_BYTES
    (note,) = unpacking_notes(weights)
    assert note.startswith("1 convolutions are stored in 8 bits")
    assert unpacking_notes({"b": LOCATION}) == ()
