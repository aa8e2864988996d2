"""A plain module in ONNX Runtime: tensors in, tensors out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.core.artifact import Interface
from edgeq.errors import UsageError
from edgeq.runtimes.generation import Model
from edgeq.runtimes.onnxruntime import open_session

Array = npt.NDArray[Any]


class TensorModel(Model):
    """`run` takes arrays by input name and gives arrays by output name."""

    def __init__(self, model_path: Path, interface: Interface, *, threads: int = 0) -> None:
        """threads 0: one per core. Raises CorruptInputError, RuntimeUnavailableError."""
        self.interface = interface
        self._session = open_session(model_path, threads=threads)
        self._inputs = {spec.name: spec for spec in interface.tensors[: len(interface.inputs)]}

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Raises UsageError for a name, a shape or a type that the module was not exported with."""
        if set(inputs) != set(self._inputs):
            raise UsageError(
                f"The module takes {', '.join(self._inputs)}, not {', '.join(inputs) or 'nothing'}.",
                remedy="Pass an array for each input by its name.",
            )
        for name, values in inputs.items():
            self._check(name, values)
        outputs = self._session.run(list(self.interface.outputs), dict(inputs))
        return dict(zip(self.interface.outputs, outputs, strict=True))

    def _check(self, name: str, values: Array) -> None:
        spec = self._inputs[name]
        fits = len(values.shape) == len(spec.shape) and all(
            isinstance(wanted, str) or wanted == size for wanted, size in zip(spec.shape, values.shape, strict=True)
        )
        if not fits or np.dtype(spec.dtype) != values.dtype:
            shape = ", ".join(map(str, spec.shape))
            raise UsageError(
                f"The input {name!r} is {values.dtype} {values.shape}, and the module takes {spec.dtype} [{shape}].",
                remedy="Convert it, or export the module with such inputs.",
            )
