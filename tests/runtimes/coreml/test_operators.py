"""Every operation, saved, read back and interpreted, against numpy and against what coremltools infers itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.runtimes.coreml.interpreter import Interpreter
from edgeq.runtimes.coreml.operators import OPERATORS
from edgeq.runtimes.coreml.package import open_package
from tests.runtimes.coreml import compression_cases, elementwise_cases, neural_cases, shape_cases
from tests.runtimes.coreml.programs import Array, Case, function, save

CASES = elementwise_cases.CASES + shape_cases.CASES + neural_cases.CASES + compression_cases.CASES
NAMES = [f"{case.op}_{index}" for index, case in enumerate(CASES)]
PAIRS = list(zip(NAMES, CASES, strict=True))
STATEFUL = {"read_state", "coreml_update_state"}


def _arrays(case: Case, index: int) -> dict[str, Array]:
    """The tensors of a case by the name of the input that carries them; coremltools takes no booleans there."""
    found: dict[str, Array] = {}
    for name, value in case.tensors.items():
        for place, array in enumerate(value if isinstance(value, list) else [value]):
            found[f"{name}_{index}_{place}"] = array.astype(np.int32) if array.dtype == bool else array
    return found


def _build(case: Case, index: int, given: dict[str, Any]) -> list[Any]:
    from coremltools.converters.mil.mil import Builder as mb  # noqa: N813

    def operand(name: str, place: int, array: Array) -> Any:  # noqa: ANN401 - coremltools has no types
        value = given[f"{name}_{index}_{place}"]
        return mb.cast(x=value, dtype="bool") if array.dtype == bool else value

    tensors = {
        name: [operand(name, place, array) for place, array in enumerate(value)]
        if isinstance(value, list)
        else operand(name, 0, value)
        for name, value in case.tensors.items()
    }
    result = getattr(mb, case.op)(**tensors, **case.settings)
    return list(result) if isinstance(result, (list, tuple)) else [result]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Array]:
    """What the interpreter makes of one program that holds all cases."""
    inputs = {name: array for index, case in enumerate(CASES) for name, array in _arrays(case, index).items()}
    names = [
        f"{name}_out_{place}"
        for name, case in zip(NAMES, CASES, strict=True)
        for place in range(len(case.expected) if isinstance(case.expected, tuple) else 1)
    ]

    def build(given: dict[str, Any]) -> list[Any]:
        return [value for index, case in enumerate(CASES) for value in _build(case, index, given)]

    directory: Path = tmp_path_factory.mktemp("operators")
    path = save(directory / "all.mlpackage", {"main": function(inputs, build, names=names)})
    return dict(Interpreter(open_package(path)).run("main", inputs))


@pytest.mark.parametrize(("name", "case"), PAIRS, ids=NAMES)
def test_agrees_with_numpy(name: str, case: Case, results: dict[str, Array]) -> None:
    expected = case.expected if isinstance(case.expected, tuple) else (case.expected,)
    for place, wanted in enumerate(expected):
        got = results[f"{name}_out_{place}"]
        assert got.shape == np.shape(wanted)
        np.testing.assert_allclose(got, np.asarray(wanted, dtype=np.float64), rtol=1e-5, atol=case.atol)


def _inferred(case: Case) -> list[Array] | None:
    """What coremltools computes for constants, None where it does not."""
    from coremltools.converters.mil.mil import Builder as mb  # noqa: N813
    from coremltools.converters.mil.mil import Function

    from tests.runtimes.coreml.programs import ct

    with Function({}, opset_version=ct.target.iOS18):
        tensors = {
            name: [mb.const(val=array) for array in value] if isinstance(value, list) else mb.const(val=value)
            for name, value in case.tensors.items()
        }
        result = getattr(mb, case.op)(**tensors, **case.settings)
    values = [variable.val for variable in (result if isinstance(result, (list, tuple)) else [result])]
    return None if any(value is None for value in values) else [np.asarray(value) for value in values]


@pytest.mark.parametrize(("name", "case"), PAIRS, ids=NAMES)
def test_agrees_with_coremltools_where_it_infers_values(name: str, case: Case, results: dict[str, Array]) -> None:
    inferred = _inferred(case) if case.infers else None
    for place, wanted in enumerate(inferred or ()):
        np.testing.assert_allclose(results[f"{name}_out_{place}"], wanted.astype(np.float64), rtol=1e-4, atol=1e-5)


def test_every_operation_has_a_case() -> None:
    assert OPERATORS.keys() - {case.op for case in CASES} == STATEFUL
