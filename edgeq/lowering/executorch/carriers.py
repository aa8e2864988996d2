"""edgeq's codes as torchao's IntxUnpackedToInt8Tensor, which XNNPACK's partitioner reads; nothing is rounded again.

XNNPACK drops zero points silently, so linears with them add `groupsum(x) @ -(scale * zero)^T` to a symmetric product.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, assert_never

import numpy as np
import torch
from torch import nn

from edgeq.core.tensor import QuantizedTensor
from edgeq.errors import UnsupportedModelError

GROUP_MULTIPLE = 32
CONTAINER_BITS = 4
"""Of products with fewer bits, as XNNPACK multiplies with 4 or 8; of 3-bit tables, as look-ups take 2, 4 and 8."""
CODES_PER_BYTE_OF_TWO_BITS = 4
Activations = Literal["int8", "split", "float32"]
"""How a linear takes its input. XNNPACK rounds each token to 8 bits, in steps that its largest value sets; "split" does
so in two parts, of which the first leaves out what is large; "float32" is the exact product, to compare with."""
SPLIT_AT = 1.5
"""Times the root mean square of a token. On all-MiniLM-L6-v2, from 1 to 2 the error is within a tenth of the least."""
REMEDY = "Quantize with --format executorch, which chooses schemes that XNNPACK holds."


def check_linear(name: str, tensor: QuantizedTensor) -> None:
    """Raises UnsupportedModelError where XNNPACK's kernels cannot hold the weight of a linear exactly."""
    scheme, inputs = tensor.scheme, tensor.shape[1]
    group_size = scheme.group_size or inputs
    problem = ""
    if scheme.codebook is not None:
        problem = "codebooks"
    elif scheme.bits == 8 and tensor.scales.shape[1] != 1:
        problem = f"8-bit groups of {group_size}: its kernels have one scale per channel"
    elif scheme.bits < 8 and group_size % GROUP_MULTIPLE:
        problem = f"groups of {group_size}: only multiples of {GROUP_MULTIPLE}"
    elif scheme.bits < 8 and not np.array_equal(_bfloat16(tensor.scales), tensor.scales):
        problem = "scales that are not exact in bfloat16, to which its kernels round them"
    elif not (tensor.scales > 0).all():
        problem = "scales that are not positive"
    if problem:
        raise UnsupportedModelError(f"XNNPACK cannot hold {name}: {problem}.", remedy=REMEDY)


def check_table(name: str, tensor: QuantizedTensor) -> None:
    """Raises UnsupportedModelError where the embedding kernel cannot hold a table: its groups must fill the rows."""
    if tensor.scheme.codebook is not None or tensor.shape[1] % (tensor.scheme.group_size or tensor.shape[1]):
        raise UnsupportedModelError(
            f"ExecuTorch's embedding cannot hold {name} as {tensor.scheme.label()}.", remedy=REMEDY
        )


def in_product(tensor: QuantizedTensor) -> QuantizedTensor:
    """The same weights in bits that XNNPACK multiplies with. Codes of 2 or 3 bits less their zero points fit signed
    4-bit codes, so that zero points cost nothing there."""
    if tensor.scheme.bits >= CONTAINER_BITS:
        return tensor
    scheme = replace(tensor.scheme, bits=CONTAINER_BITS, symmetric=True)
    codes = (tensor.integers() + scheme.default_zero_point).astype(np.uint8)
    return replace(tensor, scheme=scheme, codes=codes, zero_points=None)


def in_table(tensor: QuantizedTensor) -> QuantizedTensor:
    """The same weights in bits that the embedding kernels look up: whole bytes of 2-bit codes, else 4 or 8."""
    bits, inputs = tensor.scheme.bits, tensor.shape[1]
    is_native_two = bits == 2 and inputs % CODES_PER_BYTE_OF_TWO_BITS == 0
    return tensor if bits >= CONTAINER_BITS or is_native_two else tensor.widened(CONTAINER_BITS)


def _bfloat16(values: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, np.dtype[np.float32]]:
    return torch.from_numpy(values).to(torch.bfloat16).to(torch.float32).numpy()


