"""A store in memory: what the lowering reads of one, over the parameters of any torch module."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from torch import nn

from edgeq.core.model import ModelInfo, Task, WeightInfo
from edgeq.core.recipe import Plan
from edgeq.core.scheme import Scheme
from edgeq.core.tensor import QuantizedTensor
from edgeq.quantization.stage import as_matrix
from edgeq.store import QuantizedModel, encode_quantized
from tests.oracles.rtn import round_to_nearest

Arrays = dict[str, npt.NDArray[Any]]


class MemoryStore:
    """Quantizes the parameters that `schemes` names, keeps the others as they are; `as_store` is what to pass on.

    Parameters that are not the weight of a `torch.nn.Linear` or `Embedding` lie as `[inputs, outputs]`, like
    transformers' Conv1D. A scheme of 16 bits stores float16.
    """

    def __init__(self, module: nn.Module, schemes: dict[str, Scheme], task: Task = "feature-extraction") -> None:
        convolutions = {f"{n}.weight" for n, part in module.named_modules() if isinstance(part, nn.Conv2d)}
        usual = {f"{n}.weight" for n, part in module.named_modules() if isinstance(part, (nn.Linear, nn.Embedding))}
        self.values: Arrays = {name: value.detach().numpy().copy() for name, value in module.named_parameters()}
        self.schemes = schemes
        self.weights_digest = "none"
        self.plan = Plan(assignments={})
        first = {id(value): name for name, value in module.named_parameters()}
        every = dict(module.named_parameters(remove_duplicate=False))
        weights = {
            name: WeightInfo(
                name=name,
                shape=value.shape,
                dtype="F32",
                role="other" if name not in schemes else "convolution" if name in convolutions else "linear",
                input_axis=int(name in usual | convolutions),
            )
            for name, value in self.values.items()
        }
        self.info = ModelInfo(
            source="memory",
            revision="1",
            task=task,
            architecture="Memory",
            model_type="memory",
            parameters=sum(value.size for value in self.values.values()),
            weights=weights,
            tied={name: first[id(value)] for name, value in every.items() if name not in self.values},
            licence=None,
        )

    @property
    def as_store(self) -> QuantizedModel:
        return cast("QuantizedModel", self)

    def scheme(self, name: str) -> Scheme | None:
        scheme = self.schemes.get(name)
        return None if scheme is None or scheme.is_float else scheme

    def quantization(self, name: str) -> Scheme:
        return self.schemes[name]

    def floating_dtype(self, name: str) -> np.dtype[Any]:
        return np.dtype(np.float16) if name in self.schemes else self.values[name].dtype

    def floating(self, name: str) -> npt.NDArray[Any]:
        return self.values[name].astype(self.floating_dtype(name))

    def quantized(self, name: str) -> QuantizedTensor:
        tensor = round_to_nearest(
            np.ascontiguousarray(as_matrix(self.values[name], self.info.weights[name])), self.schemes[name]
        )
        if tensor.scheme.scale_dtype == "float32":
            return tensor
        return replace(tensor, scales=tensor.scales.astype(np.float16).astype(np.float32))

    def packed(self, name: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any] | None]:
        arrays = encode_quantized(name, self.quantized(name)).arrays
        return arrays[f"{name}.codes"], arrays[f"{name}.scales"], arrays.get(f"{name}.zero_points")

    def dequantized(self, name: str) -> npt.NDArray[np.float32]:
        if self.scheme(name) is None:
            return self.floating(name).astype(np.float32)
        weights = self.quantized(name).dequantize()
        weight = self.info.weights[name]
        return weights.reshape(weight.shape) if weight.input_axis == 1 else np.ascontiguousarray(weights.T)
