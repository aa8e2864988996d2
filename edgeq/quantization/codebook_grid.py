"""Weights as entries of tables, laid out for what takes one input after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeq.core.scheme import Scheme
from edgeq.core.tensor import QuantizedTensor
from edgeq.errors import UsageError
from edgeq.quantization.gptq import ROWS

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(kw_only=True)
class CodebookGrid:
    """`w[i, o] = scale[i // size, o] * tables[o // rows, code[i, o]]`, by input; all tables have the same rows.

    tables: float32 `[tables, levels]`, ascending. scale: float32 `[groups, out]`, > 0, or None where all are 1.
    """

    tables: Tensor
    scale: Tensor | None
    rows: int
    size: int
    scheme: Scheme

    @classmethod
    def of(cls, tensor: QuantizedTensor) -> tuple[CodebookGrid, Tensor]:
        """The grid of a part that `table_parts` cut, and its codes, int64 `[in, out]`."""
        import torch

        if tensor.codebook is None:
            raise UsageError(
                f"{tensor.scheme.label()} weights have no codebook.", remedy="Give the scheme one, or take gptq, refit."
            )
        outputs, inputs = tensor.shape
        grid = cls(
            tables=torch.from_numpy(tensor.codebook.copy()),
            scale=torch.from_numpy(tensor.scales.T.copy()) if tensor.scheme.has_scales else None,
            rows=outputs // len(tensor.codebook),
            size=tensor.scheme.group_size or inputs,
            scheme=tensor.scheme,
        )
        return grid, torch.from_numpy(tensor.codes.astype(np.int64)).t().contiguous()

    def middles(self) -> Tensor:
        """The borders between the entries `[tables, levels - 1]`; the sum of two huge ones would overflow."""
        return (self.tables[:, :-1] + self.tables.diff(dim=1) / 2).contiguous()

    def nearest(self, index: int, column: Tensor, middles: Tensor) -> Tensor:
        """The codes of input `index`, int64 `[out]`, that are nearest to the weights `column [out]`."""
        import torch

        if self.scale is not None:
            column = column / self.scale[index // self.size]
        return torch.searchsorted(middles, column.reshape(len(middles), -1)).flatten()

    def values(self, index: int, codes: Tensor) -> Tensor:
        """The weights of input `index`, `[out]`, that have these codes."""
        found = self.tables.gather(1, codes.reshape(len(self.tables), -1)).flatten()
        return found if self.scale is None else found.mul_(self.scale[index // self.size])

    def entries(self, codes: Tensor) -> Tensor:
        """`codes [in, out]` as places in `tables.flatten()`."""
        import torch

        return codes + (torch.arange(codes.shape[1]) // self.rows * self.tables.shape[1])

    def per_input(self, per_group: Tensor, inputs: int) -> Tensor:
        """`[groups, out]` as `[in, out]`."""
        return per_group.repeat_interleave(self.size, dim=0)[:inputs]

    def tensor(self, codes: Tensor) -> QuantizedTensor:
        """The part again, from its codes `[in, out]`."""
        import torch

        scale = torch.ones((1, codes.shape[1])) if self.scale is None else self.scale
        return QuantizedTensor(
            scheme=self.scheme,
            codes=np.ascontiguousarray(codes.t().to(torch.uint8).numpy()),
            scales=np.ascontiguousarray(scale.t().numpy()),
            zero_points=None,
            codebook=self.tables.numpy(),
        )


def table_parts(outputs: int, scheme: Scheme) -> list[slice]:
    """Rows to take together: a few tables, which do not influence one another; one that has fewer rows comes alone."""
    together = 1 if scheme.codebook == "nf4" else scheme.palette_rows or outputs
    whole = outputs - outputs % together
    step = max(1, ROWS // together) * together
    parts = [slice(start, min(start + step, whole)) for start in range(0, whole, step)]
    return parts if whole == outputs else [*parts, slice(whole, outputs)]
