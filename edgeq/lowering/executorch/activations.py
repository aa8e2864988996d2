"""Which linears need their activations in two parts, so that XNNPACK's rounding of them stays below its limit.

A token's largest value sets the step of all its others: a few outlying channels, as normalised embeddings have, cost
the rest their precision. Linears of one kind in all blocks are chosen together, by the error that they cause alone in
the finished model, and most for the least arithmetic first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

import torch

from edgeq.lowering.executorch.carriers import Activations, QuantizedLinear
from edgeq.lowering.executorch.kernels import ExecuTorchKernels

LARGEST_ERROR = 1.5e-2
"""Relative, of the model's output: below validation's gate of 2e-2, as other text than the probes is rounded, too."""
Measure = Callable[[], float]


def split_where_needed(kernels: ExecuTorchKernels, outputs: Callable[[], torch.Tensor]) -> int:
    """Split the activations of as few linears as it takes, and say of how many.

    outputs: what the model says about some probes, as it is then; with float32 activations it is what each try is
    compared with.
    """
    linears = kernels.quantized_linears()
    _set(linears.values(), "float32")
    expected = outputs()

    def error() -> float:
        return float((outputs() - expected).norm() / expected.norm())

    _set(linears.values(), "int8")
    if not linears or error() <= LARGEST_ERROR:
        return 0
    for kind in _by_benefit(_kinds(linears), error):
        for linear in kind:
            linear.split_activations()
        if error() <= LARGEST_ERROR:
            break
    return sum(linear.activations == "split" for linear in linears.values())


def _by_benefit(kinds: Sequence[Sequence[QuantizedLinear]], error: Measure) -> list[Sequence[QuantizedLinear]]:
    """Errors of independent roundings add up as squares."""
    every = [linear for kind in kinds for linear in kind]
    benefits = []
    for kind in kinds:
        _set(every, "float32")
        _set(kind, "int8")
        benefits.append(error() ** 2 / sum(linear.weight.numel() for linear in kind))
    _set(every, "int8")
    order = sorted(range(len(kinds)), key=lambda index: (-benefits[index], index))
    return [kinds[index] for index in order]


def _kinds(linears: dict[str, QuantizedLinear]) -> list[list[QuantizedLinear]]:
    """Those whose names differ in numbers alone, as in the blocks of a model."""
    kinds: dict[str, list[QuantizedLinear]] = {}
    for name, linear in linears.items():
        kinds.setdefault(re.sub(r"\d+", "#", name), []).append(linear)
    return list(kinds.values())


def _set(linears: Iterable[QuantizedLinear], activations: Activations) -> None:
    for linear in linears:
        linear.activations = activations
