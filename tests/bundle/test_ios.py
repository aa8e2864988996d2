"""The iOS surface: Swift that feeds what the model takes, the profile's compute unit and entitlement, real numbers."""

from __future__ import annotations

import dataclasses
import plistlib
from pathlib import Path

import pytest

from edgeq.bundle import ios
from edgeq.bundle.manifest import Manifest
from edgeq.bundle.memory import required_bytes
from edgeq.bundle.text import installed_version
from edgeq.core.artifact import Interface
from edgeq.core.target import ComputeUnit, Format
from edgeq.errors import InternalError
from tests.bundle.samples import encoder_interface, profile, staged_bundle, stateful_interface
from tests.bundle.sources import check_source, texts_in

GOLDEN = Path(__file__).parent / "golden"
SWIFT: dict[Format, set[str]] = {
    "coreml": {"EdgeqBundle.swift", "EdgeqCoreML.swift", "EdgeqModel.swift"},
    "executorch": {"EdgeqBundle.swift", "EdgeqModel.swift"},
}


def ios_bundle(tmp_path: Path, format: Format, interface: Interface | None = None) -> tuple[Manifest, Path]:
    staged = staged_bundle(tmp_path / "work", tmp_path / "bundle", surface="ios", format=format, interface=interface)
    return staged.manifest, staged.directory


@pytest.mark.parametrize("format", ["coreml", "executorch"])
@pytest.mark.parametrize("kind", ["generator", "encoder"])
def test_files(tmp_path: Path, format: Format, kind: str) -> None:
    """The golden Swift was parsed when it was written, never compiled: see that a change is meant."""
    interface = stateful_interface(format) if kind == "generator" else encoder_interface()
    manifest, directory = ios_bundle(tmp_path, format, interface)
    written = texts_in(directory / "ios")
    assert set(written) == {*SWIFT[format], "README.md"}
    for name in SWIFT[format]:
        check_source(written[name])
    assert max(map(len, written["README.md"].splitlines())) <= 120
    assert written["EdgeqModel.swift"] == (GOLDEN / f"EdgeqModel.{format}.{kind}.swift").read_text(encoding="utf-8")
    assert manifest.root == "resources/edgeq/my-model"
    assert (directory / "validate_on_mac.py").is_file() == (format == "coreml")


def test_shown_numbers_are_the_bundle_s(tmp_path: Path) -> None:
    manifest, directory = ios_bundle(tmp_path, "coreml")
    written = texts_in(directory / "ios")
    bundle = written["EdgeqBundle.swift"]
    model = sum(entry.bytes for entry in manifest.files if "/model/" in entry.path)
    cache = 64 * 2 * 2 * 4 * 2  # context, key and value, heads, head size, float16
    assert required_bytes(manifest) == model + cache + 64 * 2**20
    assert f"requiredBytes = {required_bytes(manifest)}" in bundle
    assert 'appending(path: "edgeq/my-model")' in bundle
    assert "os_proc_available_memory()" in bundle
    assert "contextLength = 64" in written["EdgeqModel.swift"]
    assert "vocabulary = 8" in written["EdgeqModel.swift"]
    assert "endOfText: Set<Int> = [1]" in written["EdgeqModel.swift"]
    assert 'package = "model/model.mlpackage"' in written["EdgeqCoreML.swift"]
    assert "1024 MiB" in written["README.md"]


def test_every_entry_of_the_package_is_listed(tmp_path: Path) -> None:
    manifest, directory = ios_bundle(tmp_path, "coreml")
    assert manifest.model == "resources/edgeq/my-model/model/model.mlpackage"
    assert (directory / manifest.model).is_dir()
    inside = [entry.path for entry in manifest.files if entry.path.startswith(f"{manifest.model}/")]
    assert [path.rpartition("/")[2] for path in inside] == ["weight.bin", "Manifest.json"]


def test_runtime_is_named_with_the_package_that_wrote_the_model(tmp_path: Path) -> None:
    manifest, directory = ios_bundle(tmp_path, "coreml")
    assert (manifest.runtime.name, manifest.runtime.version) == ("Core ML", installed_version("coremltools"))
    assert f"coremltools=={installed_version('coremltools')}" in texts_in(directory / "ios")["README.md"]


