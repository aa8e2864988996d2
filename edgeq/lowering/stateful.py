"""A captured graph as an eager torch module with real weights, so that a format's own exporter can trace it again.

One capture serves every format: where the graph holds edgeq's opaque operators, the format's kernels are called, which
own the quantized weights and the key-value cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import fx, nn

from edgeq.core.tensor import QuantizedTensor
from edgeq.lowering import operators
from edgeq.lowering.capture import CapturedModel
from edgeq.lowering.patches import rotate_half
from edgeq.store import QuantizedModel

aten: Any = torch.ops.aten
LINEARS = (operators.linear, aten.linear.default)
PRODUCTS = {aten.mm.default: 1, aten.matmul.default: 1, aten.addmm.default: 2}
"""Matrix products by where their right side is among the arguments."""
TRANSPOSES = (aten.t.default, aten.numpy_T.default, aten.transpose.int, aten.permute.default)


@dataclass(frozen=True, kw_only=True)
class AttentionCall:
    """What one attention computes. `scale` multiplies the scores; `window` 0 and `softcap` 0.0 mean none."""

    layer: int
    scale: float
    window: int
    softcap: float
    causal: bool


class Kernels(Protocol):
    """A format's ways to compute; an `nn.Module` that owns quantized weights and caches. Shapes are float32
    `[1, heads, sequence, size]` for queries, keys and values, which hold the new positions only."""

    def linear(self, name: str, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """`x @ weight.T + bias` for the quantized weight `name` `[outputs, inputs]`."""
        ...

    def embedding(self, name: str, ids: torch.Tensor) -> torch.Tensor:
        """Rows of the quantized table `name`."""
        ...

    def attention(  # noqa: PLR0917 - what the operator takes, in its order
        self,
        call: AttentionCall,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        sinks: torch.Tensor | None,
        inputs: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        """`[1, sequence, heads, size]`. `inputs` are the model's: `position_ids` `[1, sequence]` of a language model,
        whose cache is extended; `attention_mask` `[1, sequence]` of an encoder."""
        ...

    def append_cache(
        self, layer: int, key: torch.Tensor, value: torch.Tensor, inputs: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """For attention that was captured in pieces: the whole cache `[1, heads, context, size]`, whose last positions
        are the new ones (the oldest fall out on the left). `attention_mask` `[1, context]` says which ones count."""
        ...


class Replay(nn.Module):
    """The captured computation, node by node."""

    def __init__(
        self,
        captured: CapturedModel,
        store: QuantizedModel,
        kernels: Kernels,
        functions: Mapping[Any, Callable[..., Any]] | None = None,
    ) -> None:
        """functions: the format's own forms of edgeq's operators that need no weights, by operator."""
        super().__init__()
        assert isinstance(kernels, nn.Module)  # noqa: S101 - the protocol cannot say so
        self.kernels: Any = kernels
        self.captured, self.store = captured, store
        self.graph = captured.program.graph
        self._uses = quantized_uses(captured, store)
        self._keys = {node: f"captured_{node.name}" for node in self.graph.nodes if node.op == "placeholder"}
        self._register_floats()
        for index, table in enumerate(captured.tables):
            for part, values in zip(("cos", "sin"), table, strict=True):
                self.register_buffer(f"rotary_{index}_{part}", torch.from_numpy(np.array(values)), persistent=False)
        self._functions: dict[Any, Callable[..., Any]] = {
            operators.linear: nn.functional.linear,
            operators.rms_norm: _rms_norm,
            operators.rope_tables: self._rope_tables,
            operators.rotary: rotate_half,
            **(functions or {}),
        }
        self._nodes = [node for node in self.graph.nodes if self._is_needed(node)]

    def run(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The first result for the captured graph's own inputs by name, each with a batch of 1."""
        values: dict[fx.Node, Any] = {}
        for node in self.graph.nodes:
            if node.op == "placeholder" and node.name in inputs:
                values[node] = inputs[node.name]
            elif node.op == "placeholder" and hasattr(self, self._keys[node]):
                values[node] = getattr(self, self._keys[node])
        for node in self._nodes:
            values[node] = self._compute(node, values, inputs)
        outputs: Any = self.graph.output_node().args[0]
        result: torch.Tensor = values[outputs[0]]
        return result

    def _compute(self, node: fx.Node, values: dict[fx.Node, Any], inputs: Mapping[str, torch.Tensor]) -> Any:  # noqa: ANN401
        args: Any = fx.map_arg(node.args, values.get)
        kwargs: Any = fx.map_arg(node.kwargs, values.get)
        if node in self._uses:
            return self._quantized(node, args)
        if node.target in (operators.attention, operators.append_cache):
            return self._attend(node, args, inputs)
        function: Any = self._functions.get(node.target, node.target)
        return function(*args, **kwargs)

    def _attend(self, node: fx.Node, args: Any, inputs: Mapping[str, torch.Tensor]) -> Any:  # noqa: ANN401
        if node.target is operators.append_cache:
            key, value, _mask, layer = args
            return self.kernels.append_cache(layer, key, value, inputs)
        query, key, value, sinks, layer, scale, window, softcap, causal = args
        call = AttentionCall(layer=layer, scale=scale, window=window, softcap=softcap, causal=causal)
        return self.kernels.attention(call, query, key, value, sinks, inputs)

    def _quantized(self, node: fx.Node, args: Any) -> Any:  # noqa: ANN401 - fx arguments
        name = self._uses[node]
        if node.target is aten.embedding.default:
            return self.kernels.embedding(name, args[1])
        if node.target is aten.addmm.default:
            return self.kernels.linear(name, args[1], args[0])
        bias = args[2] if node.target in LINEARS and len(args) > 2 else None
        return self.kernels.linear(name, args[0], bias)

    def _rope_tables(self, positions: torch.Tensor, index: int, _width: int) -> tuple[torch.Tensor, ...]:
        tables = [getattr(self, f"rotary_{index}_{part}") for part in ("cos", "sin")]
        rows = [nn.functional.embedding(positions, table) for table in tables]
        return tuple(torch.cat((half, half), dim=-1) for half in rows)

    def _register_floats(self) -> None:
        """Constants, float weights, and quantized ones that something else than a kernel reads, dequantized."""
        for node, key in self._keys.items():
            if node.name in self.captured.constants:
                self.register_buffer(key, self.captured.constants[node.name].detach().clone(), persistent=False)
            elif node.name in self.captured.weight_names and self._needs_float(node):
                values = self.store.dequantized(self.captured.weight_names[node.name])
                self.register_parameter(key, nn.Parameter(torch.from_numpy(np.array(values)), requires_grad=False))

    def _needs_float(self, node: fx.Node) -> bool:
        is_quantized = self.store.is_quantized(self.captured.weight_names[node.name])
        return not is_quantized or _has_other_readers(node, self._uses)

    def _is_needed(self, node: fx.Node) -> bool:
        if node.op != "call_function" or not _has_live_users(node):
            return False
        return not (_is_transpose(node) and node.users and all(user in self._uses for user in node.users))


