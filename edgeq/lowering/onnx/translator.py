"""From a captured torch graph to ONNX: walks the nodes once and asks a converter for each.

A converter is a function `(translator, node) -> value`; the tables of converters are in the sibling modules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import torch
from torch import fx
from torch._ops import OpOverload

from edgeq.errors import UnsupportedModelError
from edgeq.lowering.onnx.linears import LinearGroup, LinearGroups
from edgeq.lowering.onnx.precision import precise_nodes
from edgeq.lowering.quiet import quiet_torch

if TYPE_CHECKING:
    from edgeq.lowering.capture import CapturedModel
    from edgeq.lowering.onnx.signature import Signature
    from edgeq.lowering.onnx.weights import Weights

Result = ir.Value | tuple[ir.Value, ...]
Converter = Callable[["Translator", fx.Node], Result]


class Translator:
    """State of one translation. `values` maps torch nodes to ONNX values; symbolic integers are int64 `[1]`."""

    def __init__(
        self,
        captured: CapturedModel,
        weights: Weights,
        signature: Signature,
        converters: dict[Any, Converter],
    ) -> None:
        self.captured = captured
        self.converters = converters
        self.weights = weights
        self.graph = signature.graph
        self.signature = signature
        self.values: dict[fx.Node, Result] = {}
        self.linears = LinearGroups(captured, weights)
        self.products: dict[LinearGroup, ir.Value] = {}
        self.flat: dict[ir.Value, ir.Value] = {}
        """Values of shape `[batch, sequence, heads, size]` whose `[batch, sequence, heads * size]` form exists."""
        self.halved: dict[fx.Node, ir.Value] = {}
        """First halves of rotary tables that were looked up."""
        self.precise = precise_nodes(captured.program) if self.graph.half else frozenset()
        self._other_precision: dict[tuple[fx.Node, bool], ir.Value] = {}

    def run(self) -> list[ir.Value]:
        """Translate every node; returns the values of the graph's outputs."""
        outputs: list[ir.Value] = []
        for node in self.captured.program.graph.nodes:
            if node.op == "call_function" and not self._is_turned_weight(node):
                self.values[node] = self._convert(node)
            elif node.op == "output":
                self.graph.precise = True  # an app reads float32
                outputs = [self.value(argument) for argument in arguments(node)[0]]
        return outputs

    def _convert(self, node: fx.Node) -> Result:
        self.graph.scope, before = _scope(node), self.graph.precise
        self.graph.precise = node in self.precise
        try:
            return self._placeholder(node) if node.op == "placeholder" else self.converters[node.target](self, node)
        finally:
            self.graph.precise = before

    def _is_turned_weight(self, node: fx.Node) -> bool:
        """A transposed weight waits for its reader: a matrix product takes the weight as it is stored."""
        if not node.args or self.weight_name(node.args[0]) is None:
            return False
        result = node.meta.get("val")
        return isinstance(result, torch.Tensor) and result.dim() == 2

    def value(self, argument: Any, dtype: torch.dtype | None = None) -> ir.Value:  # noqa: ANN401 - an fx argument
        """The ONNX value of a node or number, cast to `dtype` where it has another."""
        if not isinstance(argument, fx.Node):
            return self.graph.scalar(argument, dtype or _number_dtype(argument))
        if argument not in self.values:
            self.values[argument] = self._convert(argument)
        value = self.values[argument]
        assert isinstance(value, ir.Value)  # noqa: S101 - tuples are only read by getitem
        if is_symbolic_number(argument):
            scalar = self.graph.op("Squeeze", value)
            return scalar if dtype is None or dtype == torch.int64 else self.graph.cast(scalar, dtype)
        if dtype is not None and tensor(argument).dtype != dtype:
            return self.graph.cast(value, dtype)
        return self._in_precision(argument, value)

    def _in_precision(self, node: fx.Node, value: ir.Value) -> ir.Value:
        """A float value as wide as those of the node that reads it."""
        wanted = self.graph.precise
        if not self.graph.half or (node in self.precise) == wanted or tensor(node).dtype != torch.float32:
            return value
        if (node, wanted) not in self._other_precision:
            self._other_precision[node, wanted] = self.graph.cast(value, torch.float32)
        return self._other_precision[node, wanted]

    def integer(self, argument: int | fx.Node) -> ir.Value:
        """A Python or symbolic integer as int64 `[1]`."""
        if isinstance(argument, fx.Node):
            value = self.values[argument]
            assert isinstance(value, ir.Value)  # noqa: S101
            return value
        return self.graph.int64(argument)

    def integers(self, numbers: Sequence[int | fx.Node]) -> ir.Value:
        """Python and symbolic integers as one int64 `[n]`."""
        if all(isinstance(argument, int) for argument in numbers):
            return self.graph.int64(*(number for number in numbers if isinstance(number, int)))
        return self.graph.op("Concat", *map(self.integer, numbers), attributes={"axis": 0})

    def weight_name(self, argument: Any) -> str | None:  # noqa: ANN401
        """The parameter that a placeholder stands for, or None."""
        return self.captured.weight_names.get(argument.name) if isinstance(argument, fx.Node) else None

    def reshape(self, value: ir.Value, before: Sequence[Any], after: Sequence[Any], sizes: Sequence[Any]) -> ir.Value:
        """`Reshape` with copied (0) and inferred (-1) axes wherever they suffice, so that no shape is computed.

        Else `sizes` are the lengths; where there are none, axes are looked for among those of `value`.
        """
        if len(before) == len(after) and all(map(_same, before, after)):
            return value
        target: list[int | None] = []
        for axis, size in enumerate(after):
            if isinstance(size, int):
                target.append(size)
            else:
                target.append(0 if axis < len(before) and _same(before[axis], size) else None)
        unknown = [axis for axis, size in enumerate(target) if size is None]
        if len(unknown) == 1:
            target[unknown[0]] = -1
            unknown = []
        if not unknown:
            return self.graph.op("Reshape", value, self.graph.int64(*[size or 0 for size in target]))
        lengths = self.integers(sizes) if sizes else self._lengths(value, before, after)
        return self.graph.op("Reshape", value, lengths)

    def _lengths(self, value: ir.Value, before: Sequence[Any], after: Sequence[Any]) -> ir.Value:
        """The shape `after`, its symbolic axes taken from `value`; one that is none of them is inferred."""
        parts = []
        for size in after:
            if isinstance(size, int):
                parts.append(self.integer(size))
                continue
            axis = next((axis for axis, length in enumerate(before) if _same(length, size)), None)
            parts.append(self.integer(-1) if axis is None else self.graph.dimension(value, axis))
        return self.graph.op("Concat", *parts, attributes={"axis": 0})

    def _float_weight(self, name: str) -> ir.Value:
        if self.weights.scheme(name) is not None:
            raise UnsupportedModelError(
                f"{name} is used otherwise than as the weight of a linear or an embedding.",
                remedy="Keep it at 16 bits with a rule for its name.",
            )
        value = self.weights.floating(name)
        return value if value.dtype == self.graph.float_type else self.graph.cast(value, torch.float32)

    def _placeholder(self, node: fx.Node) -> ir.Value:
        weight = self.weight_name(node)
        if weight is not None:
            return self._float_weight(weight)
        if node.name in self.captured.constants:
            array = self.captured.constants[node.name].detach().numpy()
            return self.graph.constant(np.ascontiguousarray(array), name=node.name)
        return self.signature.inputs[node.name]


