"""The model's inputs and outputs: names, shapes, and what the graph derives from them once for all layers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import torch

from edgeq.core.model import ModelInfo
from edgeq.core.task import TASKS
from edgeq.lowering.onnx.graph import GraphBuilder
from edgeq.lowering.patches import Table

LOWEST = float(np.finfo(np.float32).min)
BATCH, SEQUENCE, PAST, TOTAL = "batch_size", "sequence_length", "past_sequence_length", "total_sequence_length"


class Signature:
    """Inputs by the name that the captured graph knows; caches by layer.

    Text generation derives position ids, kept positions and lengths from `input_ids`, `attention_mask` and
    `num_logits_to_keep`, so that an app passes only those and the cache.
    """

    def __init__(self, info: ModelInfo, graph: GraphBuilder, tables: list[Table]) -> None:
        self.graph = graph
        self.is_language_model = info.task == "text-generation"
        self.inputs: dict[str, ir.Value] = {}
        self.given: list[ir.Value] = []
        self.caches: dict[int, tuple[ir.Value, ir.Value]] = {}
        self.presents: dict[int, tuple[ir.Value, ir.Value]] = {}
        self.cache_shapes: dict[int, tuple[int, int]] = {}
        self._tables = tables
        self._rotary: dict[int, tuple[ir.Value, ir.Value]] = {}
        self._lengths: tuple[ir.Value, ir.Value] | None = None
        self._masks: dict[str, ir.Value] = {}
        if self.is_language_model:
            self._declare_language_model()

    def declare(self, name: str, axes: list[str | int], dtype: ir.DataType = ir.DataType.INT64) -> ir.Value:
        """A graph input."""
        value = ir.Value(name=name, shape=ir.Shape(axes), type=ir.TensorType(dtype))
        self.given.append(value)
        self.inputs[name] = value
        return value

    def _declare_language_model(self) -> None:
        graph = self.graph
        ids = self.declare("input_ids", [BATCH, SEQUENCE])
        mask = self.declare("attention_mask", [BATCH, TOTAL])
        keep = self.declare("num_logits_to_keep", [])
        length = graph.dimension(ids, 1)
        # positions of the new tokens: how many real tokens came before each
        counted = graph.op("CumSum", mask, graph.constant(np.array(1, dtype=np.int64)))
        newest = graph.op(
            "Slice", counted, graph.op("Neg", length), graph.int64(np.iinfo(np.int64).max), graph.int64(1)
        )
        first = graph.constant(np.array(0, dtype=np.int64))
        one = graph.constant(np.array(1, dtype=np.int64))
        self.inputs["position_ids"] = graph.op("Max", graph.op("Sub", newest, one), first)
        # logits of the last `num_logits_to_keep` positions, of all for 0 and where there are no more
        scalar = graph.op("Squeeze", length)
        fewer = graph.op("Max", graph.op("Sub", scalar, keep), first)
        start = graph.op("Where", graph.op("Equal", keep, first), first, fewer)
        self.inputs["kept_positions"] = graph.op("Range", start, scalar, one)

    def cache(self, layer: int, heads: int, key_size: int, value_size: int) -> tuple[ir.Value, ir.Value]:
        """Past keys and values of a layer, float `[batch, heads, past, size]`."""
        self.cache_shapes[layer] = (heads, key_size)
        self.caches[layer] = tuple(  # type: ignore[assignment]
            ir.Value(
                name=f"past_key_values.{layer}.{part}",
                shape=ir.Shape([BATCH, heads, PAST, size]),
                type=ir.TensorType(self.graph.float_type),
            )
            for part, size in (("key", key_size), ("value", value_size))
        )
        return self.caches[layer]

    def present(self, layer: int, key: ir.Value, value: ir.Value) -> None:
        """What a layer's cache becomes."""
        for part, output, past in zip(("key", "value"), (key, value), self.caches[layer], strict=True):
            output.name = f"present.{layer}.{part}"
            assert past.shape is not None  # noqa: S101 - declared with one
            output.shape = ir.Shape([BATCH, past.shape[1], TOTAL, past.shape[3]])
            output.type = past.type
        self.presents[layer] = (key, value)

    def lengths(self) -> tuple[ir.Value, ir.Value]:
        """What GroupQueryAttention reads off the mask, int32: last real position `[batch]`, total length `[]`."""
        if self._lengths is None:
            graph, mask = self.graph, self.inputs["attention_mask"]
            counted = graph.op("ReduceSum", mask, graph.int64(1), attributes={"keepdims": 0})
            last = graph.op("Sub", counted, graph.int64(1))
            total = graph.op("Squeeze", graph.dimension(mask, 1))
            int32 = {"to": int(ir.DataType.INT32)}
            self._lengths = (graph.op("Cast", last, attributes=int32), graph.op("Cast", total, attributes=int32))
        return self._lengths

    def key_padding_mask(self) -> ir.Value | None:
        """MultiHeadAttention's mask: int32 `[batch, sequence]`, 1 where a position counts; None where all do."""
        if "attention_mask" not in self.inputs:
            return None
        if "padding" not in self._masks:
            int32 = {"to": int(ir.DataType.INT32)}
            self._masks["padding"] = self.graph.op("Cast", self.inputs["attention_mask"], attributes=int32)
        return self._masks["padding"]

    def attention_bias(self) -> ir.Value | None:
        """The same as what is added to the scores, float `[batch, 1, sequence, sequence]`."""
        if "attention_mask" not in self.inputs:
            return None
        if "every" not in self._masks:
            graph, allowed = self.graph, self._allowed_keys()
            length = graph.dimension(allowed, 3)
            shape = graph.op("Concat", graph.int64(1, 1), length, graph.int64(1), attributes={"axis": 0})
            self._masks["every"] = graph.op("Expand", self._added(allowed), shape)
        return self._masks["every"]

    def causal_bias(self, window: int) -> ir.Value:
        """What is added to the scores of new tokens where a position sees the `window` last ones, or all before it for
        0, and no padding: float `[batch, 1, sequence, total]`."""
        name = f"causal {window}"
        if name not in self._masks:
            graph, one, axis = self.graph, self.graph.constant(np.array(1, dtype=np.int64)), self.graph.int64(-1)
            allowed = self._allowed_keys()
            total = graph.op("Squeeze", graph.dimension(self.inputs["attention_mask"], 1))
            new = graph.op("Squeeze", graph.dimension(self.inputs["input_ids"], 1)) if self.is_language_model else total
            keys = graph.op("Range", graph.constant(np.array(0, dtype=np.int64)), total, one)
            queries = graph.op("Unsqueeze", graph.op("Range", graph.op("Sub", total, new), total, one), axis)
            seen = graph.op("LessOrEqual", keys, queries)
            if window:
                oldest = graph.op("Sub", queries, graph.constant(np.array(window, dtype=np.int64)))
                seen = graph.op("And", seen, graph.op("Greater", keys, oldest))
            self._masks[name] = self._added(graph.op("And", allowed, seen))
        return self._masks[name]

    def _allowed_keys(self) -> ir.Value:
        """The mask as bool `[batch, 1, 1, total]`."""
        allowed = self.graph.op("Cast", self.inputs["attention_mask"], attributes={"to": int(ir.DataType.BOOL)})
        return self.graph.op("Unsqueeze", allowed, self.graph.int64(1, 2))

    def _added(self, allowed: ir.Value) -> ir.Value:
        nothing, lowest = (self.graph.scalar(number, torch.float32) for number in (0.0, LOWEST))
        return self.graph.op("Where", allowed, nothing, lowest)

    def rotary_table(self, index: int) -> tuple[ir.Value, ir.Value]:
        """Cosines and sines, float `[context, size / 2]`."""
        if index not in self._rotary:
            cos, sin = self._tables[index]
            self._rotary[index] = (
                self.graph.constant(cos, name=f"rotary_{index}_cos"),
                self.graph.constant(sin, name=f"rotary_{index}_sin"),
            )
        return self._rotary[index]

    def graph_inputs(self) -> list[ir.Value]:
        return self.given + [value for layer in sorted(self.caches) for value in self.caches[layer]]

    def graph_outputs(self, results: list[ir.Value], info: ModelInfo) -> list[ir.Value]:
        """The results under their public names, then the caches."""
        names = [TASKS[info.task].output]
        if info.task == "feature-extraction":
            names = [*names, "last_hidden_state"][info.pooling == "none" :]
        for name, result in zip(names, results, strict=False):
            result.name, result.type = name, ir.TensorType(ir.DataType.FLOAT)
        return results + [value for layer in sorted(self.presents) for value in self.presents[layer]]
