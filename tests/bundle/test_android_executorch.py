"""Android with ExecuTorch: Kotlin that feeds what the `.pte` takes, and the tokenizer's special tokens."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from edgeq.bundle import android
from edgeq.bundle.executorch import special_tokens
from edgeq.bundle.manifest import Manifest
from edgeq.bundle.memory import cache_bytes, required_bytes
from edgeq.bundle.text import installed_version
from edgeq.core.artifact import Interface
from edgeq.errors import InternalError
from tests.bundle.samples import encoder_interface, staged_bundle, stateful_interface
from tests.bundle.sources import check_source, texts_in

GOLDEN = Path(__file__).parent / "golden"


def android_bundle(tmp_path: Path, interface: Interface | None = None) -> tuple[Manifest, Path]:
    staged = staged_bundle(tmp_path / "work", tmp_path / "bundle", format="executorch", interface=interface)
    return staged.manifest, staged.directory


@pytest.mark.parametrize(
    ("interface", "kind"), [(stateful_interface("executorch"), "generator"), (encoder_interface(), "encoder")]
)
def test_files(tmp_path: Path, interface: Interface, kind: str) -> None:
    """The golden Kotlin was compiled, against stubs of what the AAR declares, and never run: a change must be meant."""
    manifest, directory = android_bundle(tmp_path, interface)
    written = texts_in(directory / "android")
    assert set(written) == {"EdgeqBundle.kt", "EdgeqModel.kt", "build.gradle.kts", "README.md"}
    for name in ("EdgeqBundle.kt", "EdgeqModel.kt", "build.gradle.kts"):
        check_source(written[name])
    assert written["EdgeqModel.kt"] == (GOLDEN / f"EdgeqModel.executorch.{kind}.kt").read_text(encoding="utf-8")
    assert manifest.model == "assets/edgeq/my-model/model/model.pte"
    assert (manifest.runtime.name, manifest.runtime.version) == ("executorch", installed_version("executorch"))


def test_shown_numbers_are_the_bundle_s(tmp_path: Path) -> None:
    manifest, directory = android_bundle(tmp_path)
    written = texts_in(directory / "android")
    assert f"REQUIRED_BYTES = {required_bytes(manifest)}L" in written["EdgeqBundle.kt"]
    assert '"model/model.pte" to 1000L,' in written["EdgeqBundle.kt"]
    assert "where ExecuTorch can map them" in written["EdgeqBundle.kt"]
    gradle = written["build.gradle.kts"]
    assert 'noCompress += listOf("pte")' in gradle
    assert f"org.pytorch:executorch-android:{installed_version('executorch')}" in gradle
    assert "1024 MiB" in written["README.md"]
    assert "fit into the app's base module" in written["README.md"]
    assert "ONNX" not in written["README.md"]


def test_cache_is_counted_as_the_format_holds_it() -> None:
    interface = stateful_interface("executorch")
    elements = 64 * 2 * 2 * 4  # context, key and value, heads, head size
    assert cache_bytes(interface, "onnx") == 4 * elements
    assert cache_bytes(interface, "executorch") == 4 * elements
    assert cache_bytes(interface, "coreml") == 2 * elements
    assert cache_bytes(encoder_interface(), "executorch") == 0


def test_runner_adds_the_special_tokens_that_the_tokenizer_would(tmp_path: Path) -> None:
    manifest, directory = android_bundle(tmp_path)
    plain = special_tokens(manifest, directory)
    assert (plain.begin_count, plain.end_texts) == (0, ("</s>",))
    path = directory / str(manifest.tokenizer) / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
    }
    # A word that it does not know would become its unknown token, which is the begin of text here.
    tokenizer["model"]["vocab"]["a"] = 4
    path.write_text(json.dumps(tokenizer))
    assert special_tokens(manifest, directory).begin_count == 1


def test_model_without_tokenizer_says_so(tmp_path: Path) -> None:
    manifest, directory = android_bundle(tmp_path)
    without = dataclasses.replace(manifest, tokenizer=None)
    assert special_tokens(without, directory).end_texts == ()
    (tmp_path / "again").mkdir()
    android.write(without, tmp_path / "again")
    written = texts_in(tmp_path / "again" / "android")
    assert "END_TEXTS = emptySet<String>()" in written["EdgeqModel.kt"]
    assert "came without a `tokenizer.json`" in written["README.md"]


def test_texts_of_tokens_are_kotlin_strings(tmp_path: Path) -> None:
    manifest, directory = android_bundle(tmp_path)
    path = directory / str(manifest.tokenizer) / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary['<"$end\\'] = vocabulary.pop("</s>")
    path.write_text(json.dumps(tokenizer))
    (tmp_path / "again").mkdir()
    moved = tmp_path / "again"
    (moved / str(manifest.tokenizer)).mkdir(parents=True)
    path.rename(moved / str(manifest.tokenizer) / "tokenizer.json")
    android.write(manifest, moved)
    text = texts_in(moved / "android")["EdgeqModel.kt"]
    assert r'END_TEXTS = setOf("<\"\$end\\")' in text


@pytest.mark.parametrize(
    "interface",
    [
        dataclasses.replace(stateful_interface("executorch"), inputs=("tokens",)),
        dataclasses.replace(encoder_interface(), inputs=("input_ids", "pixel_values")),
    ],
)
def test_inputs_that_the_sample_does_not_feed_are_refused(tmp_path: Path, interface: Interface) -> None:
    with pytest.raises(InternalError, match="do not feed the inputs"):
        android_bundle(tmp_path, interface)


def test_formats_of_other_surfaces_are_refused(tmp_path: Path) -> None:
    manifest, _ = android_bundle(tmp_path)
    with pytest.raises(InternalError, match="no Android sample for coreml"):
        android.write(dataclasses.replace(manifest, format="coreml"), tmp_path)
