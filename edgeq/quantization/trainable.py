"""A quantized weight in training: codes that move as real numbers, scales by their logarithm.

The nearest integers count, and rounding passes gradients straight through (https://arxiv.org/abs/1308.3432), but for
codes beyond the grid; scales are rounded to what is stored in every step, as in LSQ, https://arxiv.org/abs/1902.08153.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgeq.core.tensor import QuantizedTensor
from edgeq.quantization.grid import storable

INSIDE = {2: 0.4, 3: 0.4, 4: 0.35, 8: 0.35}
"""How far a code may lie from its integer at the start, by bits: those that GPTQ moved away from their weight would
else turn back at the first noise."""
CODE_RATE = {2: 0.012, 3: 0.012, 4: 0.008, 8: 0.008}
"""Adam's step for codes, in codes, by bits. On the demo model at 2 bits 200 steps of .012 leave 0.63 of the divergence,
of .03 0.83; at 4 bits 100 steps of .003 leave 0.78, of .008 and .016 0.73 and 0.72. On all-MiniLM at 4 bits .012 with
codes .4 inside ends at a mean cosine of .9940, .008 and .35 at .9950."""
SCALE_RATE = 5e-4
"""For the logarithms of scales, and for norms and biases."""
BETAS = (0.9, 0.99)


class _FakeQuantize(torch.autograd.Function):
    """`codes [out, groups, size]` rounded, times `scale [out, groups, 1]`; autograd itself would keep six copies."""

    @staticmethod
    def forward(ctx: Any, codes: Tensor, scale: Tensor, least: Tensor, levels: int) -> Tensor:  # noqa: ANN401
        integers = torch.clamp(codes, least, least + (levels - 1)).round_()
        ctx.save_for_backward(codes, scale, least, integers)
        ctx.levels = levels
        return integers * scale

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:  # noqa: ANN401
        codes, scale, least, integers = ctx.saved_tensors
        for_scale = (gradient * integers).sum(-1, keepdim=True)
        for_codes = gradient * scale
        for_codes *= (codes >= least) & (codes <= least + (ctx.levels - 1))
        return for_codes, for_scale, None, None


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedGrid:
    """One weight `[out, in]` in training, its last group filled up.

    codes: float32 `[out, groups, size]` around the integers `code - zero point`. growth: `[out, groups, 1]`, the
    logarithm of what the scales have grown by. least: `[out, groups, 1]`, the smallest integer. turned: whether the
    module holds the weight as `[in, out]`.
    """

    tensor: QuantizedTensor
    codes: Tensor
    growth: Tensor
    scale: Tensor
    least: Tensor
    turned: bool

    @classmethod
    def of(cls, tensor: QuantizedTensor, values: npt.NDArray[Any], *, turned: bool) -> TrainedGrid:
        """Codes start where the float weights `values`, in the module's orientation, lie, or as near to that as still
        rounds to the codes of `tensor`, which has no codebook."""
        outputs, inputs = tensor.shape
        size = tensor.scheme.group_size or inputs
        padding = -inputs % size

        def grouped(matrix: npt.NDArray[Any]) -> Tensor:
            whole = np.pad(matrix.astype(np.float32), ((0, 0), (0, padding)))
            return torch.from_numpy(whole.reshape(outputs, -1, size))

        scale = torch.from_numpy(tensor.scales.copy())[:, :, None]
        zero = tensor.zero_points
        middle = np.full(tensor.scales.shape, tensor.scheme.default_zero_point) if zero is None else zero
        integers = grouped(tensor.integers())
        start = grouped(values.T if turned else values) / scale
        inside = INSIDE[tensor.scheme.bits]
        return cls(
            tensor=tensor,
            codes=torch.clamp(start, integers - inside, integers + inside).requires_grad_(),
            growth=torch.zeros_like(scale).requires_grad_(),
            scale=scale,
            least=-torch.from_numpy(middle.astype(np.float32))[:, :, None],
            turned=turned,
        )

    def _scales(self) -> Tensor:
        """As they will be stored; the gradient passes the rounding."""
        wanted = self.scale * self.growth.exp()
        stored = storable(wanted.detach().abs(), self.tensor.scheme.scale_dtype) * wanted.detach().sign()
        return wanted + (stored - wanted.detach())

    def weight(self) -> Tensor:
        """In the module's own orientation, with gradients."""
        fake = cast("Tensor", _FakeQuantize.apply(self.codes, self._scales(), self.least, self.tensor.scheme.levels))  # type: ignore[no-untyped-call]
        values = fake.flatten(1)[:, : self.tensor.shape[1]]
        return values.t() if self.turned else values

    def result(self) -> QuantizedTensor:
        """The tensor with the present codes and scales."""
        levels = self.tensor.scheme.levels
        integers = torch.clamp(self.codes.detach(), self.least, self.least + (levels - 1)).round()
        codes = (integers - self.least).flatten(1)[:, : self.tensor.shape[1]]
        return replace(
            self.tensor,
            codes=np.ascontiguousarray(codes.numpy().astype(np.uint8)),
            scales=np.ascontiguousarray(self._scales().detach()[:, :, 0].numpy()),
        )
