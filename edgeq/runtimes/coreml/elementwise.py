"""Arithmetic, comparisons, activations and casts, element by element."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from edgeq.runtimes.coreml.operator import Operator, on

Tensor = torch.Tensor
CASTS = {
    "fp16": torch.float16,
    "fp32": torch.float32,
    "int8": torch.int8,
    "int16": torch.int16,
    "int32": torch.int32,
    "uint8": torch.uint8,
    "uint16": torch.int32,
    "bool": torch.bool,
}


def cast(x: Tensor, *, dtype: str) -> Tensor:
    """To float16 means rounded to it, and infinite beyond it: that much is in the program itself."""
    converted = x.to(CASTS[dtype])
    return converted.float() if converted.dtype == torch.float16 else converted


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return on("x y", function)


def _unary(function: Callable[[Tensor], Tensor]) -> Operator:
    return on("x", function)


def _rsqrt(x: Tensor, *, epsilon: float) -> Tensor:
    return torch.rsqrt(x + epsilon)


def _log(x: Tensor, *, epsilon: float) -> Tensor:
    return torch.log(x + epsilon)


def _inverse(x: Tensor, *, epsilon: float) -> Tensor:
    return torch.reciprocal(x + epsilon)


def _clip(x: Tensor, *, alpha: float, beta: float) -> Tensor:
    return torch.clamp(x, alpha, beta)


def _threshold(x: Tensor, *, alpha: float) -> Tensor:
    return torch.clamp(x, min=alpha)


def _select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(cond.bool(), a, b)


def _gelu(x: Tensor, *, mode: str) -> Tensor:
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    return functional.gelu(x, approximate={"EXACT": "none", "TANH_APPROXIMATION": "tanh"}[mode])


def _leaky_relu(x: Tensor, *, alpha: float) -> Tensor:
    return functional.leaky_relu(x, alpha)


def _elu(x: Tensor, *, alpha: float) -> Tensor:
    return functional.elu(x, alpha)


def _linear_activation(x: Tensor, *, alpha: float, beta: float) -> Tensor:
    return alpha * x + beta


def _sigmoid_hard(x: Tensor, *, alpha: float, beta: float) -> Tensor:
    return torch.clamp(alpha * x + beta, 0, 1)


def _scaled_tanh(x: Tensor, *, alpha: float, beta: float) -> Tensor:
    return alpha * torch.tanh(beta * x)


def _clamped_relu(x: Tensor, *, alpha: float, beta: float) -> Tensor:
    return torch.where(x >= 0, x, alpha * x).clamp(max=beta)


def _thresholded_relu(x: Tensor, *, alpha: float) -> Tensor:
    return torch.where(x >= alpha, x, torch.zeros_like(x))


def _prelu(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(x > 0, x, x * alpha.reshape(-1, *[1] * (x.dim() - 2)))


ARITHMETIC: dict[str, Operator] = {
    "add": _binary(torch.add),
    "sub": _binary(torch.sub),
    "mul": _binary(torch.mul),
    "real_div": _binary(torch.true_divide),
    "floor_div": _binary(torch.floor_divide),
    "mod": _binary(torch.remainder),
    "pow": _binary(torch.pow),
    "maximum": _binary(torch.maximum),
    "minimum": _binary(torch.minimum),
}
LOGIC: dict[str, Operator] = {
    "equal": _binary(torch.eq),
    "not_equal": _binary(torch.ne),
    "less": _binary(torch.lt),
    "less_equal": _binary(torch.le),
    "greater": _binary(torch.gt),
    "greater_equal": _binary(torch.ge),
    "logical_and": _binary(torch.logical_and),
    "logical_or": _binary(torch.logical_or),
    "logical_xor": _binary(torch.logical_xor),
    "logical_not": _unary(torch.logical_not),
    "select": on("cond a b", _select),
}
FUNCTIONS: dict[str, Operator] = {
    "abs": _unary(torch.abs),
    "acos": _unary(torch.acos),
    "asin": _unary(torch.asin),
    "atan": _unary(torch.atan),
    "atanh": _unary(torch.atanh),
    "cast": on("x", cast),
    "ceil": _unary(torch.ceil),
    "clip": on("x", _clip),
    "cos": _unary(torch.cos),
    "cosh": _unary(torch.cosh),
    "erf": _unary(torch.erf),
    "exp": _unary(torch.exp),
    "exp2": _unary(torch.exp2),
    "floor": _unary(torch.floor),
    "identity": _unary(torch.clone),
    "inverse": on("x", _inverse),
    "log": on("x", _log),
    "round": _unary(torch.round),
    "rsqrt": on("x", _rsqrt),
    "sign": _unary(torch.sign),
    "sin": _unary(torch.sin),
    "sinh": _unary(torch.sinh),
    "sqrt": _unary(torch.sqrt),
    "square": _unary(torch.square),
    "tan": _unary(torch.tan),
    "threshold": on("x", _threshold),
}
ACTIVATIONS: dict[str, Operator] = {
    "clamped_relu": on("x", _clamped_relu),
    "elu": on("x", _elu),
    "gelu": on("x", _gelu),
    "leaky_relu": on("x", _leaky_relu),
    "linear_activation": on("x", _linear_activation),
    "prelu": on("x alpha", _prelu),
    "relu": _unary(functional.relu),
    "relu6": _unary(functional.relu6),
    "scaled_tanh": on("x", _scaled_tanh),
    "sigmoid": _unary(torch.sigmoid),
    "sigmoid_hard": on("x", _sigmoid_hard),
    "silu": _unary(functional.silu),
    "softplus": _unary(functional.softplus),
    "softsign": _unary(functional.softsign),
    "tanh": _unary(torch.tanh),
    "thresholded_relu": on("x", _thresholded_relu),
}
ELEMENTWISE = ARITHMETIC | LOGIC | FUNCTIONS | ACTIVATIONS
