"""Element by element: what numpy says."""

from __future__ import annotations

import math

import numpy as np

from tests.runtimes.coreml.programs import Array, Case, case, floats

RNG = np.random.default_rng(0)
X: Array = RNG.normal(size=(2, 3, 4)).astype(np.float32)
Y: Array = RNG.normal(size=(3, 1)).astype(np.float32)
P: Array = np.abs(X) + np.float32(0.1)
UNIT: Array = np.tanh(X).astype(np.float32)
I: Array = np.array([[-7, 5, 4], [3, -2, 9]], dtype=np.int32)  # noqa: E741
J: Array = np.array([[2, -3, 4]], dtype=np.int32)
B: Array = X > 0
C: Array = RNG.random((3, 1)) > 0.5
ERF = np.vectorize(math.erf)


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


ARITHMETIC = [
    case("add", {"x": X, "y": Y}, X + Y),
    case("sub", {"x": X, "y": Y}, X - Y),
    case("mul", {"x": X, "y": Y}, X * Y),
    case("real_div", {"x": X, "y": Y}, X / Y, atol=1e-5),
    case("floor_div", {"x": X, "y": Y}, np.floor(X / Y)),
    case("floor_div", {"x": I, "y": J}, np.floor_divide(I, J)),
    case("mod", {"x": I, "y": J}, np.mod(I, J)),
    case("mod", {"x": X, "y": Y}, X - np.floor(X / Y) * Y, atol=1e-5),
    case("pow", {"x": P, "y": Y}, P**Y, atol=1e-5),
    case("maximum", {"x": X, "y": Y}, np.maximum(X, Y)),
    case("minimum", {"x": X, "y": Y}, np.minimum(X, Y)),
    case("maximum", {"x": I, "y": J}, np.maximum(I, J)),
]
LOGIC = [
    case("equal", {"x": I, "y": J}, I == J),
    case("not_equal", {"x": I, "y": J}, I != J),
    case("less", {"x": X, "y": Y}, X < Y),
    case("less_equal", {"x": I, "y": J}, I <= J),
    case("greater", {"x": X, "y": Y}, X > Y),
    case("greater_equal", {"x": I, "y": J}, I >= J),
    case("logical_and", {"x": B, "y": C}, B & C),
    case("logical_or", {"x": B, "y": C}, B | C),
    case("logical_xor", {"x": B, "y": C}, B ^ C),
    case("logical_not", {"x": B}, ~B),
    case("select", {"cond": B, "a": X, "b": P}, np.where(B, X, P)),
]
FUNCTIONS = [
    case("abs", {"x": X}, np.abs(X)),
    case("acos", {"x": UNIT}, np.arccos(UNIT)),
    case("asin", {"x": UNIT}, np.arcsin(UNIT)),
    case("atan", {"x": X}, np.arctan(X)),
    case("atanh", {"x": UNIT}, np.arctanh(UNIT), atol=1e-5),
    case("cast", {"x": X * 9}, np.trunc(X * 9).astype(np.int32), dtype="int32"),
    case("cast", {"x": X}, X.astype(np.float16), dtype="fp16"),
    case("cast", {"x": floats([[1e5, -1e5, 1]])}, floats([[np.inf, -np.inf, 1]]), dtype="fp16"),
    case("cast", {"x": I}, I.astype(np.float32), dtype="fp32"),
    case("cast", {"x": I - 4}, I != 4, dtype="bool"),
    case("ceil", {"x": X}, np.ceil(X)),
    case("clip", {"x": X}, np.clip(X, -0.5, 0.75), alpha=-0.5, beta=0.75),
    case("cos", {"x": X}, np.cos(X)),
    case("cosh", {"x": X}, np.cosh(X), atol=1e-5),
    case("erf", {"x": X}, ERF(X)),
    case("exp", {"x": X}, np.exp(X), atol=1e-5),
    case("exp2", {"x": X}, 2.0**X, atol=1e-5),
    case("floor", {"x": X}, np.floor(X)),
    case("identity", {"x": X}, X),
    case("inverse", {"x": P}, 1 / (P + 0.5), epsilon=0.5),
    case("log", {"x": P}, np.log(P + 0.25), epsilon=0.25),
    case("round", {"x": floats([0.5, 1.5, -2.5, 2.6])}, floats([0, 2, -2, 3])),
    case("rsqrt", {"x": P}, 1 / np.sqrt(P + 0.25), epsilon=0.25),
    case("sign", {"x": X}, np.sign(X)),
    case("sin", {"x": X}, np.sin(X)),
    case("sinh", {"x": X}, np.sinh(X), atol=1e-5),
    case("sqrt", {"x": P}, np.sqrt(P)),
    case("square", {"x": X}, X * X),
    case("tan", {"x": UNIT}, np.tan(UNIT), atol=1e-5),
    case("threshold", {"x": X}, np.maximum(X, 0.3), alpha=0.3),
]
ACTIVATIONS = [
    case("clamped_relu", {"x": X}, np.minimum(0.7, np.where(X >= 0, X, 0.1 * X)), alpha=0.1, beta=0.7),
    case("elu", {"x": X}, np.where(X > 0, X, 0.5 * (np.exp(X) - 1)), alpha=0.5),
    case("gelu", {"x": X}, X * 0.5 * (1 + ERF(X / math.sqrt(2))), mode="EXACT"),
    case(
        "gelu",
        {"x": X},
        X * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (X + 0.044715 * X**3))),
        mode="TANH_APPROXIMATION",
    ),
    case("gelu", {"x": X}, X * _sigmoid(1.702 * X), mode="SIGMOID_APPROXIMATION"),
    case("leaky_relu", {"x": X}, np.where(X >= 0, X, 0.2 * X), alpha=0.2),
    case("linear_activation", {"x": X}, 0.2 * X + 3, alpha=0.2, beta=3.0),
    case(
        "prelu",
        {"x": X[:, :, None]},
        np.where(X > 0, X, X * floats([0.1, 0.2, 0.3]).reshape(3, 1))[:, :, None],
        alpha=floats([0.1, 0.2, 0.3]),
    ),
    case("relu", {"x": X}, np.maximum(X, 0)),
    case("relu6", {"x": X * 9}, np.clip(X * 9, 0, 6)),
    case("scaled_tanh", {"x": X}, 0.5 * np.tanh(1.5 * X), alpha=0.5, beta=1.5),
    case("sigmoid", {"x": X}, _sigmoid(X)),
    case("sigmoid_hard", {"x": X}, np.clip(0.3 * X + 0.4, 0, 1), alpha=0.3, beta=0.4),
    case("silu", {"x": X}, X * _sigmoid(X)),
    case("softplus", {"x": X}, np.log1p(np.exp(X))),
    case("softsign", {"x": X}, X / (1 + np.abs(X))),
    case("tanh", {"x": X}, np.tanh(X)),
    case("thresholded_relu", {"x": X}, np.where(X >= 0.5, X, 0), alpha=0.5),
]
CASES: list[Case] = ARITHMETIC + LOGIC + FUNCTIONS + ACTIVATIONS
