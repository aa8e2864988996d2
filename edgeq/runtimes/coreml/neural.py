"""Products, norms, softmax, attention, convolution, and the states that they keep."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from edgeq.runtimes.coreml.operator import Operator, on

Tensor = torch.Tensor
CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


class State:
    """A tensor that outlives a call, in the dtype that the program keeps it in: float16."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.stored = torch.zeros(shape, dtype=dtype)

    def read(self) -> Tensor:
        """Its content, float32."""
        return self.stored.float()

    def write(self, value: Tensor) -> Tensor:
        """Round `value` to the dtype and keep it: what the next `read` gives, float32."""
        self.stored = value.to(self.stored.dtype)
        return self.read()


def _read_state(state: State) -> Tensor:
    return state.read()


def _update_state(state: State, value: Tensor) -> Tensor:
    return state.write(value)


def _matmul(x: Tensor, y: Tensor, *, transpose_x: bool, transpose_y: bool) -> Tensor:
    return torch.matmul(x.transpose(-1, -2) if transpose_x else x, y.transpose(-1, -2) if transpose_y else y)


def _einsum(values: list[Tensor], *, equation: str) -> Tensor:
    result: Tensor = torch.einsum(equation, *values)
    return result


def _softmax(x: Tensor, *, axis: int) -> Tensor:
    return torch.softmax(x, axis)


def _layer_norm(
    x: Tensor, gamma: Tensor | None, beta: Tensor | None, *, epsilon: float, axes: Sequence[int] | None = None
) -> Tensor:
    chosen = sorted(axis % x.dim() for axis in (range(x.dim()) if axes is None else axes))
    if chosen == list(range(chosen[0], x.dim())):
        return functional.layer_norm(x, x.shape[chosen[0] :], gamma, beta, epsilon)
    variance, mean = torch.var_mean(x, chosen, correction=0, keepdim=True)
    normalized = (x - mean) * torch.rsqrt(variance + epsilon)
    sizes = [size if axis in chosen else 1 for axis, size in enumerate(x.shape)]
    if gamma is not None:
        normalized = normalized * gamma.reshape(sizes)
    return normalized if beta is None else normalized + beta.reshape(sizes)


def _batch_norm(
    x: Tensor, mean: Tensor, variance: Tensor, gamma: Tensor | None, beta: Tensor | None, *, epsilon: float
) -> Tensor:
    return functional.batch_norm(x, mean, variance, gamma, beta, training=False, eps=epsilon)


def _instance_norm(x: Tensor, gamma: Tensor | None, beta: Tensor | None, *, epsilon: float) -> Tensor:
    return functional.instance_norm(x, weight=gamma, bias=beta, eps=epsilon)


def _l2_norm(x: Tensor, *, epsilon: float) -> Tensor:
    """Over the last three axes."""
    return x * torch.rsqrt(x.square().sum((-3, -2, -1), keepdim=True) + epsilon)


def _attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None) -> Tensor:
    return functional.scaled_dot_product_attention(query, key, value, attn_mask)


def _conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    strides: Sequence[int],
    pad_type: str,
    dilations: Sequence[int],
    groups: int,
    pad: Sequence[int] | None = None,
) -> Tensor:
    spatial = x.dim() - 2
    kernel = weight.shape[2:]
    if pad_type == "custom" and pad is not None:
        amounts = list(zip(pad[::2], pad[1::2], strict=True))
    else:
        reaches = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
        amounts = [_padding(pad_type, *each) for each in zip(x.shape[2:], reaches, strides, strict=True)]
    padded = functional.pad(x, [amount for pair in reversed(amounts) for amount in pair])
    return CONVOLUTIONS[spatial](padded, weight, bias, tuple(strides), 0, tuple(dilations), groups)


def _padding(pad_type: str, size: int, reach: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis of `size`, for a kernel that covers `reach` elements of it."""
    if pad_type == "valid":
        return 0, 0
    if pad_type not in ("same", "same_lower"):
        msg = f"conv has no padding {pad_type!r} here"
        raise ValueError(msg)
    total = max((-(-size // stride) - 1) * stride + reach - size, 0)
    less, more = total // 2, total - total // 2
    return (less, more) if pad_type == "same" else (more, less)


NEURAL: dict[str, Operator] = {
    "batch_norm": on("x mean variance gamma beta", _batch_norm),
    "conv": on("x weight bias", _conv),
    "coreml_update_state": on("state value", _update_state),
    "einsum": on("values", _einsum),
    "instance_norm": on("x gamma beta", _instance_norm),
    "l2_norm": on("x", _l2_norm),
    "layer_norm": on("x gamma beta", _layer_norm),
    "linear": on("x weight bias", functional.linear),
    "matmul": on("x y", _matmul),
    "read_state": on("input", _read_state),
    "scaled_dot_product_attention": on("query key value attn_mask", _attention),
    "softmax": on("x", _softmax),
}