def dense_weights(captured: CapturedModel, store: QuantizedModel) -> set[str]:
    """Quantized weights that some node reads as a plain tensor, so that no kernel can hold them quantized."""
    uses = quantized_uses(captured, store)
    dense = set()
    for node in captured.program.graph.nodes:
        name = captured.weight_names.get(node.name) if node.op == "placeholder" else None
        if name is None or not store.is_quantized(name):
            continue
        if _has_other_readers(node, uses):
            dense.add(store.info.tied.get(name, name))
    return dense


def quantized_uses(captured: CapturedModel, store: QuantizedModel) -> dict[fx.Node, str]:
    """The nodes that read a quantized weight as a kernel does, with the stored name of that weight."""
    uses: dict[fx.Node, str] = {}
    for node in captured.program.graph.nodes:
        if node.op != "call_function":
            continue
        weight, turned = _matrix_argument(node)
        name = captured.weight_names.get(weight.name) if isinstance(weight, fx.Node) else None
        if name is None or not store.is_quantized(name):
            continue
        stored = store.info.tied.get(name, name)
        product_axis = int(turned) if node.target in PRODUCTS else 1
        if store.info.weights[stored].input_axis == product_axis and not node.kwargs:
            uses[node] = stored
    return uses


def quantized_weight(store: QuantizedModel, name: str) -> QuantizedTensor:
    """The stored codes of a weight, `[outputs, inputs]` whichever way round the module has it."""
    return store.quantized(store.info.tied.get(name, name))


def _rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return nn.functional.rms_norm(x, weight.shape, weight, eps)


def _matrix_argument(node: fx.Node) -> tuple[Any, bool]:
    """What a node takes for its matrix, and whether it does so transposed."""
    arguments: tuple[Any, ...] = node.args
    if node.target in LINEARS:
        return arguments[1], False
    if node.target is aten.embedding.default:
        return arguments[0], False
    if node.target in PRODUCTS:
        right = arguments[PRODUCTS[node.target]]
        return (right.args[0], True) if isinstance(right, fx.Node) and _is_transpose(right) else (right, False)
    return None, False


def _has_other_readers(weight: fx.Node, uses: dict[fx.Node, str]) -> bool:
    """Whether a weight, or its transpose, is read otherwise than by the nodes of `uses`."""
    readers = [reader for user in weight.users for reader in (user.users if _is_transpose(user) else [user])]
    return any(reader not in uses for reader in readers)


def _is_transpose(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return node.target in TRANSPOSES and isinstance(value, torch.Tensor) and value.dim() == 2


def _has_live_users(node: fx.Node) -> bool:
    """Assertions read values that nothing else needs: they are left out, and what only they read too."""
    schema = getattr(node.target, "_schema", None)
    if schema is not None and schema.is_mutable:
        return True
    pending, seen = list(node.users), set()
    while pending:
        user = pending.pop()
        if user.op == "output" or getattr(getattr(user.target, "_schema", None), "is_mutable", False):
            return True
        if user not in seen:
            seen.add(user)
            pending.extend(user.users)
    return False
