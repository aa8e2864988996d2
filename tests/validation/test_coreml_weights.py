"""Codes read back from a package: the digest is the store's, and nothing else is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.proto import Model_pb2

from edgeq.core.digest import tensor_digest, weights_digest
from edgeq.core.scheme import Scheme
from edgeq.core.tensor import QuantizedTensor
from edgeq.errors import CorruptInputError, UnsafeInputError
from edgeq.validation.coreml_weights import CoremlWeights, artifact_digest
from tests.lowering.coreml.packages import (
    CODEBOOKS,
    NAME,
    SCHEMES,
    Entries,
    product_package,
    random_tensor,
    tied_package,
)

MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"
Package = tuple[Path, Entries]


def digest_of(tensor: QuantizedTensor) -> str:
    return weights_digest([(NAME, tensor_digest(NAME, tensor))])


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return product_package(tmp_path_factory.mktemp("package"), random_tensor(SCHEMES[3]), functions=("one", "two"))


@pytest.fixture
def package(original: Package, tmp_path: Path) -> Package:
    """A copy to damage."""
    return Path(shutil.copytree(original[0], tmp_path / "model.mlpackage")), original[1]


@pytest.mark.parametrize("scheme", SCHEMES + CODEBOOKS, ids=Scheme.label)
def test_the_digest_is_that_of_the_store(scheme: Scheme, tmp_path: Path) -> None:
    tensor = random_tensor(scheme, 12, 70)
    assert artifact_digest(*product_package(tmp_path, tensor)) == digest_of(tensor)


def test_the_digest_of_a_tied_table(tmp_path: Path) -> None:
    tensor = random_tensor(SCHEMES[6])
    assert artifact_digest(*tied_package(tmp_path, tensor)) == digest_of(tensor)


def test_values_that_the_program_itself_holds(tmp_path: Path) -> None:
    """Fewer than ten numbers are not worth a place in the file of weights."""
    tensor = random_tensor(SCHEMES[1], 3, 2)
    assert artifact_digest(*product_package(tmp_path, tensor)) == digest_of(tensor)


def test_a_flipped_bit_of_a_code_changes_the_digest(package: Package) -> None:
    path, entries = package
    before = artifact_digest(path, entries)
    data = bytearray((path / WEIGHTS).read_bytes())
    data[128] ^= 1  # the first code: after the file's header and its own
    (path / WEIGHTS).write_bytes(data)
    assert artifact_digest(path, entries) != before


def edited(package: Path, edit: Callable[[Any], None]) -> None:
    model = Model_pb2.Model.FromString((package / MODEL).read_bytes())
    edit(model)
    (package / MODEL).write_bytes(model.SerializeToString())


def constant(model: Any, function: str = "two") -> Any:  # noqa: ANN401 - protobuf has no types
    block = next(iter(model.mlProgram.functions[function].block_specializations.values()))
    return next(operation for operation in block.operations if operation.type.startswith("constexpr_"))


def blob(model: Any, function: str = "two") -> Any:  # noqa: ANN401 - protobuf has no types
    return constant(model, function).inputs["data"].arguments[0].value.blobFileValue


def rename(model: Any) -> None:  # noqa: ANN401 - protobuf has no types
    constant(model).outputs[0].name = "other"


def move(model: Any) -> None:  # noqa: ANN401 - protobuf has no types
    blob(model).offset += 64


def beyond(model: Any) -> None:  # noqa: ANN401 - protobuf has no types
    for function in ("one", "two"):
        blob(model, function).offset = 1 << 40


def inside_data(model: Any) -> None:  # noqa: ANN401 - protobuf has no types
    for function in ("one", "two"):
        blob(model, function).offset += 64


def elsewhere(model: Any) -> None:  # noqa: ANN401 - protobuf has no types
    for function in ("one", "two"):
        blob(model, function).fileName = "/etc/hostname"


def missing_file(model: Any) -> None:  # noqa: ANN401 - protobuf has no types
    for function in ("one", "two"):
        blob(model, function).fileName = "@model_path/weights/none.bin"


def no_program(model: Any) -> None:  # noqa: ANN401 - protobuf has no types
    model.mlProgram.ClearField("functions")


def variable(model: Any) -> None:  # noqa: ANN401 - protobuf has no types
    for function in ("one", "two"):
        constant(model, function).inputs["data"].arguments[0].name = "x"


@pytest.mark.parametrize("edit", [rename, move, beyond, inside_data, elsewhere, missing_file, no_program, variable])
def test_a_program_that_does_not_hold_the_weight_is_refused(package: Package, edit: Callable[[Any], None]) -> None:
    edited(package[0], edit)
    with pytest.raises(CorruptInputError, match="Export the bundle again"):
        artifact_digest(*package)


def test_a_file_outside_the_package_is_not_read(package: Package) -> None:
    def climb(model: Any) -> None:  # noqa: ANN401 - protobuf has no types
        for function in ("one", "two"):
            blob(model, function).fileName = "@model_path/../../../outside"

    edited(package[0], climb)
    with pytest.raises(UnsafeInputError):
        artifact_digest(*package)


def test_a_manifest_that_leads_outside_is_refused(package: Package) -> None:
    path = package[0] / "Manifest.json"
    manifest = json.loads(path.read_text())
    manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"] = "../../outside"
    path.write_text(json.dumps(manifest))
    with pytest.raises(UnsafeInputError):
        CoremlWeights(package[0])


@pytest.mark.parametrize("content", ["", "[]", '{"itemInfoEntries": {}, "rootModelIdentifier": "1"}'])
def test_a_manifest_without_a_model_is_refused(package: Package, content: str) -> None:
    (package[0] / "Manifest.json").write_text(content)
    with pytest.raises(CorruptInputError, match="manifest"):
        CoremlWeights(package[0])


@pytest.mark.parametrize("content", [None, b"", b"no model"])
def test_what_is_no_model_is_refused(package: Package, content: bytes | None) -> None:
    path = package[0] / MODEL
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(CorruptInputError):
        CoremlWeights(package[0])


@pytest.mark.parametrize("size", [0, 100, 200])
def test_a_file_of_weights_that_ends_too_early_is_refused(package: Package, size: int) -> None:
    (package[0] / WEIGHTS).write_bytes((package[0] / WEIGHTS).read_bytes()[:size])
    with pytest.raises(CorruptInputError):
        artifact_digest(*package)


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [12, 41]},
        {"shape": [11, 40], "rows": [0, 11]},
        {"group_size": 64},
        {"symmetric": True},
        {"bits": 8},
        {"codes": "edgeq_0.scale"},
        {"scales": "edgeq_0.offset"},
        {"codes": "nothing"},
    ],
)
def test_a_map_that_does_not_fit_is_refused_or_differs(package: Package, change: dict[str, Any]) -> None:
    path, entries = package
    expected = artifact_digest(path, entries)
    try:
        found = artifact_digest(path, {NAME: {**entries[NAME], **change}})
    except CorruptInputError:
        return
    assert found != expected


def test_arrays_are_what_was_stored(original: Package) -> None:
    tensor = random_tensor(SCHEMES[3])
    source = CoremlWeights(original[0])
    assert tensor.zero_points is not None
    np.testing.assert_array_equal(source.array("edgeq_0.offset"), tensor.zero_points)
    np.testing.assert_array_equal(source.array("edgeq_0.scale").astype(np.float32), tensor.scales)
