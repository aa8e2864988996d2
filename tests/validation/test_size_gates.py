"""The largest file and the largest tensor, by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeq.core.artifact import FileEntry
from edgeq.core.report import Verdict
from edgeq.validation.size_gates import size_gates
from edgeq.validation.subject import Subject
from tests.validation.test_configurations import browser_subject


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    """Two models; the second has the largest tensor, of 4000 bytes."""
    found = browser_subject(tmp_path)
    for model, length in zip(found.models().values(), (1000, 10), strict=True):
        model.parent.mkdir(exist_ok=True)
        weights = [numpy_helper.from_array(np.zeros(count, np.float32), f"w{count}") for count in (length, 5)]
        output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [length])
        node = helper.make_node("Identity", [f"w{length}"], ["y"])
        onnx.save(helper.make_model(helper.make_graph([node], "g", [], [output], weights)), model)
    files = (FileEntry(path="small", bytes=10, sha256=""), FileEntry(path="onnx/large", bytes=900, sha256=""))
    return dataclasses.replace(found, files=files, file_limit_bytes=900, buffer_limit_bytes=4000)


def test_what_fits_passes(subject: Subject) -> None:
    gates = {gate.name: gate for gate in size_gates(subject)}
    assert {name: gate.value for name, gate in gates.items()} == {
        "largest_file_bytes": 900,
        "largest_tensor_bytes": 4000,
    }
    assert all(gate.verdict is Verdict.PASSED for gate in gates.values())


def test_what_does_not_fit_is_named(subject: Subject) -> None:
    file, tensor = size_gates(dataclasses.replace(subject, file_limit_bytes=899, buffer_limit_bytes=3999))
    assert (file.verdict, tensor.verdict) == (Verdict.FAILED, Verdict.FAILED)
    assert "onnx/large takes" in file.reason
    assert "w1000 takes" in tensor.reason


def test_no_limit_no_gate(subject: Subject) -> None:
    assert size_gates(dataclasses.replace(subject, file_limit_bytes=None, buffer_limit_bytes=None)) == ()
