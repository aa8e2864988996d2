"""The Android surface: texts that hold the bundle's real numbers, and nothing left to fill in."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from edgeq.bundle import android
from edgeq.bundle.manifest import Manifest
from edgeq.bundle.memory import required_bytes
from edgeq.bundle.text import fill, installed_version, size_text, template
from edgeq.core.artifact import FileEntry, Interface, TensorSpec, TextGraphs
from edgeq.errors import InternalError, RuntimeUnavailableError
from tests.bundle.samples import encoder_interface, generator_interface, staged_bundle
from tests.bundle.sources import texts_in

GOLDEN = Path(__file__).parent / "golden"
KOTLIN = ("EdgeqBundle.kt", "EdgeqModel.kt")


def texts(directory: Path) -> dict[str, str]:
    return texts_in(directory / "android")


@pytest.fixture
def generator(tmp_path: Path) -> tuple[Manifest, dict[str, str]]:
    staged = staged_bundle(tmp_path / "work", tmp_path / "bundle")
    return staged.manifest, texts(staged.directory)


def test_files(generator: tuple[Manifest, dict[str, str]]) -> None:
    manifest, written = generator
    assert set(written) == {"EdgeqBundle.kt", "EdgeqModel.kt", "build.gradle.kts", "README.md"}
    for text in written.values():
        assert not re.search(r"@[A-Z_]+@", text)
        assert max(map(len, text.splitlines())) <= 120
    assert manifest.root == "assets/edgeq/my-model"


def test_generator_is_the_golden_one(generator: tuple[Manifest, dict[str, str]]) -> None:
    """Compiled with Kotlin 2.3 and run against ONNX Runtime when it was written: see that a change is meant."""
    assert generator[1]["EdgeqModel.kt"] == (GOLDEN / "EdgeqModel.generator.kt").read_text(encoding="utf-8")


def test_encoder_is_the_golden_one(tmp_path: Path) -> None:
    staged = staged_bundle(tmp_path / "work", tmp_path / "bundle", interface=encoder_interface())
    written = texts(staged.directory)
    assert written["EdgeqModel.kt"] == (GOLDEN / "EdgeqModel.encoder.kt").read_text(encoding="utf-8")
    assert "model.encode(sentenceIds)" in written["README.md"]


def test_a_module_names_its_tensors(tmp_path: Path) -> None:
    tensors = (
        TensorSpec(name="pixels", dtype="float32", shape=("batch", 3, 8, 8)),
        TensorSpec(name="score", dtype="float32", shape=("batch", 1)),
    )
    interface = Interface(
        task="module", inputs=("pixels",), outputs=("score",), vocabulary=0, context_length=0, tensors=tensors
    )
    written = texts(staged_bundle(tmp_path / "work", tmp_path / "bundle", interface=interface).directory)
    kotlin = written["EdgeqModel.kt"]
    assert " * pixels: float32 [batch, 3, 8, 8]\n * gives score: float32 [batch, 1]\n" in kotlin
    assert kotlin.count("{") == kotlin.count("}")
    assert not re.search(r"@[A-Z_]+@", kotlin)
    assert 'model.run(mapOf("pixels" to tensor))' in written["README.md"]
    assert "Token ids" not in written["README.md"]


def test_kotlin_copies_exactly_the_files_of_the_root(generator: tuple[Manifest, dict[str, str]]) -> None:
    manifest, written = generator
    listed = dict(re.findall(r'"([^"]+)" to (\d+)L,', written["EdgeqBundle.kt"]))
    prefix = f"{manifest.root}/"
    expected = {
        entry.path.removeprefix(prefix): str(entry.bytes) for entry in manifest.files if entry.path.startswith(prefix)
    }
    assert listed == expected
    assert 'ASSETS = "edgeq/my-model"' in written["EdgeqBundle.kt"]


def test_version_follows_the_contents(generator: tuple[Manifest, dict[str, str]], tmp_path: Path) -> None:
    manifest, written = generator
    version = re.search(r'VERSION = "(\w{16})"', written["EdgeqBundle.kt"])
    first = manifest.files[1]
    assert first.path.startswith("android/")
    changed = [
        dataclasses.replace(entry, sha256="0" * 64) if entry.path.endswith("tokenizer.json") else entry
        for entry in manifest.files
    ]
    android.write(dataclasses.replace(manifest, files=tuple(changed)), tmp_path)
    other = re.search(r'VERSION = "(\w{16})"', texts(tmp_path)["EdgeqBundle.kt"])
    assert version is not None
    assert other is not None
    assert version[1] != other[1]


def test_required_memory_counts_model_cache_and_runtime(generator: tuple[Manifest, dict[str, str]]) -> None:
    manifest, written = generator
    model = sum(entry.bytes for entry in manifest.files if "/model/" in entry.path)
    cache = 64 * 2 * 2 * 4 * 4  # context, key and value, heads, head size, float32
    assert required_bytes(manifest) == model + cache + 64 * 2**20
    assert f"REQUIRED_BYTES = {required_bytes(manifest)}L" in written["EdgeqBundle.kt"]


def test_gradle_keeps_the_model_uncompressed_and_names_the_validated_runtime(
    generator: tuple[Manifest, dict[str, str]],
) -> None:
    gradle = generator[1]["build.gradle.kts"]
    assert 'noCompress += listOf("onnx", "onnx_data")' in gradle
    assert f"com.microsoft.onnxruntime:onnxruntime-android:{installed_version('onnxruntime')}" in gradle


def test_readme_says_how_large_bundles_are_delivered(
    generator: tuple[Manifest, dict[str, str]], tmp_path: Path
) -> None:
    manifest, written = generator
    assert "fit into the app's base module" in written["README.md"]
    large = FileEntry(path=f"{manifest.root}/model/model.onnx_data", bytes=300 * 10**6, sha256="0" * 64)
    android.write(dataclasses.replace(manifest, files=(large,)), tmp_path)
    assert "deliver them as an asset pack or an AI pack" in texts(tmp_path)["README.md"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"inputs": ("input_ids", "position_ids")}, "position_ids"), ({"cache": ()}, "key-value cache")],
)
def test_interfaces_that_the_sample_cannot_feed_are_refused(
    generator: tuple[Manifest, dict[str, str]], tmp_path: Path, changes: dict[str, tuple[str, ...]], message: str
) -> None:
    interface = dataclasses.replace(generator_interface(), **changes)  # type: ignore[arg-type]
    with pytest.raises(InternalError, match=message):
        android.write(dataclasses.replace(generator[0], interface=interface), tmp_path)


def test_no_end_of_text_is_an_empty_set(generator: tuple[Manifest, dict[str, str]], tmp_path: Path) -> None:
    interface = dataclasses.replace(generator_interface(), end_of_text_ids=())
    android.write(dataclasses.replace(generator[0], interface=interface), tmp_path)
    assert "END_OF_TEXT = emptySet<Long>()" in texts(tmp_path)["EdgeqModel.kt"]


def test_templates_and_values_must_agree() -> None:
    with pytest.raises(InternalError, match="RUNTIME_VERSION"):
        fill("build.gradle.kts", {})
    with pytest.raises(InternalError, match="EXTRA"):
        fill("build.gradle.kts", {"RUNTIME_VERSION": "1", "EXTRA": "2"})
    assert "@RUNTIME_VERSION@" in template("build.gradle.kts")


def test_missing_package_is_named() -> None:
    with pytest.raises(RuntimeUnavailableError, match="no-such-package is not installed"):
        installed_version("no-such-package")


def test_size_text() -> None:
    assert size_text(1536) == "1.5 KiB"
    assert size_text(3 * 2**20) == "3.0 MiB"


@pytest.mark.parametrize(
    ("interface", "graphs", "call"),
    [
        (
            generator_interface(),
            {"tokenizer": "tokenizer.onnx", "detokenizer": "detokenizer.onnx"},
            'text.generate(model, "Once upon a time", maxNewTokens = 64)',
        ),
        (encoder_interface(), {"model": "model_text.onnx"}, 'text.encode(listOf("A cat.", "A kitten."))'),
    ],
)
def test_strings_are_passed_where_a_graph_reads_text(
    tmp_path: Path, interface: Interface, graphs: dict[str, str], call: str
) -> None:
    staged = staged_bundle(tmp_path / "work", tmp_path / "bundle", interface=interface)
    text = TextGraphs(extensions="0.15.2", **graphs).under(f"{staged.manifest.root}/model/")
    android.write(dataclasses.replace(staged.manifest, text=text), made(tmp_path / "other"))
    written = texts(tmp_path / "other")
    kotlin = written["EdgeqText.kt"]
    assert all(f'"model/{path}"' in kotlin for path in graphs.values())
    assert "registerCustomOpLibrary(OrtxPackage.getLibraryPath())" in kotlin
    assert not re.search(r"@[A-Z_]+@", kotlin)
    assert max(map(len, kotlin.splitlines())) <= 120
    assert "com.microsoft.onnxruntime:onnxruntime-extensions-android:0.15.2" in written["build.gradle.kts"]
    assert call in written["README.md"]
    assert "text.smokeTest()" in written["README.md"]


def made(directory: Path) -> Path:
    directory.mkdir()
    return directory
