"""A growing ONNX graph: nodes, constants and casts, with the bookkeeping that every converter needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

MICROSOFT = "com.microsoft"
Attribute = int | float | str | Sequence[int] | Sequence[str] | ir.Graph
Attributes = Mapping[str, Attribute]
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
LARGEST_HALF, SMALLEST_HALF = np.float32(65504), np.float32(2.0**-24)


class GraphBuilder:
    """Nodes in order, and the small constants that are stored inside the model file.

    half: what is float32 in torch is float16 in the graph, except while `precise` is set. web: for ONNX Runtime's build
    for browsers, which lacks some kernels.
    """

    def __init__(self, *, half: bool = False, web: bool = False) -> None:
        self.half, self.web = half, web
        self.precise = False
        self.nodes: list[ir.Node] = []
        self.initializers: dict[str, ir.Value] = {}
        self._constants: dict[tuple[bytes, str, tuple[int, ...]], ir.Value] = {}
        self.scope = ""

    @property
    def float_type(self) -> ir.DataType:
        """What torch's float32 is in the graph now."""
        return ir.DataType.FLOAT16 if self.half and not self.precise else ir.DataType.FLOAT

    def type_of(self, dtype: torch.dtype) -> ir.DataType:
        """What a torch dtype is in the graph now."""
        return self.float_type if dtype == torch.float32 else DTYPES[dtype]

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
        """A constant inside the model file, float32 as what it is in the graph; equal constants are stored once."""
        if array.dtype == np.float32 and self.float_type == ir.DataType.FLOAT16:
            array = halved(array)
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
        return self.op("Cast", value, attributes={"to": int(self.type_of(dtype))})

    def dimension(self, value: ir.Value, axis: int) -> ir.Value:
        """The length of one axis, int64 `[1]`."""
        return self.op("Shape", value, attributes={"start": axis, "end": axis + 1})


def halved(array: npt.NDArray[np.generic]) -> npt.NDArray[np.float16]:
    """float32 constants as float16: finite numbers stay finite, such as the minimum that masks add, and what is not
    zero stays so, such as the epsilon that divisions are guarded with."""
    values = array.astype(np.float32)
    fitted = np.where(np.isinf(values), values, np.clip(values, -LARGEST_HALF, LARGEST_HALF))
    is_lost = (values != 0) & (np.abs(values) < SMALLEST_HALF)
    half: npt.NDArray[np.float16] = np.where(is_lost, np.copysign(SMALLEST_HALF, values), fitted).astype(np.float16)
    return half
