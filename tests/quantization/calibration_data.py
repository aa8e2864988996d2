"""Weights and correlated inputs of a linear, from fixed seeds."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from edgeq.quantization.moments import Moments, MomentSums


def gaussian(outputs: int = 12, inputs: int = 88, seed: int = 0) -> Tensor:
    return torch.from_numpy((np.random.default_rng(seed).standard_normal((outputs, inputs)) * 0.05).astype(np.float32))


def activations(inputs: int = 88, tokens: int = 400, seed: int = 1) -> Tensor:
    random = np.random.default_rng(seed)
    mixed = random.standard_normal((tokens, inputs)) @ (np.eye(inputs) + 0.2 * random.standard_normal((inputs, inputs)))
    return torch.from_numpy((mixed * np.exp(random.standard_normal(inputs))).astype(np.float32))


def moments(inputs: int = 88, seed: int = 1) -> Moments:
    sums = MomentSums(inputs, cross=False)
    x = activations(inputs, seed=seed)
    sums.add(x, x)
    return sums.result()
