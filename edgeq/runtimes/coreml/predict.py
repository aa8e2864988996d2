"""Core ML itself, through coremltools; on a Mac only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.core.target import ComputeUnit
from edgeq.errors import CorruptInputError, RuntimeUnavailableError
from edgeq.runtimes.coreml.package import Package, import_coremltools
from edgeq.runtimes.generation import first_line

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
UNITS: dict[ComputeUnit, str] = {"cpu": "CPU_ONLY", "gpu": "CPU_AND_GPU", "neural_engine": "CPU_AND_NE"}
"""Names of coremltools' `ComputeUnit`; what the unit does not run, the CPU does."""


class PredictExecutor:
    """Each function is one MLModel; all of them share one state."""

    executed_by = "Core ML"

    def __init__(self, package: Package, compute_unit: ComputeUnit) -> None:
        """Raises RuntimeUnavailableError, CorruptInputError where Core ML refuses the package."""
        self.package = package
        self._unit = compute_unit
        several = len(package.inputs) > 1
        self._models = {name: self._load(name if several else None) for name in package.inputs}
        self.reset()

    def run(self, function: str, inputs: Mapping[str, Array]) -> dict[str, Floats]:
        """The function's outputs by name. Raises CorruptInputError where Core ML does not run it."""
        try:
            outputs = self._models[function].predict(dict(inputs), state=self._state)
        except Exception as error:  # the framework's errors share no base class
            raise CorruptInputError(
                f"Core ML does not run {function!r}: {first_line(error)}", remedy="Export the bundle again."
            ) from error
        return {name: np.asarray(value, dtype=np.float32) for name, value in outputs.items()}

    def reset(self) -> None:
        """Set all states to zero. Raises RuntimeUnavailableError on systems that have none."""
        self._state: Any = None
        if not self.package.states:
            return
        try:
            self._state = next(iter(self._models.values())).make_state()
        except Exception as error:
            raise RuntimeUnavailableError(
                f"Core ML makes no state here: {first_line(error)}", remedy="Use macOS 15 or later."
            ) from error

    def _load(self, function: str | None) -> Any:  # noqa: ANN401 - coremltools has no types
        coremltools = import_coremltools()
        try:
            units = getattr(coremltools.ComputeUnit, UNITS[self._unit])
            return coremltools.models.MLModel(str(self.package.path), compute_units=units, function_name=function)
        except Exception as error:
            raise CorruptInputError(
                f"Core ML refuses {self.package.path.name}: {first_line(error)}", remedy="Export the bundle again."
            ) from error
