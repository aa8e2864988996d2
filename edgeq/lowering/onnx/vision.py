"""Converters of what vision models are made of: convolutions, pooling, norms over channels, padding and resizing.

Images are `[batch, channels, height, width]` with every axis but the first one fixed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import fx

from edgeq.errors import UnsupportedModelError
from edgeq.lowering.onnx.graph import Attributes
from edgeq.lowering.onnx.translator import Converter, Translator, arguments, option, tensor

aten = torch.ops.aten
PAD_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
CUBIC_COEFFICIENT = -0.75
"""torch's; ONNX assumes the same, but only by default."""


def _convolution(t: Translator, node: fx.Node) -> ir.Value:
    """`conv2d(x, weight, bias, stride, padding, dilation, groups)`; padding may be the word "same" or "valid"."""
    x, weight = arguments(node)[:2]
    bias, groups = option(node, 2, "bias", None), option(node, 6, "groups", 1)
    stride, dilation = _two(option(node, 3, "stride", 1)), _two(option(node, 5, "dilation", 1))
    kernel = [int(size) for size in tensor(weight).shape[2:]]
    padding: Any = option(node, 4, "padding", 0)
    pads = _same_pads(kernel, dilation) if padding == "same" else [0] * 4 if padding == "valid" else _pads(padding)
    attributes: Attributes = {
        "kernel_shape": kernel,
        "strides": stride,
        "pads": pads,
        "dilations": dilation,
        "group": int(groups),
    }
    inputs = [t.value(x), _filters(t, weight), *([] if bias is None else [t.value(bias)])]
    return t.graph.op("Conv", *inputs, attributes=attributes)


def _filters(t: Translator, weight: Any) -> ir.Value:  # noqa: ANN401 - an fx argument
    """Float filters. Quantized ones are unpacked by operators on constants alone, which ONNX Runtime computes once,
    when it loads the model; it keeps DequantizeLinear for later and would compute that at each call (1.32.0)."""
    name = t.weight_name(weight)
    if name is None or t.weights.scheme(name) is None:
        return t.value(weight)
    codes, scales, zero_point = t.weights.filters(name)
    integers = t.graph.op("Sub", t.graph.cast(codes, torch.float32), t.graph.scalar(float(zero_point), torch.float32))
    return t.graph.op("Mul", integers, scales)


def _two(value: Any) -> list[int]:  # noqa: ANN401 - an int or a list of one or two
    listed = [value] if isinstance(value, int) else list(value)
    return [int(number) for number in (listed * 2 if len(listed) == 1 else listed)]


def _pads(padding: Any) -> list[int]:  # noqa: ANN401
    return _two(padding) * 2


