"""Products, norms, attention and convolutions, written out in numpy."""

from __future__ import annotations

import itertools

import numpy as np

from tests.runtimes.coreml.programs import Array, Case, case

RNG = np.random.default_rng(2)


def _random(*shape: int) -> Array:
    return RNG.normal(size=shape).astype(np.float32)


X = _random(2, 3, 4)
W, BIAS = _random(5, 4), _random(5)
IMAGE = _random(2, 4, 5, 6)
GAMMA, BETA, MEAN = _random(4), _random(4), _random(4)
VARIANCE = np.abs(_random(4)) + np.float32(0.1)
QUERY, KEY, VALUE = _random(1, 2, 3, 4), _random(1, 2, 5, 4), _random(1, 2, 5, 6)
LEFT, RIGHT = _random(1, 3, 2, 4), _random(1, 4, 2, 5)
SEEN = np.tril(np.ones((3, 5), dtype=bool), 1)


def softmax(x: Array, axis: int) -> Array:
    powers = np.exp(x - x.max(axis, keepdims=True))
    return np.asarray(powers / powers.sum(axis, keepdims=True))


def normalized(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    centered = x - x.mean(axes, keepdims=True)
    return np.asarray(centered / np.sqrt((centered**2).mean(axes, keepdims=True) + epsilon))


def attention(bias: Array | float) -> Array:
    return np.asarray(softmax(QUERY @ KEY.swapaxes(-1, -2) / 2 + bias, -1) @ VALUE)


def convolved(x: Array, weight: Array, strides: tuple[int, int], dilations: tuple[int, int], groups: int) -> Array:
    """Of an image that is padded already, pixel by pixel."""
    outputs, inputs, *kernel = weight.shape
    reach = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
    height, width = ((x.shape[2 + axis] - reach[axis]) // strides[axis] + 1 for axis in range(2))
    result = np.zeros((len(x), outputs, height, width))
    for output, row, column in itertools.product(range(outputs), range(height), range(width)):
        first = output // (outputs // groups) * inputs
        top, left = row * strides[0], column * strides[1]
        window = x[
            :,
            first : first + inputs,
            top : top + reach[0] : dilations[0],
            left : left + reach[1] : dilations[1],
        ]
        result[:, output, row, column] = (window * weight[output]).sum((1, 2, 3))
    return result


def _padded(top: int, bottom: int, left: int, right: int) -> Array:
    return np.pad(IMAGE, ((0, 0), (0, 0), (top, bottom), (left, right)))


def _conv(
    weight: Array, expected: Array, pad_type: str, pad: list[int], options: tuple[list[int], list[int], int]
) -> Case:
    strides, dilations, groups = options
    return case(
        "conv",
        {"x": IMAGE},
        expected,
        atol=1e-5,
        weight=weight,
        strides=strides,
        pad_type=pad_type,
        pad=pad,
        dilations=dilations,
        groups=groups,
    )


K = _random(3, 4, 3, 2)
GROUPED = _random(6, 2, 2, 2)
CONVOLUTIONS = [
    _conv(K, convolved(IMAGE, K, (1, 1), (1, 1), 1), "valid", [0, 0, 0, 0], ([1, 1], [1, 1], 1)),
    _conv(K, convolved(_padded(1, 0, 2, 1), K, (2, 1), (1, 2), 1), "custom", [1, 0, 2, 1], ([2, 1], [1, 2], 1)),
    _conv(K, convolved(_padded(1, 1, 0, 1), K, (1, 1), (1, 1), 1), "same", [0, 0, 0, 0], ([1, 1], [1, 1], 1)),
    _conv(K, convolved(_padded(1, 1, 1, 0), K, (1, 1), (1, 1), 1), "same_lower", [0, 0, 0, 0], ([1, 1], [1, 1], 1)),
    _conv(GROUPED, convolved(IMAGE, GROUPED, (1, 1), (1, 1), 2), "valid", [0, 0, 0, 0], ([1, 1], [1, 1], 2)),
]
CHANNELS = (4, 1, 1)
CASES: list[Case] = [
    case("linear", {"x": X}, X @ W.T + BIAS, atol=1e-5, weight=W, bias=BIAS),
    case("matmul", {"x": X, "y": W}, X @ W.T, atol=1e-5, transpose_x=False, transpose_y=True),
    case("matmul", {"x": X, "y": X[0]}, X.swapaxes(1, 2) @ X[0], atol=1e-5, transpose_x=True, transpose_y=False),
    case(
        "einsum",
        {"values": [LEFT, RIGHT]},
        (LEFT[:, :, :, None] @ RIGHT.swapaxes(1, 2)[:, None])[:, :, :, 0],
        atol=1e-5,
        equation="abcd,adce->abce",
    ),
    case("softmax", {"x": X}, softmax(X, 1), axis=1),
    case(
        "layer_norm",
        {"x": X},
        normalized(X, (2,), 1e-3) * GAMMA + BETA,
        axes=[-1],
        gamma=GAMMA,
        beta=BETA,
        epsilon=1e-3,
    ),
    case(
        "layer_norm",
        {"x": IMAGE},
        normalized(IMAGE, (1,), 1e-3) * GAMMA.reshape(CHANNELS),
        axes=[1],
        gamma=GAMMA,
        epsilon=1e-3,
    ),
    case(
        "batch_norm",
        {"x": IMAGE},
        (IMAGE - MEAN.reshape(CHANNELS)) / np.sqrt(VARIANCE.reshape(CHANNELS) + 0.01) * GAMMA.reshape(CHANNELS)
        + BETA.reshape(CHANNELS),
        atol=1e-5,
        mean=MEAN,
        variance=VARIANCE,
        gamma=GAMMA,
        beta=BETA,
        epsilon=0.01,
    ),
    case(
        "instance_norm",
        {"x": IMAGE},
        normalized(IMAGE, (2, 3), 0.01) * GAMMA.reshape(CHANNELS) + BETA.reshape(CHANNELS),
        atol=1e-5,
        gamma=GAMMA,
        beta=BETA,
        epsilon=0.01,
    ),
    case("l2_norm", {"x": IMAGE}, IMAGE / np.sqrt((IMAGE**2).sum((1, 2, 3), keepdims=True) + 0.5), epsilon=0.5),
    case("scaled_dot_product_attention", {"query": QUERY, "key": KEY, "value": VALUE}, attention(0.0)),
    case(
        "scaled_dot_product_attention",
        {"query": QUERY, "key": KEY, "value": VALUE, "attn_mask": np.where(SEEN, 0, -1e4).astype(np.float32)},
        attention(np.where(SEEN, 0, -1e4)),
    ),
    case(
        "scaled_dot_product_attention",
        {"query": QUERY, "key": KEY, "value": VALUE, "attn_mask": SEEN},
        attention(np.where(SEEN, 0, -np.inf)),
    ),
    *CONVOLUTIONS,
]
