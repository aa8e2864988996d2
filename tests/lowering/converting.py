"""One torch module through capture and translation into an ONNX Runtime session: the harness of the converter tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort
import torch
from edgeq.lowering.capture import CapturedModel
from edgeq.lowering.onnx.external_data import ExternalData
from edgeq.lowering.onnx.graph import DTYPES, MICROSOFT, GraphBuilder
from edgeq.lowering.onnx.lowering import CONVERTERS, IR_VERSION, OPSET
from edgeq.lowering.onnx.signature import Signature
from edgeq.lowering.onnx.translator import Translator, decompose_unsupported
from edgeq.lowering.onnx.weights import Weights
from edgeq.lowering.patches import Table
from onnx_ir.passes.common import RemoveUnusedNodesPass
from torch import nn
from torch.export import Dim, ExportedProgram

from edgeq.core.scheme import Scheme
from edgeq.progress import SilentProgress
from tests.lowering.memory_store import MemoryStore

Array = npt.NDArray[Any]
Sizes = Mapping[str, int]
TRACED: Sizes = {"b": 2, "s": 6}
OTHER: Sizes = {"b": 3, "s": 5}


@dataclass(frozen=True)
class Given:
    """An input: axes that are names are dynamic. Values are uniform in `[low, high)`, or `literal`."""

    dtype: torch.dtype
    shape: tuple[int | str, ...]
    low: float = -2.0
    high: float = 2.0
    literal: tuple[Any, ...] | None = None

    def make(self, sizes: Sizes, generator: torch.Generator) -> torch.Tensor:
        if self.literal is not None:
            return torch.tensor(self.literal, dtype=self.dtype)
        shape = [axis if isinstance(axis, int) else sizes[axis] for axis in self.shape]
        if self.dtype.is_floating_point:
            return torch.rand(shape, generator=generator, dtype=self.dtype) * (self.high - self.low) + self.low
        return torch.randint(int(self.low), int(self.high), shape, generator=generator).to(self.dtype)


def floats(*shape: int | str, low: float = -2.0, high: float = 2.0) -> Given:
    return Given(torch.float32, shape, low, high)


def integers(*shape: int | str, low: int = -9, high: int = 10, dtype: torch.dtype = torch.int64) -> Given:
    return Given(dtype, shape, low, high)


def booleans(*shape: int | str) -> Given:
    return Given(torch.bool, shape, 0, 2)


def exactly(*values: Any, dtype: torch.dtype = torch.float32) -> Given:  # noqa: ANN401 - nested tuples of numbers
    return Given(dtype, np.shape(values), literal=values)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A module, or a function of tensors, and the operators that its graph must contain.

    `oracle` stands in for modules that torch itself cannot run; `schemes` quantize parameters by name.
    """

    name: str
    operators: tuple[Any, ...]
    module: nn.Module | Callable[..., Any]
    inputs: tuple[Given, ...]
    oracle: Callable[..., Any] | None = None
    schemes: dict[str, Scheme] = field(default_factory=dict)
    tables: tuple[Table, ...] = ()


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: torch.Tensor) -> Any:  # noqa: ANN401
        return self.function(*tensors)


@dataclass(frozen=True)
class Converted:
    """`graph_targets` are the operators before torch decomposed any."""

    session: ort.InferenceSession
    model: ir.Model
    graph_targets: frozenset[Any]

    def run(self, tensors: list[torch.Tensor]) -> list[Array]:
        names = [given.name for given in self.session.get_inputs()]
        outputs: list[Array] = self.session.run(None, {n: t.numpy() for n, t in zip(names, tensors, strict=True)})
        return outputs

    @property
    def op_types(self) -> list[str]:
        return [node.op_type for node in self.model.graph]


def make_inputs(case: Case, sizes: Sizes) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(sizes["b"] * 100 + sizes["s"])
    return [given.make(sizes, generator) for given in case.inputs]


def export(module: nn.Module, inputs: tuple[Given, ...], tensors: list[torch.Tensor]) -> ExportedProgram:
    """torch.export with every named axis dynamic."""
    axes = tuple({axis: Dim.DYNAMIC for axis, n in enumerate(given.shape) if isinstance(n, str)} for given in inputs)
    dynamic = (axes,) if isinstance(module, Function) else axes
    with torch.no_grad():
        return torch.export.export(module, tuple(tensors), dynamic_shapes=dynamic, strict=False)


def captured_from(program: ExportedProgram, tables: tuple[Table, ...] = ()) -> CapturedModel:
    """What `capture` makes of a transformers model, here of any program."""
    signature = program.graph_signature
    values: dict[str, Any] = {**program.constants, **program.state_dict}
    constants = signature.inputs_to_buffers | signature.inputs_to_lifted_tensor_constants
    return CapturedModel(
        program=program,
        weight_names=dict(signature.inputs_to_parameters),
        constants={placeholder: values[name] for placeholder, name in constants.items()},
        tables=list(tables),
        plain=False,
    )


def convert(case: Case, directory: Path) -> Converted:
    """Export, translate, save into `directory`, open."""
    module = case.module if isinstance(case.module, nn.Module) else Function(case.module)
    program = export(module.eval(), case.inputs, make_inputs(case, TRACED))
    targets = frozenset(node.target for node in program.graph.nodes)
    captured = captured_from(decompose_unsupported(program, CONVERTERS), case.tables)
    store = MemoryStore(module, case.schemes)
    data = ExternalData(directory)
    signature = Signature(store.info, GraphBuilder(), captured.tables)
    given = captured.program.graph_signature.user_inputs
    for name, spec in zip(given, case.inputs, strict=True):
        signature.declare(str(name), list(spec.shape), DTYPES[spec.dtype])
    translator = Translator(captured, Weights(store.as_store, data), signature, CONVERTERS, accuracy_level=1)
    path = _save(signature, translator.run(), data, directory)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return Converted(session, ir.load(path), targets)


def _save(signature: Signature, results: list[ir.Value], data: ExternalData, directory: Path) -> Path:
    builder = signature.graph
    outputs = [builder.op("Identity", result) for result in results]
    graph = ir.Graph(signature.given, outputs, nodes=builder.nodes, opset_imports={"": OPSET, MICROSOFT: 1})
    for name, value in (builder.initializers | data.values).items():
        if value.uses():
            graph.initializers[name] = value
    model = ir.Model(graph, ir_version=IR_VERSION)
    RemoveUnusedNodesPass()(model)
    if data.values:
        data.write(SilentProgress())
    path = directory / "model.onnx"
    ir.save(model, path)
    return path
