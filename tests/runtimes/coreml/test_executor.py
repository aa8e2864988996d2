"""Who executes: Core ML on a Mac (here made of Python), the interpreter elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.core.target import ComputeUnit
from edgeq.errors import CorruptInputError, RuntimeUnavailableError
from edgeq.runtimes.coreml import Encoder, TextGenerator, executor
from edgeq.runtimes.coreml.interpreter import Interpreter
from edgeq.runtimes.coreml.package import import_coremltools, open_package
from tests.runtimes.coreml import models

IDS = [3, 1, 4, 1, 5, 2, 6]
CALLS: list[tuple[str | None, bool]] = []


class FakeModel:
    """coremltools' MLModel on a Mac: one function, a state that comes from outside."""

    fails: str = ""
    units: set[str]

    def __init__(self, path: str, *, compute_units: Any, function_name: str | None = None) -> None:  # noqa: ANN401
        self.units.add(compute_units.name)
        if FakeModel.fails == "load":
            raise RuntimeError("cannot compile\nand more")
        self._interpreter = Interpreter(open_package(Path(path)))
        self._name = function_name

    def make_state(self) -> dict[str, Any]:
        if FakeModel.fails == "state":
            raise RuntimeError("only on macOS 15+")
        self._interpreter.reset()
        return self._interpreter._states

    def predict(self, inputs: dict[str, Any], state: Any = None) -> dict[str, Any]:  # noqa: ANN401
        if FakeModel.fails == "predict":
            raise RuntimeError("no")
        CALLS.append((self._name, state is not None))
        self._interpreter._states = state or {}
        return dict(self._interpreter.run(self._name or "main", inputs))


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("packages")
    models.save_generator(directory / "generator.mlpackage")
    models.save_encoder(directory / "encoder.mlpackage")
    return directory


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(import_coremltools().models, "MLModel", FakeModel)
    monkeypatch.setattr(FakeModel, "fails", "")
    monkeypatch.setattr(FakeModel, "units", set(), raising=False)
    CALLS.clear()


def test_on_a_mac_functions_share_a_state(packages: Path, mac: None) -> None:
    generator = TextGenerator(packages / "generator.mlpackage", models.GENERATOR)
    assert generator.executed_by == "Core ML"
    np.testing.assert_array_equal(generator.prefill(IDS, keep=2), models.logits(IDS)[-2:])
    assert CALLS == [("prefill", True), ("prefill", True), ("decode", True)]
    generator.reset()
    np.testing.assert_array_equal(generator.forward(IDS), models.logits(IDS)[-1:])


def test_on_a_mac_one_function_has_no_name_and_no_state(packages: Path, mac: None) -> None:
    encoder = Encoder(packages / "encoder.mlpackage", models.ENCODER)
    np.testing.assert_allclose(encoder.forward([[1, 2]]), models.TABLE[[1, 2]].mean(0)[None])
    assert CALLS == [(None, False)]


@pytest.mark.parametrize(
    ("unit", "name"), [("cpu", "CPU_ONLY"), ("gpu", "CPU_AND_GPU"), ("neural_engine", "CPU_AND_NE")]
)
@pytest.mark.usefixtures("mac")
def test_core_ml_computes_on_the_unit_of_the_profile(packages: Path, unit: ComputeUnit, name: str) -> None:
    TextGenerator(packages / "generator.mlpackage", models.GENERATOR, compute_unit=unit)
    Encoder(packages / "encoder.mlpackage", models.ENCODER, compute_unit=unit)
    assert FakeModel.units == {name}


@pytest.mark.parametrize(
    ("fails", "error", "says"),
    [
        ("load", CorruptInputError, "refuses generator.mlpackage: cannot compile"),
        ("state", RuntimeUnavailableError, "macOS 15"),
        ("predict", CorruptInputError, "does not run 'decode'"),
    ],
)
@pytest.mark.usefixtures("mac")
def test_what_core_ml_refuses(
    packages: Path, monkeypatch: pytest.MonkeyPatch, fails: str, error: type[Exception], says: str
) -> None:
    monkeypatch.setattr(FakeModel, "fails", fails)
    with pytest.raises(error, match=says):
        TextGenerator(packages / "generator.mlpackage", models.GENERATOR).prefill([1])


def test_elsewhere_the_interpreter_executes(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    opened = executor.open_executor(packages / "generator.mlpackage", compute_unit="gpu")
    assert isinstance(opened, Interpreter)
