"""What the interpreter refuses, keeps, shares and rounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.errors import CorruptInputError, UnsupportedModelError
from edgeq.runtimes.coreml.interpreter import Interpreter
from edgeq.runtimes.coreml.package import open_package
from tests.runtimes.coreml import models
from tests.runtimes.coreml.programs import Array, function, ints, save

X: Array = np.random.default_rng(7).normal(size=(2, 3)).astype(np.float32)


def _one(path: Path, build: Any, x: Array = X, **options: Any) -> Path:  # noqa: ANN401 - coremltools has no types
    return save(path / "model.mlpackage", {"main": function({"x": x}, build, names=["y"], **options)})


def test_an_operation_that_is_not_known_is_refused_by_its_name(tmp_path: Path) -> None:
    from coremltools.converters.mil.mil import Builder as mb  # noqa: N813

    path = _one(tmp_path, lambda given: [mb.cast(x=mb.non_zero(x=given["x"]), dtype="fp32")])
    with pytest.raises(UnsupportedModelError, match="lacks the Core ML operation non_zero"):
        Interpreter(open_package(path))


def test_an_index_out_of_range_is_told_with_its_operation(tmp_path: Path) -> None:
    from coremltools.converters.mil.mil import Builder as mb  # noqa: N813

    path = _one(
        tmp_path, lambda given: [mb.gather(x=X, indices=given["x"], axis=0, name="look")], np.zeros(2, np.int32)
    )
    interpreter = Interpreter(open_package(path))
    np.testing.assert_array_equal(interpreter.run("main", {"x": ints([1, 0])})["y"], X[[1, 0]])
    for wrong in (2, -1):
        with pytest.raises(CorruptInputError, match="gather 'look' does not run"):
            interpreter.run("main", {"x": ints([0, wrong])})


def test_an_input_of_another_shape_is_told(tmp_path: Path) -> None:
    from coremltools.converters.mil.mil import Builder as mb  # noqa: N813

    path = _one(tmp_path, lambda given: [mb.relu(x=given["x"])])
    with pytest.raises(CorruptInputError, match="where the program says"):
        Interpreter(open_package(path)).run("main", {"x": X[:1]})


def test_an_input_that_nobody_gives_is_told(tmp_path: Path) -> None:
    from coremltools.converters.mil.mil import Builder as mb  # noqa: N813

    path = _one(tmp_path, lambda given: [mb.relu(x=given["x"])])
    with pytest.raises(CorruptInputError, match="it takes x, which nobody gives it"):
        Interpreter(open_package(path)).run("main", {})


def _accumulate(given: dict[str, Any]) -> list[Any]:
    from coremltools.converters.mil.mil import Builder as mb  # noqa: N813

    total = mb.add(x=mb.read_state(input=given["total"]), y=mb.cast(x=given["x"], dtype="fp16"))
    return [mb.coreml_update_state(state=given["total"], value=total)]


def test_states_are_kept_rounded_to_float16_until_a_reset(tmp_path: Path) -> None:
    interpreter = Interpreter(open_package(_one(tmp_path, _accumulate, states={"total": (2, 3)})))
    expected = np.zeros((2, 3), dtype=np.float16)
    for _ in range(5):
        expected = (expected.astype(np.float32) + X.astype(np.float16).astype(np.float32)).astype(np.float16)
        np.testing.assert_array_equal(interpreter.run("main", {"x": X})["y"], expected)
    interpreter.reset()
    np.testing.assert_array_equal(interpreter.run("main", {"x": X})["y"], X.astype(np.float16))


def _squared(given: dict[str, Any]) -> list[Any]:
    from coremltools.converters.mil.mil import Builder as mb  # noqa: N813

    half = mb.cast(x=given["x"], dtype="fp16")
    return [mb.mul(x=mb.mul(x=half, y=half), y=np.float16(0.5))]


def test_float16_is_computed_in_float32_unless_it_is_to_be_rounded(tmp_path: Path) -> None:
    package = open_package(_one(tmp_path, _squared))
    half = X.astype(np.float16)
    wide = half.astype(np.float32) ** 2 * 0.5
    np.testing.assert_array_equal(Interpreter(package).run("main", {"x": X})["y"], wide)
    rounded = Interpreter(package, round_halves=True).run("main", {"x": X})["y"]
    np.testing.assert_array_equal(rounded, half * half * np.float16(0.5))


def test_rounding_shows_what_overflows(tmp_path: Path) -> None:
    package = open_package(_one(tmp_path, _squared))
    large = {"x": np.full((2, 3), 300, dtype=np.float32)}
    assert np.isfinite(Interpreter(package).run("main", large)["y"]).all()
    assert np.isinf(Interpreter(package, round_halves=True).run("main", large)["y"]).all()


def test_weights_are_unpacked_once_for_all_functions_and_their_codes_let_go(tmp_path: Path) -> None:
    interpreter = Interpreter(open_package(models.save_generator(tmp_path / "model.mlpackage")))
    compiled = [interpreter._functions[name] for name in ("decode", "prefill")]
    weights = [
        {id(value) for value in item.slots if getattr(value, "shape", None) == (models.VOCABULARY, models.WIDTH)}
        for item in compiled
    ]
    assert len(weights[0]) == 2
    assert weights[0] == weights[1]


def test_values_are_freed_after_their_last_use(tmp_path: Path) -> None:
    interpreter = Interpreter(open_package(models.save_decoder(tmp_path / "model.mlpackage")))
    compiled = interpreter._functions["decode"]
    written = {output.slot for step in compiled.steps for output in step.outputs}
    freed = {slot for step in compiled.steps for slot in step.dead}
    assert written - freed == set(compiled.outputs.values())