def _same_pads(kernel: list[int], dilation: list[int]) -> list[int]:
    """What keeps the size; of an odd total torch puts one more behind."""
    totals = [step * (size - 1) for step, size in zip(dilation, kernel, strict=True)]
    return [total // 2 for total in totals] + [total - total // 2 for total in totals]


def _batch_norm(t: Translator, node: fx.Node) -> ir.Value:
    x, weight, bias, mean, variance, training, _, eps, *_ = arguments(node)
    if training:
        raise UnsupportedModelError(
            "The model normalises by the statistics of its batch, so that answers depend on what else is in it.",
            remedy="Use a model whose batch norms are in evaluation mode.",
        )
    return _normalized(t, (x, weight, bias, mean, variance), float(eps))


def _native_batch_norm(t: Translator, node: fx.Node) -> tuple[ir.Value, ...]:
    """The same once torch has taken writing in place out of the graph. Its other results are empty, and never read."""
    *inputs, _, eps = arguments(node)
    return (_normalized(t, tuple(inputs), float(eps)),) * 3


def _normalized(t: Translator, inputs: tuple[Any, ...], eps: float) -> ir.Value:
    x, weight, bias, mean, variance = inputs
    channels = int(tensor(x).shape[1])
    scale = _filled(t, channels, 1.0) if weight is None else t.value(weight)
    shift = _filled(t, channels, 0.0) if bias is None else t.value(bias)
    statistics = [t.value(mean), t.value(variance)]
    return t.graph.op("BatchNormalization", t.value(x), scale, shift, *statistics, attributes={"epsilon": eps})


def _group_norm(t: Translator, node: fx.Node) -> ir.Value:
    """Every group as one channel of an InstanceNormalization; then scale and shift per channel."""
    x, groups = arguments(node)[:2]
    weight, bias, eps = option(node, 2, "weight", None), option(node, 3, "bias", None), option(node, 4, "eps", 1e-5)
    shape = tensor(x).shape
    count = int(groups)
    grouped = t.graph.op("Reshape", t.value(x), t.graph.int64(0, count, -1))
    ones, zeros = _filled(t, count, 1.0), _filled(t, count, 0.0)
    normed = t.graph.op("InstanceNormalization", grouped, ones, zeros, attributes={"epsilon": float(eps)})
    result = t.reshape(normed, (shape[0], count, -1), shape, ())
    axes = t.graph.int64(*range(1, len(shape) - 1))
    if weight is not None:
        result = t.graph.op("Mul", result, t.graph.op("Unsqueeze", t.value(weight), axes))
    return result if bias is None else t.graph.op("Add", result, t.graph.op("Unsqueeze", t.value(bias), axes))


def _filled(t: Translator, size: int, number: float) -> ir.Value:
    return t.graph.constant(np.full(size, number, dtype=np.float32))


def _max_pool(t: Translator, node: fx.Node) -> ir.Value:
    x, kernel = arguments(node)[:2]
    attributes: Attributes = {
        "kernel_shape": _two(kernel),
        "strides": _two(option(node, 2, "stride", None) or kernel),
        "pads": _pads(option(node, 3, "padding", 0)),
        "dilations": _two(option(node, 4, "dilation", 1)),
        "ceil_mode": int(option(node, 5, "ceil_mode", False)),
    }
    return t.graph.op("MaxPool", t.value(x), attributes=attributes)


def _average_pool(t: Translator, node: fx.Node) -> ir.Value:
    x, kernel = arguments(node)[:2]
    if option(node, 6, "divisor_override", None) is not None:
        raise UnsupportedModelError("The model divides a pooled sum by a number.", remedy="Report the architecture.")
    attributes: Attributes = {
        "kernel_shape": _two(kernel),
        "strides": _two(option(node, 2, "stride", None) or kernel),
        "pads": _pads(option(node, 3, "padding", 0)),
        "ceil_mode": int(option(node, 4, "ceil_mode", False)),
        "count_include_pad": int(option(node, 5, "count_include_pad", True)),
    }
    return t.graph.op("AveragePool", t.value(x), attributes=attributes)


def _adaptive_average_pool(t: Translator, node: fx.Node) -> ir.Value:
    """Means over windows of one size: what is left of an axis must divide it."""
    x, asked = arguments(node)[0], arguments(node)[1]
    wanted = [int(size) for size in (asked if isinstance(asked, (list, tuple)) else [asked])]
    lengths = [int(size) for size in tensor(x).shape[-len(wanted) :]]
    if all(size == 1 for size in wanted):
        axes = t.graph.int64(*range(-len(wanted), 0))
        return t.graph.op("ReduceMean", t.value(x), axes, attributes={"keepdims": 1})
    if any(length % size for length, size in zip(lengths, wanted, strict=True)):
        raise UnsupportedModelError(
            f"The model pools {lengths} to {wanted}, in windows of different sizes.",
            remedy="Use images of a size that the model's strides divide.",
        )
    window = [length // size for length, size in zip(lengths, wanted, strict=True)]
    return t.graph.op("AveragePool", t.value(x), attributes={"kernel_shape": window, "strides": window})


def _pad(t: Translator, node: fx.Node) -> ir.Value:
    """torch lists the last axis first, begin and end side by side; negative numbers cut."""
    x, pads = arguments(node)[0], [int(number) for number in arguments(node)[1]]
    mode, number = option(node, 2, "mode", "constant"), option(node, 3, "value", None)
    if not any(pads):
        return t.value(x)
    axes = [-1 - axis for axis in range(len(pads) // 2)]
    inputs = [t.graph.int64(*pads[::2], *pads[1::2])]
    filling = t.value(0 if number is None else number, tensor(node).dtype)
    inputs += [filling, t.graph.int64(*axes)]
    return t.graph.op("Pad", t.value(x), *inputs, attributes={"mode": PAD_MODES[mode]})


def _roll(t: Translator, node: fx.Node) -> ir.Value:
    """The end of each axis goes to its front."""
    value, shifts, dims = t.value(arguments(node)[0]), arguments(node)[1], option(node, 2, "dims", [])
    listed: Any = [shifts] if isinstance(shifts, int) else shifts
    axes: Any = [dims] if isinstance(dims, int) else dims
    shape = tensor(node).shape
    for shift, axis in zip(listed, axes, strict=True):
        length = int(shape[axis])
        cut = (length - int(shift)) % length
        if cut == 0:
            continue
        at, end = t.graph.int64(cut), t.graph.int64(length)
        behind = t.graph.op("Slice", value, at, end, t.graph.int64(int(axis)))
        before = t.graph.op("Slice", value, t.graph.int64(0), at, t.graph.int64(int(axis)))
        value = t.graph.op("Concat", behind, before, attributes={"axis": int(axis)})
    return value


def _resize(mode: str) -> Converter:
    """To the size that torch computed. ONNX takes positions from the two sizes, torch from a given scale if there is
    one, so that those must agree."""

    def convert(t: Translator, node: fx.Node) -> ir.Value:
        x = arguments(node)[0]
        aligned = mode != "nearest" and bool(option(node, 2, "align_corners", False))
        height, width = (int(size) for size in tensor(node).shape[2:])
        _check_scales(node, 2 if mode == "nearest" else 3)
        attributes: dict[str, int | float | str | list[int]] = {
            "mode": mode,
            "coordinate_transformation_mode": "align_corners" if aligned else "half_pixel",
        }
        if mode == "cubic":
            attributes["cubic_coeff_a"] = CUBIC_COEFFICIENT
        if mode == "nearest":
            attributes |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        attributes["axes"] = [2, 3]
        return t.graph.op("Resize", t.value(x), None, None, t.graph.int64(height, width), attributes=attributes)

    return convert


def _check_scales(node: fx.Node, position: int) -> None:
    factors: Any = option(node, position, "scale_factors", None)
    before, after = tensor(arguments(node)[0]).shape[2:], tensor(node).shape[2:]
    for factor, length, size in zip(factors or (), before, after, strict=False):
        if abs(float(factor) * int(length) - int(size)) > 1e-6 * int(size):
            raise UnsupportedModelError(
                f"The model resizes by {factor}, which does not take {int(length)} to a whole number.",
                remedy="Use images of a size that the model's strides divide.",
            )


VISION: dict[Any, Converter] = {
    aten.conv2d.default: _convolution,
    aten.conv2d.padding: _convolution,
    aten.batch_norm.default: _batch_norm,
    aten._native_batch_norm_legit_no_training.default: _native_batch_norm,
    aten.group_norm.default: _group_norm,
    aten.max_pool2d.default: _max_pool,
    aten.avg_pool2d.default: _average_pool,
    aten.adaptive_avg_pool1d.default: _adaptive_average_pool,
    aten.adaptive_avg_pool2d.default: _adaptive_average_pool,
    aten.pad.default: _pad,
    aten.roll.default: _roll,
    aten.upsample_bilinear2d.vec: _resize("linear"),
    aten.upsample_bicubic2d.vec: _resize("cubic"),
    aten.upsample_nearest2d.vec: _resize("nearest"),
}