def padded(tensor: QuantizedTensor) -> QuantizedTensor:
    """The same weights with a full last group: kernels know no other, and inputs of 0 meet what is added."""
    missing = tensor.scales.shape[1] * (tensor.scheme.group_size or tensor.shape[1]) - tensor.shape[1]
    if not missing:
        return tensor
    middle = tensor.scheme.default_zero_point
    codes = np.pad(tensor.codes, ((0, 0), (0, missing)), constant_values=middle)
    return replace(tensor, codes=codes)


def carrier(tensor: QuantizedTensor, *, zero_points: bool, int8_activations: bool) -> nn.Parameter:
    """The weight `[outputs, inputs]`, of `in_product` or `in_table`, as a float32 parameter that is int8 codes inside.

    zero_points: keep them; else they are left to a correction. int8_activations: round each token's activations to
    int8, which is the only way that XNNPACK multiplies.
    """
    from torchao.quantization import IntxUnpackedToInt8Tensor
    from torchao.quantization.quantize_.workflows.intx.intx_unpacked_to_int8_tensor import (
        IntxUnpackedToInt8TensorActivationQuantization as ActivationQuantization,
    )

    middle = tensor.scheme.default_zero_point
    codes = (tensor.codes.astype(np.int16) - middle).astype(np.int8)
    zeros = np.zeros(tensor.scales.shape, dtype=np.int8)
    if zero_points and tensor.zero_points is not None:
        zeros = (tensor.zero_points.astype(np.int16) - middle).astype(np.int8)
    weight = IntxUnpackedToInt8Tensor(
        qdata=torch.from_numpy(codes),
        scale=torch.from_numpy(np.array(tensor.scales)),
        zero_point=torch.from_numpy(zeros),
        target_dtype={2: torch.int2, 4: torch.int4, 8: torch.int8}[tensor.scheme.bits],  # type: ignore[attr-defined]
        block_size=(1, tensor.scheme.group_size or tensor.shape[1]),
        dtype=torch.float32,
        activation_quantization=ActivationQuantization.INT8_ASYM_PER_TOKEN if int8_activations else None,
    )
    return nn.Parameter(weight, requires_grad=False)


class QuantizedLinear(nn.Module):
    """`x @ w.T + bias` with the weight as XNNPACK multiplies it, and the zero points beside it."""

    def __init__(self, name: str, tensor: QuantizedTensor) -> None:
        super().__init__()
        check_linear(name, tensor)
        tensor = in_product(tensor)
        self.activations: Activations = "int8"
        full = padded(tensor)
        self.padding = full.shape[1] - tensor.shape[1]
        self.weight = carrier(full, zero_points=False, int8_activations=True)
        self.groups = tensor.scales.shape[1]
        self.correction: nn.Parameter | None = None
        if tensor.zero_points is not None:
            zeros = tensor.zero_points.astype(np.float32) - tensor.scheme.default_zero_point
            self.correction = nn.Parameter(torch.from_numpy(-(tensor.scales * zeros)), requires_grad=False)

    def forward(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """`[..., inputs]` to `[..., outputs]`, float32."""
        if self.padding:
            x = nn.functional.pad(x, (0, self.padding))
        product = self._product(x, bias)
        if self.correction is None:
            return product
        sums = x.unflatten(-1, (self.groups, -1)).sum(-1)  # type: ignore[no-untyped-call]
        return product + nn.functional.linear(sums, self.correction)

    def split_activations(self) -> None:
        """From now on multiply the bulk of a token's activations and what sticks out of it one after the other."""
        self.activations = "split"
        width = self.weight.shape[1]
        self.register_buffer("mean", torch.full((1, width), 1.0 / width), persistent=False)

    def _product(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        match self.activations:
            case "int8":
                return nn.functional.linear(x, self.weight, bias)
            case "float32":
                return nn.functional.linear(x, self.weight.dequantize(), bias)
            case "split":
                bound = SPLIT_AT * nn.functional.linear(x * x, self.get_buffer("mean")).sqrt()
                bulk = torch.minimum(torch.maximum(x, -bound), bound)
                rest = nn.functional.linear(x - bulk, self.weight)
                return nn.functional.linear(bulk, self.weight, bias) + rest
            case _:
                assert_never(self.activations)
