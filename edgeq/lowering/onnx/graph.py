"""A growing ONNX graph: nodes, constants and casts, with the bookkeeping that every converter needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

MICROSOFT = "com.microsoft"
Attributes = Mapping[str, int | float | str | Sequence[int]]
DTYPES = {
    torch.float32: ir.DataType.FLOAT,
    torch.float16: ir.DataType.FLOAT16,
    torch.bfloat16: ir.DataType.BFLOAT16,
    torch.float64: ir.DataType.DOUBLE,
    torch.int64: ir.DataType.INT64,
    torch.int32: ir.DataType.INT32,
    torch.int8: ir.DataType.INT8,
    torch.uint8: ir.DataType.UINT8,
    torch.bool: ir.DataType.BOOL,
}


class GraphBuilder:
    """Nodes in order, and the small constants that are stored inside the model file."""

    def __init__(self) -> None:
        self.nodes: list[ir.Node] = []
        self.initializers: dict[str, ir.Value] = {}
        self._constants: dict[tuple[bytes, str, tuple[int, ...]], ir.Value] = {}
        self.scope = ""

    def op(
        self,
        op_type: str,
        *inputs: ir.Value | None,
        attributes: Attributes | None = None,
        domain: str = "",
    ) -> ir.Value:
        """Append a node with one output."""
        return self.multi_op(op_type, *inputs, outputs=1, attributes=attributes, domain=domain)[0]

    def multi_op(
        self,
        op_type: str,
        *inputs: ir.Value | None,
        outputs: int,
        attributes: Attributes | None = None,
        domain: str = "",
    ) -> tuple[ir.Value, ...]:
        """Append a node with several outputs."""
        name = f"{self.scope}/{op_type}_{len(self.nodes)}"
        node = ir.node(
            op_type, list(inputs), attributes=dict(attributes or {}), domain=domain, num_outputs=outputs, name=name
        )
        for index, output in enumerate(node.outputs):
            output.name = f"{name}:{index}"
        self.nodes.append(node)
        return tuple(node.outputs)

    def constant(self, array: npt.NDArray[np.generic], name: str | None = None) -> ir.Value:
        """A constant inside the model file; equal constants are stored once."""
        key = (array.tobytes(), str(array.dtype), array.shape)
        if key not in self._constants:
            tensor = ir.tensor(array, name=name or f"constant_{len(self._constants)}")
            value = ir.Value(
                name=tensor.name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
            )
            self._constants[key] = value
            self.initializers[str(tensor.name)] = value
        return self._constants[key]

    def int64(self, *numbers: int) -> ir.Value:
        """A rank-1 int64 constant."""
        return self.constant(np.array(numbers, dtype=np.int64))

    def scalar(self, number: float | bool, dtype: torch.dtype) -> ir.Value:
        """A rank-0 constant of a torch dtype."""
        return self.constant(np.array(number, dtype=DTYPES[dtype].numpy()))

    def cast(self, value: ir.Value, dtype: torch.dtype) -> ir.Value:
        return self.op("Cast", value, attributes={"to": int(DTYPES[dtype])})

    def dimension(self, value: ir.Value, axis: int) -> ir.Value:
        """The length of one axis, int64 `[1]`."""
        return self.op("Shape", value, attributes={"start": axis, "end": axis + 1})
