"""How Core ML's torch frontend converts this package's operators, for the time of one conversion."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY
from coremltools.converters.mil.mil import Builder, types
from coremltools.converters.mil.mil.ops.defs._utils import promote_input_dtypes

from edgeq.lowering.coreml.constants import Constants, padded_inputs
from edgeq.lowering.coreml.operators import NAMESPACE
from edgeq.store import QuantizedModel

Value = Any  # coremltools has no types
TINIEST_PEAK = 1e-4


class Converters:
    """One function's conversion: its quantized weights by number, each emitted where it is first used."""

    def __init__(self, store: QuantizedModel, numbers: dict[str, int], constants: Constants) -> None:
        self.store, self.constants = store, constants
        self.names = {number: name for name, number in numbers.items()}
        self.emitted: dict[int, Value] = {}
        self.own: dict[str, Callable[[Any, Any], None]] = {
            f"{NAMESPACE}::linear": self._linear,
            f"{NAMESPACE}::embedding": self._embedding,
            f"{NAMESPACE}::rms_norm": self._rms_norm,
            f"{NAMESPACE}::update_cache": self._update_cache,
            "alias": _alias,
            "gelu": _gelu,
            "where.self": _where,
        }
        """By the names that the frontend has for operators."""

    @contextmanager
    def registered(self) -> Iterator[None]:
        """The torch frontend knows these operators within the block."""
        known = _TORCH_OPS_REGISTRY.name_to_func_mapping
        before = {name: known[name] for name in self.own if name in known}
        known.update(self.own)
        try:
            yield
        finally:
            for name in self.own:
                del known[name]
            known.update(before)

    def _weight(self, number: int) -> Value:
        if number not in self.emitted:
            name = self.names[number]
            self.emitted[number] = self.constants.emit(name, self.store.quantized(name))
        return self.emitted[number]

    def _padding(self, number: int) -> int:
        name = self.names[number]
        inputs = self.store.info.weights[name].outputs_inputs[1]
        return padded_inputs(self.store.quantization(name), inputs) - inputs

    def _linear(self, context: Any, node: Any) -> None:  # noqa: ANN401
        x, bias = context[node.inputs[0]], node.inputs[3]
        number: int = node.inputs[1]
        if padding := self._padding(number):
            x = Builder.pad(x=x, pad=[0, 0] * (x.rank - 1) + [0, padding], mode="constant", constant_val=0.0)
        if bias is None:
            result = Builder.linear(x=x, weight=self._weight(number), name=node.name)
        elif context[bias].val is None:
            product = Builder.linear(x=x, weight=self._weight(number))
            result = Builder.add(x=product, y=context[bias], name=node.name)
        else:
            result = Builder.linear(x=x, weight=self._weight(number), bias=context[bias], name=node.name)
        context.add(result)

    def _embedding(self, context: Any, node: Any) -> None:  # noqa: ANN401
        number: int = node.inputs[1]
        width: int = node.inputs[2]
        ids = context[node.inputs[0]]
        rows = Builder.gather(x=self._weight(number), indices=ids, axis=0, validate_indices=False)
        begin, end = [0] * rows.rank, [0] * (rows.rank - 1) + [width]
        masks = [True] * (rows.rank - 1) + [False]
        if self._padding(number):
            rows = Builder.slice_by_index(x=rows, begin=begin, end=end, end_mask=masks)
        context.add(rows, node.name)

    def _rms_norm(self, context: Any, node: Any) -> None:  # noqa: ANN401
        """Divided by the largest magnitude first, as squares of more than 255 are infinite in float16; the epsilon
        is divided with it: `x / sqrt(mean(x^2) + e) = y / sqrt(mean(y^2) + e / peak^2)`, `y = x / peak`."""
        x, weight, epsilon = context[node.inputs[0]], context[node.inputs[1]], float(node.inputs[2])
        axes = list(range(-weight.rank, 0))
        peak = Builder.maximum(
            x=Builder.reduce_max(x=Builder.abs(x=x), axes=axes, keep_dims=True), y=np.float32(TINIEST_PEAK)
        )
        scaled = Builder.real_div(x=x, y=peak)
        mean = Builder.reduce_mean(x=Builder.mul(x=scaled, y=scaled), axes=axes, keep_dims=True)
        root = Builder.real_div(x=np.float32(epsilon**0.5), y=peak)
        inverse = Builder.rsqrt(x=Builder.add(x=mean, y=Builder.mul(x=root, y=root)), epsilon=np.float32(1e-12))
        context.add(Builder.mul(x=Builder.mul(x=scaled, y=inverse), y=weight, name=node.name))

    def _update_cache(self, context: Any, node: Any) -> None:  # noqa: ANN401
        cache, new, position = (context[name] for name in node.inputs)
        begin = Builder.concat(values=[np.array([0, 0], np.int32), position, np.array([0], np.int32)], axis=0)
        end = Builder.add(x=begin, y=np.array(new.shape, np.int32))
        context.add(Builder.slice_update(x=cache, update=new, begin=begin, end=end, name=node.name))


def _alias(context: Any, node: Any) -> None:  # noqa: ANN401
    context.add(context[node.inputs[0]], node.name)


def _gelu(context: Any, node: Any) -> None:  # noqa: ANN401
    """coremltools reads the approximation by position only, and ignores it, silently, where it has a name."""
    named = (node.kwinputs or {}).get("approximate", [])
    (approximate,) = [*node.inputs[1:], *named] or ["none"]
    mode = {"none": "EXACT", "tanh": "TANH_APPROXIMATION"}[approximate]
    context.add(Builder.gelu(x=context[node.inputs[0]], mode=mode, name=node.name))


def _where(context: Any, node: Any) -> None:  # noqa: ANN401
    """coremltools takes the result's shape from the two values alone, even where the condition has a larger one."""
    condition, *values = (context[name] for name in node.inputs)
    x, y = promote_input_dtypes(values)
    if condition.shape not in (x.shape, y.shape):
        ones = Builder.cast(x=condition, dtype=types.builtin_to_string(x.dtype))
        x = Builder.add(x=x, y=Builder.mul(x=ones, y=types.nptype_from_builtin(x.dtype)(0)))
    context.add(Builder.select(cond=condition, a=x, b=y, name=node.name))
