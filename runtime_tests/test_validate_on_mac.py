"""The script in an iOS bundle, run on the bundle's own package: Core ML is the reference interpreter in its clothes."""

from __future__ import annotations

import importlib.util
import platform
import runpy
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeq.api import export
from edgeq.core.report import Verdict
from edgeq.runtimes.coreml.interpreter import Interpreter
from edgeq.runtimes.coreml.neural import State
from edgeq.runtimes.coreml.package import import_coremltools, open_package
from runtime_tests.test_format_mutants import replace_bytes, stored
from runtime_tests.test_mutants import forge
from tests.tiny_models import tiny_bert, tiny_llama

TEXT = "The boat left the harbour before the fog had lifted, and nobody on the quay waved. " * 4
ct = import_coremltools()
find_spec = importlib.util.find_spec


class InterpretedModel:
    """An `MLModel` of one function; its state, as in Core ML, comes from outside."""

    loaded: list[tuple[str, str | None]]

    def __init__(self, path: str, *, compute_units: Any, function_name: str | None = None) -> None:  # noqa: ANN401
        self.loaded.append((compute_units.name, function_name))
        self._interpreter = Interpreter(open_package(Path(path)), threads=1)
        self._name = function_name or next(iter(self._interpreter.package.inputs))

    def get_spec(self) -> Any:  # noqa: ANN401
        return self._interpreter.package.spec

    def make_state(self) -> dict[str, State]:
        self._interpreter.reset()
        return self._interpreter._states

    def predict(self, inputs: dict[str, Any], state: dict[str, State] | None = None) -> dict[str, Any]:
        assert (state is None) == (not self._interpreter.package.states)
        assert set(inputs) == set(self._interpreter.package.inputs[self._name])
        self._interpreter._states = state or {}
        return dict(self._interpreter.run(self._name, inputs))


@pytest.fixture(autouse=True)
def mac(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Mac with coremltools and without edgeq."""
    fake = ModuleType("coremltools")
    fake.__spec__ = ct.__spec__
    fake.ComputeUnit, fake.models = ct.ComputeUnit, SimpleNamespace(MLModel=InterpretedModel)  # type: ignore[attr-defined]
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "edgeq" else find_spec(name))
    monkeypatch.setattr(InterpretedModel, "loaded", [], raising=False)
    monkeypatch.setattr("edgeq.runtimes.coreml.package.import_coremltools", lambda: ct)
    monkeypatch.setitem(sys.modules, "coremltools", fake)


def run_script(bundle: Path) -> int:
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(bundle / "validate_on_mac.py"), run_name="__main__")
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tiny_llama, tmp_path_factory.mktemp("llama"))


def exported(make: Any, directory: Path) -> Path:  # noqa: ANN401 - a maker of tiny models
    (directory / "text.txt").write_text(TEXT)
    source = make(directory / "model")
    report = export(source, target="ios", method="mse", evaluation=directory / "text.txt", output=directory / "bundle")
    assert report.verdict is Verdict.PASSED, report.reason
    return directory / "bundle"


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tiny_bert, tmp_path_factory.mktemp("bert"))


def test_a_generator_passes(llama: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_script(llama) == 0
    assert "verdict: passed on the golden cases" in capsys.readouterr().out
    assert InterpretedModel.loaded == [("CPU_AND_GPU", "prefill"), ("CPU_AND_GPU", "decode")]


def test_an_encoder_passes(bert: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_script(bert) == 0
    assert "verdict: passed on the golden cases" in capsys.readouterr().out


def test_doubled_scales_fail_even_where_the_list_of_files_is_forged(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Path(shutil.copytree(llama, tmp_path / "bundle"))
    scales = stored(bundle, "scales")
    replace_bytes(bundle, scales, (np.frombuffer(scales, np.float16) * np.float16(2)).tobytes())
    assert run_script(bundle) == 1
    assert "weight.bin is missing or was changed" in capsys.readouterr().out
    assert InterpretedModel.loaded == []
    forge(bundle)
    assert run_script(bundle) == 1
    assert "its logits are off by" in capsys.readouterr().out
