"""The reference interpreter: a saved package's program, operation by operation in torch. It is not Core ML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edgeq.runtimes.coreml.neural import State
from edgeq.runtimes.coreml.package import Package
from edgeq.runtimes.coreml.program import Compiled, Compiler

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]


class Interpreter:
    """Computes in float32 on weights rounded as they are stored and on float16 states.

    `round_halves`: round every float16 result to float16, too, which shows what overflows; neither is what a Neural
    Engine computes.
    """

    executed_by = "reference (MIL interpreter)"

    def __init__(self, package: Package, *, threads: int = 0, round_halves: bool = False) -> None:
        """Raises UnsupportedModelError where an operation is not known, CorruptInputError."""
        if threads:
            torch.set_num_threads(threads)
        self.package = package
        compiler = Compiler(package.path, round_halves=round_halves)
        self._functions: dict[str, Compiled] = {
            name: compiler.compile(package.function(name)) for name in package.inputs
        }
        self.reset()

    def run(self, function: str, inputs: Mapping[str, Array]) -> dict[str, Floats]:
        """The function's outputs by name, float32. Raises CorruptInputError where an operation does not run."""
        outputs = self._functions[function].run(inputs, self._states)
        return {name: np.asarray(value.numpy(), dtype=np.float32) for name, value in outputs.items()}

    def reset(self) -> None:
        """Set all states to zero."""
        self._states = {name: State(shape, torch.float16) for name, shape in self.package.states.items()}
