"""A graph of its own from a picture of any size to what a model of images takes: scaled, cut, normalised.

`Resize` of uint8 with its weights normalised over the picture alone is Pillow's, a level apart at most, but where
Pillow scales the height first. Decoding a file stays the platform's: the extensions' decoder ends the process at a file
that is neither PNG nor JPEG.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeq.core.images import ImageInput, Resizing
from edgeq.lowering.onnx.graph import Attributes, GraphBuilder
from edgeq.lowering.onnx.model import IR_VERSION, OPSET

PICTURE_FILE = "preprocess.onnx"
PICTURE, PIXEL_VALUES = "picture", "pixel_values"
MODES = {"bilinear": "linear", "bicubic": "cubic"}
CUBIC = -0.5
"""Pillow's coefficient; ONNX's own is -0.75."""


def picture_model(image: ImageInput, resizing: Resizing) -> ir.Model:
    """`picture`, uint8 `[height, width, channels]`, to `pixel_values`, float32 `[1, channels, height, width]`."""
    graph = GraphBuilder()
    graph.scope = "picture"
    picture = ir.Value(
        name=PICTURE, type=ir.TensorType(ir.DataType.UINT8), shape=ir.Shape(["height", "width", image.channels])
    )
    planes = graph.op("Unsqueeze", graph.op("Transpose", picture, attributes={"perm": [2, 0, 1]}), graph.int64(0))
    size = _scaled_size(graph, picture, resizing)
    attributes: Attributes = {
        "mode": MODES[resizing.resample],
        "antialias": 1,
        "exclude_outside": 1,
        "coordinate_transformation_mode": "half_pixel",
        "cubic_coeff_a": CUBIC,
    }
    whole = graph.op("Concat", graph.int64(1, image.channels), size, attributes={"axis": 0})
    scaled = graph.op("Resize", planes, None, None, whole, attributes=attributes)
    first = graph.op("Div", graph.op("Sub", size, graph.int64(image.height, image.width)), graph.int64(2))
    last = graph.op("Add", first, graph.int64(image.height, image.width))
    cut = graph.op("Slice", scaled, first, last, graph.int64(2, 3))
    values = graph.op("Cast", cut, attributes={"to": int(ir.DataType.FLOAT)})
    result = _normalized(graph, values, image)
    result.name, result.type = PIXEL_VALUES, ir.TensorType(ir.DataType.FLOAT)
    result.shape = ir.Shape([1, image.channels, image.height, image.width])
    return ir.Model(
        ir.Graph(
            [picture],
            [result],
            nodes=graph.nodes,
            initializers=list(graph.initializers.values()),
            opset_imports={"": OPSET},
            name=graph.scope,
        ),
        ir_version=IR_VERSION,
        producer_name="edgeq",
    )


def _scaled_size(graph: GraphBuilder, picture: ir.Value, resizing: Resizing) -> ir.Value:
    """`[height, width]` before the cut."""
    edges = graph.int64(*resizing.edges)
    if len(resizing.edges) == 2:
        return edges
    size = graph.op("Shape", picture, attributes={"start": 0, "end": 2})
    shorter = graph.op("ReduceMin", size, attributes={"keepdims": 1})
    return graph.op("Div", graph.op("Mul", size, edges), shorter)


def _normalized(graph: GraphBuilder, values: ir.Value, image: ImageInput) -> ir.Value:
    mean, std = (np.array(part, dtype=np.float32).reshape(-1, 1, 1) for part in (image.mean, image.std))
    scaled = graph.op("Mul", values, graph.constant(np.array([image.scale], dtype=np.float32)))
    return graph.op("Div", graph.op("Sub", scaled, graph.constant(mean)), graph.constant(std))