def test_swift_package_is_the_validated_executorch(tmp_path: Path) -> None:
    _, directory = ios_bundle(tmp_path, "executorch")
    readme = texts_in(directory / "ios")["README.md"]
    assert f"swiftpm-{installed_version('executorch')}" in readme
    assert "Core ML" not in readme


@pytest.mark.parametrize(
    ("unit", "swift", "words"),
    [
        ("cpu", ".cpuOnly", "the CPU"),
        ("gpu", ".cpuAndGPU", "the GPU"),
        ("neural_engine", ".cpuAndNeuralEngine", "the Neural Engine"),
    ],
)
def test_model_is_loaded_for_the_profile_s_compute_unit(
    tmp_path: Path, unit: ComputeUnit, swift: str, words: str
) -> None:
    target = dataclasses.replace(profile("ios"), compute_unit=unit)
    staged = staged_bundle(tmp_path / "work", tmp_path / "bundle", surface="ios", format="coreml", target=target)
    written = texts_in(staged.directory / "ios")
    assert f"computeUnits: MLComputeUnits = {swift}\n" in written["EdgeqCoreML.swift"]
    assert f"The target names {words} (`{swift}`)" in written["README.md"]


@pytest.mark.parametrize("format", ["coreml", "executorch"])
@pytest.mark.parametrize("entitled", [True, False])
def test_entitlement_comes_with_the_profile_that_counts_on_it(tmp_path: Path, format: Format, entitled: bool) -> None:
    target = dataclasses.replace(profile("ios"), increased_memory_limit=entitled)
    staged = staged_bundle(tmp_path / "work", tmp_path / "bundle", surface="ios", format=format, target=target)
    plist = staged.directory / "ios" / "Edgeq.entitlements"
    readme = texts_in(staged.directory / "ios")["README.md"]
    assert "com.apple.developer.kernel.increased-memory-limit" in readme
    assert plist.is_file() == entitled
    if entitled:
        assert plistlib.loads(plist.read_bytes()) == {"com.apple.developer.kernel.increased-memory-limit": True}
        assert "counts on the entitlement" in " ".join(readme.split())
    else:
        assert "does without the entitlement" in " ".join(readme.split())


def test_hidden_states_are_cut_to_the_text(tmp_path: Path) -> None:
    interface = dataclasses.replace(encoder_interface(), pooling="none", outputs=("last_hidden_state",))
    _, directory = ios_bundle(tmp_path, "coreml", interface)
    text = texts_in(directory / "ios")["EdgeqModel.swift"]
    assert "pooled = false" in text
    assert 'output = "last_hidden_state"' in text


def test_model_without_tokenizer_says_so(tmp_path: Path) -> None:
    manifest, _ = ios_bundle(tmp_path, "executorch")
    (tmp_path / "again").mkdir()
    ios.write(dataclasses.replace(manifest, tokenizer=None), tmp_path / "again")
    written = texts_in(tmp_path / "again" / "ios")
    assert "endTexts: Set<String> = []" in written["EdgeqModel.swift"]
    assert "came without a `tokenizer.json`" in written["README.md"]


@pytest.mark.parametrize("format", ["coreml", "executorch"])
@pytest.mark.parametrize("kind", ["generator", "encoder"])
def test_inputs_that_the_sample_does_not_feed_are_refused(tmp_path: Path, format: Format, kind: str) -> None:
    interface = stateful_interface(format) if kind == "generator" else encoder_interface()
    other = dataclasses.replace(interface, inputs=(*interface.inputs, "pixel_values"))
    with pytest.raises(InternalError, match="do not feed the inputs"):
        ios_bundle(tmp_path, format, other)


def test_formats_of_other_surfaces_are_refused(tmp_path: Path) -> None:
    manifest, _ = ios_bundle(tmp_path, "executorch")
    with pytest.raises(InternalError, match="no iOS sample for onnx"):
        ios.write(dataclasses.replace(manifest, format="onnx"), tmp_path)
