"""The `.mlpackage` on disk: a model description, one file of weights, and a manifest; the same bytes every time."""

from __future__ import annotations

import hashlib
import json
import uuid
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
from coremltools.converters.mil.backend.mil.load import load as to_proto
from coremltools.converters.mil.mil import Function, Program

from edgeq.files import output_errors, write_bytes_atomic
from edgeq.lowering.coreml.constants import TABLE_SUFFIX, Constants

PACKAGE = "model.mlpackage"
_DATA = "Data/com.apple.CoreML"
FILES = (f"{PACKAGE}/{_DATA}/model.mlmodel", f"{PACKAGE}/{_DATA}/weights/weight.bin", f"{PACKAGE}/Manifest.json")
_AUTHOR = "com.apple.CoreML"
_NAMESPACE = uuid.UUID("8d9f2d2a-54a9-5e3b-9b56-1c6f7f0c2a11")
"""Any fixed one: the manifest wants UUIDs, which coremltools draws at random."""


def assemble(functions: dict[str, Any], constants: Constants) -> Any:  # noqa: ANN401 - coremltools has no types
    """One program of converted programs, the first its default; constants of equal bytes are stored once.

    Quantized weights get the names that `constants` promised, which casts to float16 have changed.
    """
    program = Program()
    for name, converted in functions.items():
        function = converted.functions["main"]
        _restore_names(function, constants)
        _share_constants(function)
        program.add_function(name, function)
    program.default_function_name = next(iter(functions))
    program.export_as_multifunction = len(functions) > 1
    program.skip_all_passes = True
    program._check_early_error_out_for_invalid_program()
    return program


def write_package(program: Any, directory: Path) -> None:  # noqa: ANN401 - coremltools has no types
    """Write `model.mlpackage` below `directory`. Raises OutputError."""
    package = directory / PACKAGE
    weights = package / _DATA / "weights"
    with output_errors(package):
        weights.mkdir(parents=True, exist_ok=True)
        (weights / "weight.bin").unlink(missing_ok=True)
        model = to_proto(program, str(weights), specification_version=int(ct.target.iOS18.value))
    write_bytes_atomic(package / _DATA / "model.mlmodel", model.SerializeToString(deterministic=True))
    write_bytes_atomic(package / "Manifest.json", json.dumps(_manifest(), indent=4, sort_keys=True).encode())


def _restore_names(function: Function, constants: Constants) -> None:
    promised = [f"{name}{suffix}" for name in constants.names.values() for suffix in ("", TABLE_SUFFIX)]
    expected = {f"{name}{suffix}": name for name in promised for suffix in ("", "_cast_fp16")}
    for operation in function.operations:
        name = expected.get(operation.name)
        if operation.op_type.startswith("constexpr_") and name is not None:
            operation.name = operation.outputs[0].name = name


def _share_constants(function: Function) -> None:
    for operation in function.operations:
        value = operation.outputs[0].val if operation.op_type == "const" else None
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
            header = f"{operation.outputs[0].dtype.__name__}|{value.dtype}|{value.shape}|"
            operation.weight_id = hashlib.sha256(header.encode() + np.ascontiguousarray(value).tobytes()).hexdigest()


def _manifest() -> dict[str, Any]:
    items = {
        "model.mlmodel": "CoreML Model Specification",
        "weights": "CoreML Model Weights",
    }
    entries = {
        str(uuid.uuid5(_NAMESPACE, name)).upper(): {
            "author": _AUTHOR,
            "description": description,
            "name": name,
            "path": f"{_AUTHOR}/{name}",
        }
        for name, description in items.items()
    }
    root = next(key for key, entry in entries.items() if entry["name"] == "model.mlmodel")
    return {"fileFormatVersion": "1.0.0", "itemInfoEntries": entries, "rootModelIdentifier": root}
