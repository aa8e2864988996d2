"""The browser surface: files where transformers.js looks, a page without other servers, and a sha256 of our own."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edgeq.bundle import browser
from edgeq.bundle import stage as stage_module
from edgeq.bundle.manifest import read_manifest, verify
from edgeq.bundle.memory import cache_bytes, required_bytes
from edgeq.core.artifact import Artifact, Interface, Variant
from edgeq.errors import CorruptInputError, RuntimeUnavailableError
from tests.bundle.samples import (
    FILES,
    VARIANTS,
    encoder_interface,
    generator_interface,
    sealed_bundle,
    staged_bundle,
    write_source,
)
from tests.reports.samples import DIGEST

TEMPLATES = Path(browser.__file__).parent / "templates" / "browser"
MODULES = ("edgeq.mjs", "edgeq-worker.mjs", "edgeq-files.mjs")


@pytest.fixture(autouse=True)
def vendored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """npm packages that are not installed."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for name in ("transformers.min.js", "runtime.wasm", "transformers.LICENSE"):
        (packages / name).write_text(name)
    monkeypatch.setattr(browser, "vendored_files", lambda: {path.name: path for path in packages.iterdir()})
    monkeypatch.setattr(stage_module, "package_version", lambda name: f"{name} 1.2.3")


def bundle_of(work: Path, interface: Interface | None = None) -> Path:
    return sealed_bundle(
        work / "work", work / "bundle", surface="browser", format="transformersjs", interface=interface
    )


def test_files_lie_where_transformers_js_looks(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path)
    manifest = verify(bundle)
    assert (manifest.root, manifest.tokenizer, manifest.golden) == (".", ".", "golden/golden.json")
    assert manifest.model == "onnx/model_q4.onnx"
    assert manifest.variants == tuple(dataclasses.replace(one, entry=f"onnx/{one.entry}") for one in VARIANTS)
    assert (manifest.runtime.name, manifest.runtime.version) == ("onnxruntime-web", "onnxruntime-web 1.2.3")
    found = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert {f"onnx/{name}" for name in FILES["transformersjs"]} <= found
    assert {"config.json", "tokenizer.json", "tokenizer_config.json", "index.html", *MODULES} <= found
    assert {"vendor/transformers.min.js", "vendor/runtime.wasm", "vendor/transformers.LICENSE", "LICENSE"} <= found
    assert not any("safetensors" in path or path.startswith(("model/", "tokenizer/")) for path in found)


def test_model_files_are_those_of_the_model_alone(tmp_path: Path) -> None:
    staged = staged_bundle(tmp_path / "work", tmp_path / "bundle", surface="browser", format="transformersjs")
    assert [entry.path for entry in staged.model_files] == sorted(f"onnx/{name}" for name in FILES["transformersjs"])


def test_config_says_which_variant_and_how_many_files(tmp_path: Path) -> None:
    config = json.loads((bundle_of(tmp_path) / "config.json").read_bytes())
    assert config == {
        "model_type": "llama",
        "num_hidden_layers": 1,
        "transformers.js_config": {
            "dtype": "q4",
            "use_external_data_format": {"model_q4.onnx": 1, "model_q4f16.onnx": 1},
            "kv_cache_dtype": {"q4f16": "float16"},
        },
    }


def artifact(directory: Path, files: tuple[str, ...], *variants: Variant, interface: Interface) -> Artifact:
    return Artifact(
        format="transformersjs",
        directory=directory,
        entry=variants[0].entry,
        files=files,
        interface=interface,
        weights_digest=DIGEST,
        weights={},
        variants=variants,
    )


def test_chunks_are_counted_by_their_variant_and_foreign_settings_go(tmp_path: Path) -> None:
    write_source(tmp_path / "source")
    config = tmp_path / "source" / "config.json"
    config.write_text('{"model_type": "bert", "transformers.js_config": {"dtype": "fp16", "device": "webgpu"}}')
    files = ("model_q2.onnx", "model_q2.onnx_data", "model_q2.onnx_data_1", "model_q2.onnx_data_2", "model_q2f16.onnx")
    one = Variant(dtype="q2", entry="model_q2.onnx", float_dtype="float32")
    half = Variant(dtype="q2f16", entry="model_q2f16.onnx", float_dtype="float16")
    browser.write_configuration(artifact(tmp_path, files, one, half, interface=encoder_interface()), config.parent)
    assert json.loads(config.read_bytes())["transformers.js_config"] == {
        "dtype": "q2",
        "use_external_data_format": {"model_q2.onnx": 3, "model_q2f16.onnx": 0},
    }


def test_chat_template_goes_where_transformers_js_reads_it(tmp_path: Path) -> None:
    source = tmp_path / "work" / "source"
    source.mkdir(parents=True)
    (source / "chat_template.jinja").write_text("{{ messages }}")
    assert json.loads((bundle_of(tmp_path) / "tokenizer_config.json").read_bytes()) == {
        "chat_template": "{{ messages }}"
    }


