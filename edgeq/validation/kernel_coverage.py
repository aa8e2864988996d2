"""The gate on kernels: no product of an artifact may be one that its runtime computes by rebuilding the weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeq.core.report import Gate
from edgeq.targets.kernels import FALLBACK, Product, native_kernel, remedy
from edgeq.validation.gates import same
from edgeq.validation.onnx_weights import load_graph
from edgeq.validation.subject import Subject

OPERATOR = "MatMulNBits"
FLOAT_TYPES = (1, 10)
"""float32 and float16, as ONNX numbers them."""


def kernel_gates(subject: Subject) -> tuple[Gate, ...]:
    """How many products have a native kernel, of all there are; empty where none is quantized.

    For ONNX Runtime's CPU provider. Quantized convolutions are no products here: constants alone go into their
    unpacking, which is done once, when the model loads. In browsers WebAssembly has no such kernels at all, XNNPACK
    takes or leaves a product when ExecuTorch lowers it, and Core ML decides on the device. Raises CorruptInputError.
    """
    return gate_of(products(subject.model)) if subject.format == "onnx" else ()


def gate_of(found: Mapping[str, Product]) -> tuple[Gate, ...]:
    """The gate on products by their nodes' names, none where there are none."""
    if not found:
        return ()
    slow = [name for name, product in found.items() if native_kernel(product) is None]
    reason = ""
    if slow:
        first = found[slow[0]]
        reason = f"{slow[0]} ({first.label()}) has no native kernel: {FALLBACK}; {remedy(first)}"
    every = f"{len(found)} of {len(found)}"
    return (same("native_kernels", f"{len(found) - len(slow)} of {len(found)}", every, reason),)


def products(model: Path) -> dict[str, Product]:
    """Products with quantized weights by the node's name. Raises CorruptInputError where the model cannot be read."""
    graph = load_graph(model)
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    return {node.name or node.output[0]: _product(node, types) for node in graph.node if node.op_type == OPERATOR}


def _product(node: Any, types: dict[str, int]) -> Product:  # noqa: ANN401 - an ONNX node
    numbers = {attribute.name: int(attribute.i) for attribute in node.attribute}
    inputs = list(node.input)
    zero_points, column_order = (inputs[index] if len(inputs) > index else "" for index in (3, 4))
    return Product(
        bits=numbers.get("bits", 4),
        block_size=numbers.get("block_size", 0),
        accuracy_level=numbers.get("accuracy_level", 0),
        float_zero_points=types.get(zero_points) in FLOAT_TYPES,
        column_order=bool(column_order),
    )
