"""The gate on kernels: no product of an artifact may be one that its runtime computes by rebuilding the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, assert_never

from edgeq.core.report import Gate, Verdict
from edgeq.targets.kernels import (
    FALLBACKS,
    KERNELS,
    NEURAL_ENGINE_FALLBACK,
    PORTABLE,
    PORTABLE_FALLBACK,
    REBUILDING,
    Product,
    Runtime,
    native_kernel,
    remedy,
)
from edgeq.validation.executorch_weights import NAMED, read_program
from edgeq.validation.gates import same
from edgeq.validation.onnx_weights import load_graph
from edgeq.validation.subject import Subject

NAME = "native_kernels"
OPERATOR = "MatMulNBits"
MATRIX = 2
NEURAL_ENGINE_REMEDY = "export for that unit again, or for the GPU"
PORTABLE_REMEDY = "use --format onnx for this model, or 4 or 8 bits"
FLOAT_TYPES = (1, 10)
"""float32 and float16, as ONNX numbers them."""


def kernel_gates(subject: Subject) -> tuple[Gate, ...]:
    """How many products have a native kernel, of all there are; empty where none is quantized.

    Quantized convolutions are no products here: constants alone go into their unpacking, which is done once, when the
    model loads. A browser's bundle is judged by its profile's execution providers. Raises CorruptInputError, and
    RuntimeUnavailableError where reading a `.pte` takes a package that is not there.
    """
    match subject.format:
        case "onnx":
            return gate_of(products(subject.model), ("onnxruntime",))
        case "transformersjs":
            found = {
                f"{name} in {variant}": product
                for variant, model in subject.models().items()
                for name, product in products(model).items()
            }
            return gate_of(found, subject.execution_providers)
        case "executorch":
            return program_gate(slow_calls(read_program(subject.model).program), _delegated(subject))
        case "coreml":
            return neural_engine_gate(subject.weights) if subject.compute_unit == "neural_engine" else ()
        case _:
            assert_never(subject.format)


def gate_of(found: Mapping[str, Product], runtimes: Sequence[Runtime]) -> tuple[Gate, ...]:
    """The gate on products by their nodes' names, none where there are none.

    One of the runtimes must have a kernel for each, unless none of them has any at all: then no other choice of bits
    would help. What another runtime rebuilds is said, and fails nothing.
    """
    if not found:
        return ()
    slow = {one: [name for name, product in found.items() if not native_kernel(product, one)] for one in runtimes}
    able = [one for one in runtimes if KERNELS[one]]
    nowhere = [name for name in found if all(name in slow[one] for one in runtimes)]
    every, value = f"{len(found)} of {len(found)}", f"{len(found) - len(nowhere)} of {len(found)}"
    if nowhere and able:
        return (same(NAME, value, every, _said(nowhere, found, able[0])),)
    finding = "; ".join(f"on {one}, {_said(names, found, one)}" for one, names in slow.items() if names)
    limit = None if nowhere else every
    return (Gate(name=NAME, value=value, limit=limit, verdict=Verdict.PASSED, reason=finding),)


def _said(slow: Sequence[str], found: Mapping[str, Product], runtime: Runtime) -> str:
    first = found[slow[0]]
    names = f"{slow[0]} ({first.label()})" + (f" and {len(slow) - 1} more have" if len(slow) > 1 else " has")
    return f"{names} no native kernel: {FALLBACKS[runtime]}; {remedy(first, runtime)}"


def program_gate(slow: Sequence[str], delegated: int) -> tuple[Gate, ...]:
    """The gate on an ExecuTorch program: calls with weights that are not XNNPACK's, beside the products that are."""
    total = delegated + len(slow)
    if not total:
        return ()
    reason = f"{slow[0]} computes with stored weights: {PORTABLE_FALLBACK}; {PORTABLE_REMEDY}" if slow else ""
    return (same(NAME, f"{delegated} of {total}", f"{total} of {total}", reason),)


def neural_engine_gate(weights: Mapping[str, Any]) -> tuple[Gate, ...]:
    """The gate on a package for Core ML's Neural Engine, by its weights' entries in the manifest."""
    slow = [
        name for name, one in weights.items() if one["group_size"] is not None and one["group_size"] < one["shape"][1]
    ]
    every = f"{len(weights)} of {len(weights)}"
    size = weights[slow[0]]["group_size"] if slow else None
    reason = f"{slow[0]} has groups of {size}: {NEURAL_ENGINE_FALLBACK}; {NEURAL_ENGINE_REMEDY}" if slow else ""
    return (same(NAME, f"{len(weights) - len(slow)} of {len(weights)}", every, reason),) if weights else ()


def slow_calls(program: Any) -> list[str]:  # noqa: ANN401 - executorch has no types
    """Calls that multiply with stored weights or widen them outside of delegates, by operator and place."""
    found = []
    for plan in program.execution_plan:
        calls = [one.instr_args for chain in plan.chains for one in chain.instructions]
        for place, call in enumerate(calls):
            if not hasattr(call, "op_index"):
                continue
            operator = plan.operators[call.op_index].name
            is_slow = operator in PORTABLE or any(part in operator for part in REBUILDING)
            if is_slow and any(_is_stored(plan.values[index].val) for index in call.args):
                found.append(f"{plan.name}: {operator}, instruction {place}")
    return found


def _is_stored(value: Any) -> bool:  # noqa: ANN401 - executorch has no types
    """Whether a value is a matrix or more that lies in the file."""
    return len(getattr(value, "sizes", ())) >= MATRIX and getattr(value, "data_buffer_idx", 0) > 0


def _delegated(subject: Subject) -> int:
    """Matrices that XNNPACK multiplies with."""
    return sum(1 for one in subject.weights.values() if str(one["codes"]).startswith(NAMED))


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