def test_tokenizer_without_settings_gets_a_file_for_them(tmp_path: Path) -> None:
    write_source(tmp_path / "source")
    settings = tmp_path / "source" / "tokenizer_config.json"
    made = artifact(tmp_path, FILES["transformersjs"], *VARIANTS, interface=generator_interface())
    settings.write_text('{"as": "it was"}')
    browser.write_configuration(made, settings.parent)
    assert settings.read_text() == '{"as": "it was"}'
    settings.unlink()
    browser.write_configuration(made, settings.parent)
    assert json.loads(settings.read_bytes()) == {}
    settings.unlink()
    (settings.parent / "tokenizer.json").unlink()
    browser.write_configuration(made, settings.parent)
    assert not settings.exists()


@pytest.mark.parametrize("text", ["{", "[]"])
def test_configuration_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    write_source(tmp_path)
    (tmp_path / "config.json").write_text(text)
    made = artifact(tmp_path, FILES["transformersjs"], *VARIANTS, interface=generator_interface())
    with pytest.raises(CorruptInputError, match=r"config\.json is not a JSON object"):
        browser.write_configuration(made, tmp_path)


def test_missing_packages_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> dict[str, Path]:
        raise RuntimeUnavailableError("There are none.", remedy="Install them.")

    monkeypatch.setattr(browser, "vendored_files", missing)
    with pytest.raises(RuntimeUnavailableError):
        staged_bundle(tmp_path / "work", tmp_path / "out" / "bundle", surface="browser", format="transformersjs")
    assert list((tmp_path / "out").iterdir()) == []


def test_memory_is_that_of_the_largest_variant(tmp_path: Path) -> None:
    staged = staged_bundle(tmp_path / "work", tmp_path / "bundle", surface="browser", format="transformersjs")
    sizes = {Path(entry.path).name: entry.bytes for entry in staged.model_files}
    largest = max(sizes[f"{one.entry}"] + sizes[f"{one.entry}_data"] for one in VARIANTS)
    cached = cache_bytes(generator_interface(), "transformersjs")
    assert required_bytes(staged.manifest) == largest + cached + 64 * 2**20


@pytest.mark.parametrize(
    ("interface", "call"),
    [(generator_interface(), 'bundle.generate("Once'), (encoder_interface(), 'bundle.embed(["A cat')],
)
def test_readme_says_how_to_use_it(tmp_path: Path, interface: Interface, call: str) -> None:
    text = (bundle_of(tmp_path, interface) / "README.md").read_text(encoding="utf-8")
    assert call in text
    assert f"`pipeline('{interface.task}', ...)`, `dtype` `q4` or `q4f16`" in text
    assert "`q4` (float32), `q4f16` (float16)" in text
    assert "transformers.js and onnxruntime-web onnxruntime-web 1.2.3" in text


def test_page_has_the_model_s_name_and_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path)
    page = (bundle / "index.html").read_text(encoding="utf-8")
    assert "<h1>my-model</h1>" in page
    assert not re.search(r"@[A-Z_]+@", page)
    for name in ("index.html", *MODULES):
        text = (bundle / name).read_text(encoding="utf-8")
        assert re.findall(r"https?://", text) == []
        assert max(map(len, text.splitlines())) <= 120


def test_manifest_without_variants_is_read(tmp_path: Path) -> None:
    bundle = sealed_bundle(tmp_path / "work", tmp_path / "bundle", surface="edge")
    assert read_manifest(bundle).variants == ()


NODE = shutil.which("node")


@pytest.mark.skipif(NODE is None and not os.environ.get("CI"), reason="there is no Node")
def test_sha256_is_that_of_everybody_else(tmp_path: Path) -> None:
    """Whatever the length, and whatever pieces the bytes come in."""
    script = tmp_path / "run.mjs"
    script.write_text(
        f"""import {{ Sha256 }} from {json.dumps((TEMPLATES / "edgeq-files.mjs").as_uri())};
        const bytes = (count) => Uint8Array.from({{ length: count }}, (_, index) => (index * 7 + 3) % 256);
        const digest = (data, step) => {{
          const made = new Sha256();
          for (let at = 0; at < data.length; at += step) made.update(data.subarray(at, at + step));
          return made.hex();
        }};
        const lengths = [0, 1, 3, 55, 56, 57, 63, 64, 65, 119, 120, 127, 128, 129, 1000, 100000];
        const steps = [1, 37, 64, 65536];
        console.log(JSON.stringify(lengths.flatMap((n) => steps.map((step) => [n, digest(bytes(n), step)]))));
        """
    )
    assert NODE is not None
    finished = subprocess.run([NODE, script], capture_output=True, text=True, check=True)
    for length, found in json.loads(finished.stdout):
        expected = hashlib.sha256(bytes((index * 7 + 3) % 256 for index in range(length))).hexdigest()
        assert found == expected, length
