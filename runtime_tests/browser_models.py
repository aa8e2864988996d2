"""Tiny models for browsers, made by hand. None looks up rows in a quantized table: WebAssembly has no kernel for it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeq.core.scheme import Scheme
from runtime_tests import tiny_onnx
from runtime_tests.tiny_onnx import value

HALF_SIZE = 8


def quantized() -> tiny_onnx.Weights:
    scheme = Scheme(bits=4, group_size=32)
    return {name: tiny_onnx.round_to_nearest(weight, scheme) for name, weight in tiny_onnx.random_floats().items()}


def stage(bundle: Path, name: str = "model_q4.onnx", *, chunks: int = 1) -> Path:
    """A bundle's directories and its configuration; the path that the model is to have."""
    (bundle / "onnx").mkdir(parents=True)
    config = {"transformers.js_config": {"use_external_data_format": {name: chunks}}}
    (bundle / "config.json").write_text(json.dumps(config))
    return bundle / "onnx" / name


def save_language_model(bundle: Path) -> Path:
    path = stage(bundle)
    tiny_onnx.save_language_model(path, quantized())
    return look_up_floats(path)


def save_encoder(bundle: Path) -> Path:
    path = stage(bundle)
    tiny_onnx.save_encoder(path, quantized())
    return look_up_floats(path)


def look_up_floats(path: Path) -> Path:
    """Replace the look-up in a quantized table, for which the browsers' WebAssembly has no kernel."""
    model = onnx.load(path)
    for node in model.graph.node:
        if node.op_type == "GatherBlockQuantized":
            table = numpy_helper.from_array(quantized()["embedding"].dequantize(), "table")
            model.graph.initializer.append(table)
            node.CopyFrom(helper.make_node("Gather", ["table", node.input[1]], node.output, axis=0))
    (path.parent / f"{path.name}_data").unlink()
    onnx.save_model(model, path, save_as_external_data=True, location=f"{path.name}_data", size_threshold=128)
    return path


def save_half(bundle: Path, *, logits_type: int = TensorProto.FLOAT) -> Path:
    """The embedding's mean over all tokens so far, in float16 with a float16 cache; the last position only."""
    path = stage(bundle, "model_q4f16.onnx", chunks=0)
    table = numpy_helper.from_array(half_table(), "table")
    shape = numpy_helper.from_array(np.array([1, 1, -1, HALF_SIZE]), "shape")
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["x"]),
        helper.make_node("Reshape", ["x", "shape"], ["rows"]),
        helper.make_node("Concat", ["past_key_values.0.key", "rows"], ["present.0.key"], axis=2),
        helper.make_node("Concat", ["past_key_values.0.value", "rows"], ["present.0.value"], axis=2),
        helper.make_node("ReduceMean", ["present.0.key", "axis"], ["mean"], keepdims=0),
        helper.make_node("Cast", ["mean"], ["logits"], to=logits_type),
    ]
    axis = numpy_helper.from_array(np.array([2]), "axis")
    past: list[str | int] = ["batch_size", 1, "past_sequence_length", HALF_SIZE]
    caches = [value(f"past_key_values.0.{part}", TensorProto.FLOAT16, past) for part in ("key", "value")]
    presents = [
        value(f"present.0.{part}", TensorProto.FLOAT16, ["batch_size", 1, "total_sequence_length", HALF_SIZE])
        for part in ("key", "value")
    ]
    save(
        nodes,
        [value("input_ids", TensorProto.INT64, ["batch_size", "sequence_length"]), *caches],
        [value("logits", logits_type, ["batch_size", 1, HALF_SIZE]), *presents],
        path,
        [table, shape, axis],
    )
    return path


def half_table() -> np.ndarray[tuple[int, ...], np.dtype[np.float16]]:
    rng = np.random.default_rng(3)
    table = (rng.standard_normal((HALF_SIZE, HALF_SIZE)) * 100).astype(np.float16)
    # Numbers whose 16 bits are read by other rules than most: a subnormal, zeros, the largest.
    table[0] = np.array([6e-8, -6e-8, 6e-5, 0.0, -0.0, 65504, -65504, 1.0])
    return table


def save(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    path: Path,
    initializers: list[onnx.TensorProto],
) -> None:
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, initializers)
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


def save_greedy(bundle: Path) -> Path:
    """An encoder that asks for as many floats as the number that it is given says, times a million."""
    path = stage(bundle, chunks=0)
    size = numpy_helper.from_array(np.array([1_000_000]), "million")
    axes = numpy_helper.from_array(np.array([0, 1]), "axes")
    nodes = [
        helper.make_node("ReduceSum", ["input_ids", "axes"], ["count"], keepdims=0),
        helper.make_node("Mul", ["count", "million"], ["floats"]),
        helper.make_node("ConstantOfShape", ["floats"], ["zeros"]),
        helper.make_node("Neg", ["zeros"], ["held"]),
        helper.make_node("ReduceMax", ["held"], ["largest"]),
        helper.make_node("Reshape", ["largest", "one"], ["sentence_embedding"]),
    ]
    one = numpy_helper.from_array(np.array([1, 1]), "one")
    inputs = [value("input_ids", TensorProto.INT64, ["batch_size", "sequence_length"])]
    outputs = [value("sentence_embedding", TensorProto.FLOAT, ["batch_size", 1])]
    save(nodes, inputs, outputs, path, [size, axes, one])
    return path
