"""The script that a Mac runs: here against a Core ML of our own that computes the bigram table, chunk by chunk."""

from __future__ import annotations

import importlib.util
import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.bundle.samples import WORDS, bigram_table, encoder_interface, sealed_bundle, stateful_interface

CHUNK = 4
Arrays = dict[str, npt.NDArray[Any]]


class FakeShapes(SimpleNamespace):
    """A description's array: `HasField` says which kind of shape it has."""

    def HasField(self, name: str) -> bool:  # noqa: N802 - protobuf's name
        return hasattr(self, name)


class FakeModel:
    """What the script uses of an `MLModel`. The state is the ids so far; a call must be of the length that it takes."""

    loaded: list[tuple[str, object, str | None]]
    shapes = FakeShapes(shape=[1, CHUNK])
    shift = 0.0

    def __init__(self, path: str, *, compute_units: object, function_name: str | None = None) -> None:
        assert Path(path).is_dir()
        self.loaded.append((Path(path).name, compute_units, function_name))
        self.length = 1 if function_name == "decode" else CHUNK

    def get_spec(self) -> SimpleNamespace:
        value = SimpleNamespace(name="input_ids", type=SimpleNamespace(multiArrayType=self.shapes))
        functions = [SimpleNamespace(name=name, input=[value]) for name in ("prefill", "decode")]
        return SimpleNamespace(description=SimpleNamespace(functions=functions, input=[value]))

    def make_state(self) -> list[int]:
        return []

    def predict(self, inputs: Arrays, state: list[int] | None = None) -> Arrays:
        assert all(array.dtype == np.int32 for array in inputs.values())
        ids = inputs["input_ids"][0]
        table = bigram_table() + self.shift
        if state is None:
            kept = ids[inputs["attention_mask"][0] == 1]
            return {"sentence_embedding": table[kept].mean(axis=0)[None]}
        assert ids.shape == (self.length,)
        last = int(inputs["last"][0]) if "last" in inputs else 0
        assert ("last" in inputs) == (self.length == CHUNK)
        assert inputs["position"].tolist() == [len(state)]
        state += ids[: last + 1].tolist()
        return {"logits": table[state[-1]].reshape(1, 1, -1)}


@pytest.fixture
def core_ml(monkeypatch: pytest.MonkeyPatch) -> type[FakeModel]:
    """A Mac with coremltools and without edgeq."""
    units = SimpleNamespace(CPU_ONLY="cpu", CPU_AND_GPU="gpu", CPU_AND_NE="neural engine")
    fake = ModuleType("coremltools")
    fake.ComputeUnit, fake.models = units, SimpleNamespace(MLModel=FakeModel)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "coremltools", fake)
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "edgeq" else object())
    monkeypatch.setattr(FakeModel, "loaded", [], raising=False)
    return FakeModel


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("generator")
    interface = stateful_interface("coreml")
    return sealed_bundle(work, work / "bundle", surface="ios", format="coreml", interface=interface)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("encoder")
    return sealed_bundle(work, work / "bundle", surface="ios", format="coreml", interface=encoder_interface())


def script(bundle: Path) -> ModuleType:
    spec = importlib.util.spec_from_loader("validate_on_mac", loader=None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    path = bundle / "validate_on_mac.py"
    module.__file__ = str(path)
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), module.__dict__)  # noqa: S102 - our own file
    return module


def test_generator_passes_in_chunks_and_steps(
    generator: Path, core_ml: type[FakeModel], capsys: pytest.CaptureFixture[str]
) -> None:
    assert script(generator).main() == 0
    assert core_ml.loaded == [("model.mlpackage", "gpu", "prefill"), ("model.mlpackage", "gpu", "decode")]
    assert "passed on the golden cases" in capsys.readouterr().out


def test_end_of_the_context_goes_in_single_steps(generator: Path, core_ml: type[FakeModel], tmp_path: Path) -> None:
    del core_ml
    bundle = Path(shutil.copytree(generator, tmp_path / "bundle"))
    module = script(bundle)
    manifest = json.loads((bundle / "edgeq.json").read_text())
    manifest["interface"]["context_length"] = 6
    logits = module.Model(manifest).logits([2, 3, 4, 5, 6, 7])
    np.testing.assert_allclose(logits, bigram_table()[7], rtol=1e-6)
    assert len(logits) == len(WORDS)


def test_encoder_is_padded_to_the_length_it_takes(
    encoder: Path, core_ml: type[FakeModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = [SimpleNamespace(shape=[1, length]) for length in (2, 8, 16)]
    for shapes in (
        FakeShapes(shape=[1, 16]),
        FakeShapes(shape=[1, 2], enumeratedShapes=SimpleNamespace(shapes=lengths)),
        FakeShapes(shape=[1, 2], shapeRange=SimpleNamespace(sizeRanges=[None, SimpleNamespace(lowerBound=2)])),
    ):
        monkeypatch.setattr(FakeModel, "shapes", shapes)
        assert script(encoder).main() == 0
    assert core_ml.loaded[0] == ("model.mlpackage", "gpu", None)


@pytest.mark.parametrize("shift", [50.0, float("nan")])
def test_other_numbers_fail(
    generator: Path,
    encoder: Path,
    core_ml: type[FakeModel],
    shift: float,
    capsys: pytest.CaptureFixture[str],
) -> None:
    core_ml.shift = shift
    try:
        for bundle in (generator, encoder):
            assert script(bundle).main() == 1
            assert "verdict: failed in Core ML" in capsys.readouterr().out
    finally:
        core_ml.shift = 0.0


def test_changed_files_and_missing_cases_fail(
    generator: Path, core_ml: type[FakeModel], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Path(shutil.copytree(generator, tmp_path / "bundle"))
    (bundle / "LICENSE").write_text("other")
    assert script(bundle).main() == 1
    assert "LICENSE is missing or was changed" in capsys.readouterr().out
    assert core_ml.loaded == []
    module = script(generator)
    assert list(module.compare(None, {"cases": [], "tolerance": 0})) == [
        "there are no golden cases: the bundle was exported without validation"
    ]


def test_goes_on_to_edgeq_where_it_is_installed(
    generator: Path, core_ml: type[FakeModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    del core_ml
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> SimpleNamespace:
        commands.append(command)
        return SimpleNamespace(returncode=1)

    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(subprocess, "run", run)
    assert script(generator).main() == 1
    assert commands == [[sys.executable, "-m", "edgeq", "validate", str(generator), "--require"]]


def test_without_core_ml_or_coremltools_nothing_is_claimed(
    generator: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    assert script(generator).main() == 3
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert script(generator).main() == 3
    assert capsys.readouterr().out.count("verdict: not validated") == 2


def test_script_imports_what_a_mac_has(generator: Path) -> None:
    text = (generator / "validate_on_mac.py").read_text()
    assert "import edgeq" not in text
    assert "torch" not in text
