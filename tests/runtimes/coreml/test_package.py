"""Packages that are damaged, incomplete or hostile."""

from __future__ import annotations

import builtins
import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from edgeq.errors import CorruptInputError, EdgeqError, RuntimeUnavailableError, UnsafeInputError
from edgeq.runtimes.coreml.interpreter import Interpreter
from edgeq.runtimes.coreml.package import import_coremltools, open_package
from tests.runtimes.coreml import models

MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.save_generator(tmp_path_factory.mktemp("intact") / "model.mlpackage")


@pytest.fixture
def package(intact: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(intact, tmp_path / "model.mlpackage"))


def test_tells_shapes_of_inputs_and_states(package: Path) -> None:
    opened = open_package(package)
    assert opened.inputs["prefill"] == {"input_ids": (1, 4), "position": (1,), "last": (1,)}
    assert opened.inputs["decode"] == {"input_ids": (1, 1), "position": (1,)}
    assert opened.states == {"cache": (1, 12, 2)}
    assert opened.weights_bytes == (package / MODEL).stat().st_size + (package / WEIGHTS).stat().st_size


@pytest.mark.parametrize("missing", ["Manifest.json", MODEL, WEIGHTS])
def test_a_missing_file_is_named_damage(package: Path, missing: str) -> None:
    (package / missing).unlink()
    with pytest.raises(CorruptInputError, match="damaged"):
        Interpreter(open_package(package))


def test_no_package_at_all(tmp_path: Path) -> None:
    with pytest.raises(CorruptInputError, match="manifest"):
        open_package(tmp_path / "model.mlpackage")


@pytest.mark.parametrize("victim", [MODEL, WEIGHTS, "Manifest.json"])
@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9])
def test_a_truncated_file_is_damage(package: Path, victim: str, part: float) -> None:
    data = (package / victim).read_bytes()
    (package / victim).write_bytes(data[: int(len(data) * part)])
    with pytest.raises(CorruptInputError):
        Interpreter(open_package(package))


@pytest.mark.parametrize("offset", range(8, 600, 37))
def test_a_flipped_byte_never_escapes_as_another_error(package: Path, offset: int) -> None:
    data = bytearray((package / MODEL).read_bytes())
    data[offset % len(data)] ^= 0xFF
    (package / MODEL).write_bytes(bytes(data))
    with suppress(EdgeqError):
        Interpreter(open_package(package))


def test_a_manifest_that_leaves_the_package_is_refused(package: Path) -> None:
    manifest = json.loads((package / "Manifest.json").read_text())
    manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"] = "../../model.mlmodel"
    (package / "Manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UnsafeInputError):
        open_package(package)


def test_a_model_of_another_kind_is_refused(package: Path) -> None:
    from coremltools.proto import Model_pb2

    spec = Model_pb2.Model(specificationVersion=1)
    spec.neuralNetwork.SetInParent()
    (package / MODEL).write_bytes(spec.SerializeToString())
    with pytest.raises(CorruptInputError, match="no ML program"):
        open_package(package)


def test_an_unknown_function_is_refused(package: Path) -> None:
    with pytest.raises(CorruptInputError, match="no function 'encode'"):
        open_package(package).function("encode")


def test_without_coremltools(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def refuse(name: str, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        if name == "coremltools":
            raise ImportError(name)
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(RuntimeUnavailableError, match="pip install coremltools"):
        import_coremltools()
