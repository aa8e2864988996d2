"""What coremltools' converter is made to do, and who is named where it does not: the program is run operation by
operation and compared with torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY
from torch import nn

from edgeq.errors import UnsupportedModelError
from edgeq.lowering.coreml import conversion, operators
from edgeq.lowering.coreml.constants import Constants
from edgeq.lowering.coreml.conversion import convert
from edgeq.lowering.coreml.converters import Converters
from edgeq.lowering.coreml.package import PACKAGE, assemble, write_package
from edgeq.runtimes.coreml.interpreter import Interpreter
from edgeq.runtimes.coreml.package import open_package
from edgeq.store import QuantizedModel

VALUES = torch.tensor([[-3.0, -1.5, -0.5, -0.25, 0.5, 0.75, 2.0, 3.5]])
"""Float16 holds them, so that what differs is the operation."""


class Function(nn.Module):
    def __init__(self, function: Any) -> None:  # noqa: ANN401 - of one tensor
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.function(x)
        return result


def converters() -> Converters:
    return Converters(cast("QuantizedModel", None), {}, Constants("gpu"))


def interpreted(directory: Path, function: Any, x: torch.Tensor, longest: int | None = None) -> npt.NDArray[Any]:  # noqa: ANN401
    constants = Constants("gpu")
    own = Converters(cast("QuantizedModel", None), {}, constants)
    write_package(assemble({"main": convert(Function(function), (x,), longest, "y", own)}, constants), directory)
    package = open_package(directory / PACKAGE)
    (name,) = package.inputs["main"]
    return Interpreter(package, threads=1).run("main", {name: x.numpy()})["y"]


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_s_approximation_is_the_one_that_is_named(tmp_path: Path, approximate: str) -> None:
    """The two are 4e-4 apart, so that a float32 comparison tells them apart."""

    def gelu(x: torch.Tensor) -> torch.Tensor:
        return nn.functional.gelu(x, approximate=approximate)

    np.testing.assert_allclose(interpreted(tmp_path, gelu, VALUES), gelu(VALUES), atol=1e-6)


@pytest.mark.parametrize("longest", [None, 16])
def test_a_condition_larger_than_both_values_gives_its_shape(tmp_path: Path, longest: int | None) -> None:
    def where(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x > 0, torch.tensor(0.5), torch.tensor(-2.0))

    np.testing.assert_array_equal(interpreted(tmp_path, where, VALUES, longest), where(VALUES))


def test_values_as_large_as_the_condition_are_chosen_from(tmp_path: Path) -> None:
    def where(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x > 0, x, torch.tensor(1.0))

    np.testing.assert_array_equal(interpreted(tmp_path, where, VALUES), where(VALUES))


def test_division_is_not_a_product_with_a_rounded_inverse(tmp_path: Path) -> None:
    found = interpreted(tmp_path, lambda x: x / 30.0, VALUES)
    np.testing.assert_allclose(found, VALUES / 30.0, rtol=1e-6)


def test_an_operator_that_is_not_known_is_named() -> None:
    with pytest.raises(UnsupportedModelError, match=r"Core ML \(NotImplementedError: .*special_bessel_j0"):
        convert(Function(torch.special.bessel_j0), (VALUES,), None, "y", converters())


def test_an_operator_that_coremltools_stumbles_over_is_named_and_its_error_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stumble(_context: object, _node: object) -> None:
        raise AttributeError("'str' object has no attribute 'val'")

    monkeypatch.setitem(_TORCH_OPS_REGISTRY.name_to_func_mapping, "tanh", stumble)
    with pytest.raises(UnsupportedModelError, match=r"could not convert tanh .*AttributeError: 'str'") as caught:
        convert(Function(torch.tanh), (VALUES,), None, "y", converters())
    assert isinstance(caught.value.__cause__, AttributeError)


@pytest.mark.parametrize("error", [KeyError("layer"), ValueError("shapes"), TypeError("two arguments")])
def test_a_defect_of_our_own_converters_is_not_called_the_model_s(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_self: object, _context: object, _node: object) -> None:
        raise error

    monkeypatch.setattr(Converters, "_rms_norm", fail)
    module = Function(lambda x: operators.rms_norm(x, torch.ones(8), 1e-6))
    with pytest.raises(type(error)) as caught:
        convert(module, (VALUES,), None, "y", converters())
    assert caught.value is error


def test_a_defect_outside_of_any_operator_is_not_called_the_model_s(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise TypeError("no pipeline")

    monkeypatch.setattr(conversion, "_pipeline", fail)
    with pytest.raises(TypeError, match="no pipeline"):
        convert(Function(torch.tanh), (VALUES,), None, "y", converters())


def test_what_torch_does_not_trace_is_refused_and_our_own_defects_are_not() -> None:
    def branches(x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x

    with pytest.raises(UnsupportedModelError, match="torch could not trace"):
        convert(Function(branches), (VALUES,), None, "y", converters())

    def defective(_x: torch.Tensor) -> torch.Tensor:
        raise KeyError("layer")

    with pytest.raises(KeyError, match="layer"):
        convert(Function(defective), (VALUES,), None, "y", converters())