def arguments(node: fx.Node) -> tuple[Any, ...]:
    """A node's positional arguments; torch's own type for them is too wide to work with."""
    return node.args


def option(node: fx.Node, position: int, name: str, default: Any) -> Any:  # noqa: ANN401
    """An argument that may be given by position, by name, or not at all."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def tensor(node: Any) -> torch.Tensor:  # noqa: ANN401
    """The fake tensor that torch computed for a node: its shape and dtype."""
    value: torch.Tensor = node.meta["val"]
    return value


def is_symbolic_number(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), (torch.SymInt, int)) and not isinstance(node.meta.get("val"), bool)


def unsupported(program: torch.export.ExportedProgram, converters: dict[Any, Converter]) -> set[Any]:
    """Operators of the graph that no converter knows, and those that write where other nodes look."""
    called = [node for node in program.graph.nodes if node.op == "call_function"]
    return {node.target for node in called if node.target not in converters or _writes_to_shared(node)}


def _writes_to_shared(node: fx.Node) -> bool:
    """An operator in place counts as one with a result only where nobody else holds what it changes."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.is_mutable or node.target == torch.ops.aten.dropout_.default:
        return False  # in evaluation mode dropout writes nothing
    changed: Any = arguments(node)[0]
    made = getattr(changed.target, "_schema", None)
    is_fresh = made is not None and all(result.alias_info is None for result in made.returns)
    return not is_fresh or len(changed.users) > 1


def decompose_unsupported(
    program: torch.export.ExportedProgram, converters: dict[Any, Converter]
) -> torch.export.ExportedProgram:
    """Let torch rewrite the operators that have no converter into simpler ones, as often as that helps.

    Raises UnsupportedModelError naming those that remain.
    """
    missing = unsupported(program, converters)
    while missing:
        known: Any = torch.export.default_decompositions()
        with quiet_torch():
            program = program.run_decompositions({op: rule for op, rule in known.items() if op in missing})
        before, missing = missing, unsupported(program, converters)
        if missing == before:
            names = ", ".join(sorted(str(op) if isinstance(op, OpOverload) else op.__name__ for op in missing))
            raise UnsupportedModelError(
                f"The model uses operators that edgeq cannot write as ONNX yet: {names}.",
                remedy="Add a converter for each to edgeq/lowering/onnx, or report the architecture.",
            )
    return program


def _same(left: Any, right: Any) -> bool:  # noqa: ANN401 - int or SymInt
    if isinstance(left, int) or isinstance(right, int):
        return isinstance(left, int) and isinstance(right, int) and left == right
    return bool(left.node.expr == right.node.expr)


def _number_dtype(number: object) -> torch.dtype:
    if isinstance(number, bool):
        return torch.bool
    return torch.int64 if isinstance(number, int) else torch.float32


def _scope(node: fx.Node) -> str:
    """The module path that made the node, for names that a reader of the graph recognises."""
    stack: dict[str, tuple[str, Any]] = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    return "/" + paths[-1].replace(".", "/") if paths and paths[-1] else ""
