"""One torch module through capture and translation into an ONNX Runtime session: the harness of the converter tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass
from torch import nn
from torch.export import Dim, ExportedProgram

from edgeq.core.model import Task
from edgeq.core.scheme import Scheme
from edgeq.lowering.capture import CapturedModel
from edgeq.lowering.onnx.external_data import ExternalData
from edgeq.lowering.onnx.graph import MICROSOFT, GraphBuilder
from edgeq.lowering.onnx.model import CONVERTERS, IR_VERSION, OPSET
from edgeq.lowering.onnx.signature import Signature
from edgeq.lowering.onnx.translator import Translator, decompose_unsupported
from edgeq.lowering.onnx.weights import Weights
from edgeq.lowering.patches import Table
from edgeq.progress import SilentProgress
from tests.lowering.memory_store import MemoryStore

Array = npt.NDArray[Any]
Sizes = Mapping[str, int]
TRACED: Sizes = {"b": 2, "s": 6, "t": 7}
OTHER: Sizes = {"b": 3, "s": 5, "t": 4}


@dataclass(frozen=True)
class Given:
    """An input: axes that are names are dynamic. Values are uniform in `[low, high)`, or `literal`.

    `padded` is an attention mask `[b, s]` whose row i ends in i zeros.
    """

    dtype: torch.dtype
    shape: tuple[int | str, ...]
    low: float = -2.0
    high: float = 2.0
    literal: tuple[Any, ...] | None = None
    padded: bool = False

    def make(self, sizes: Sizes, generator: torch.Generator) -> torch.Tensor:
        if self.literal is not None:
            return torch.tensor(self.literal, dtype=self.dtype)
        if self.padded:
            return torch.ones(sizes["b"], sizes["s"], dtype=self.dtype).tril(sizes["s"] - sizes["b"]).flip(0)
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


def attention_mask() -> Given:
    return Given(torch.int64, ("b", "s"), padded=True)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A module, or a function of tensors, and the operators that its graph must contain.

    `schemes` quantize parameters by name. A module that torch itself cannot run has a method `reference`.
    """

    name: str
    operators: tuple[Any, ...]
    module: nn.Module | Callable[..., Any]
    inputs: tuple[Given, ...]
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
    """`graph_targets` are the operators before torch decomposed any; `module` holds the dequantized weights."""

    session: ort.InferenceSession
    op_types: list[str]
    graph_targets: frozenset[Any]
    module: nn.Module

    def run(self, tensors: list[torch.Tensor]) -> list[Array]:
        types = ("tensor(float16)", torch.float32, torch.float16)
        by_position = {
            given.name: (t.to(types[2]) if (given.type, t.dtype) == types[:2] else t).numpy()
            for given, t in zip(self.session.get_inputs(), tensors, strict=True)
        }
        outputs: list[Array] = self.session.run(None, by_position)
        return outputs

    def expected(self, tensors: list[torch.Tensor]) -> list[Array]:
        """What torch gives."""
        with torch.no_grad():
            result = getattr(self.module, "reference", self.module)(*[tensor.clone() for tensor in tensors])
        return [part.numpy() for part in ([result] if isinstance(result, torch.Tensor) else result)]


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


@dataclass(frozen=True)
class Translation:
    """A translated module before it is saved."""

    signature: Signature
    translator: Translator
    data: ExternalData
    store: MemoryStore
    results: list[ir.Value]

    def save(self, directory: Path) -> Path:
        """`model.onnx` with every result as an output, and the presents of the caches."""
        builder, signature = self.signature.graph, self.signature
        presents = [value for pair in signature.presents.values() for value in pair]
        outputs = [builder.op("Identity", result) for result in self.results] + presents
        opsets = {"": OPSET, MICROSOFT: 1}
        graph = ir.Graph(signature.graph_inputs(), outputs, nodes=builder.nodes, opset_imports=opsets)
        for name, value in (builder.initializers | self.data.values).items():
            if value.uses():
                graph.initializers[name] = value
        model = ir.Model(graph, ir_version=IR_VERSION)
        RemoveUnusedNodesPass()(model)
        if self.data.values:
            self.data.write(SilentProgress())
        path = directory / "model.onnx"
        ir.save(model, path)
        return path


def translate(
    program: ExportedProgram,
    module: nn.Module,
    case: Case,
    directory: Path,
    task: Task = "feature-extraction",
    *,
    half: bool = False,
    web: bool = False,
) -> Translation:
    """What `lower` does with a captured model. An encoder's inputs are those of the case."""
    captured = captured_from(decompose_unsupported(program, CONVERTERS), case.tables)
    schemes = {name: replace(scheme, scale_dtype="float16") for name, scheme in case.schemes.items()}
    store = MemoryStore(module, schemes if half else case.schemes, task)
    data = ExternalData(directory)
    builder = GraphBuilder(half=half, web=web)
    signature = Signature(store.info, builder, captured.tables)
    if task == "feature-extraction":
        for name, given in zip(captured.program.graph_signature.user_inputs, case.inputs, strict=True):
            signature.declare(str(name), list(given.shape), builder.type_of(given.dtype))
    weights = Weights(store.as_store, data, 1, half=half)
    translator = Translator(captured, weights, signature, CONVERTERS)
    return Translation(signature, translator, data, store, translator.run())


def convert(case: Case, directory: Path, *, half: bool = False, web: bool = False) -> Converted:
    """Export, translate, save into `directory`, open."""
    module = case.module if isinstance(case.module, nn.Module) else Function(case.module)
    randomize(module.eval())
    program = export(module, case.inputs, make_inputs(case, TRACED))
    translation = translate(program, module, case, directory, half=half, web=web)
    path = translation.save(directory)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(torch.from_numpy(translation.store.dequantized(name)))
    return Converted(
        session=open_session(path),
        op_types=[node.op_type for node in ir.load(path).graph],
        graph_targets=frozenset(node.target for node in program.graph.nodes),
        module=module,
    )


def randomize(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0.0, 0.5, generator=generator)


def open_session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
