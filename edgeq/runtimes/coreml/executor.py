"""Who executes a package: Core ML itself on a Mac, the reference interpreter elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgeq.core.target import ComputeUnit
from edgeq.runtimes.coreml.package import Package, open_package
from edgeq.runtimes.coreml.predict import PredictExecutor

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]


class Executor(Protocol):
    """Runs functions of one package, whose states live until they are reset."""

    executed_by: str
    package: Package

    def run(self, function: str, inputs: Mapping[str, Array]) -> dict[str, Floats]:
        """The function's outputs by name."""

    def reset(self) -> None:
        """Set all states to zero."""


def open_executor(path: Path, *, compute_unit: ComputeUnit, threads: int = 0) -> Executor:
    """The package at `path` in what runs it here. `compute_unit` is for Core ML, `threads` for the interpreter; 0: one
    per core.

    Raises CorruptInputError, UnsafeInputError, RuntimeUnavailableError, UnsupportedModelError.
    """
    package = open_package(path)
    if sys.platform == "darwin":
        return PredictExecutor(package, compute_unit)
    from edgeq.runtimes.coreml.interpreter import Interpreter

    return Interpreter(package, threads=threads)
