"""Refit of codebooks: given codes, the best entries or scales; given those, better codes; in turn, under the Hessian.

As in GuidedQuant's layer-wise non-uniform quantization, https://arxiv.org/abs/2505.07004, section 4: the error
`tr((W - Q) H (W - Q)^T)` is quadratic in the entries of a table, whose optimum for fixed codes solves a small linear
system, and codes move one at a time to the entry nearest to the optimum of their own parabola. The same holds for the
scales of NormalFloat, whose levels stay. Conjugate gradients (https://doi.org/10.6028/jres.049.044) solve the systems
without forming them: any number of steps lowers the error, and no step costs more than a product with `H`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeq.core.scheme import Scheme
from edgeq.core.tensor import QuantizedTensor
from edgeq.quantization.codebook_gptq import gptq_codebook
from edgeq.quantization.codebook_grid import CodebookGrid, table_parts
from edgeq.quantization.gptq import BLOCK
from edgeq.quantization.grid import stack, storable, torch_dtype
from edgeq.quantization.moments import Moments, check_moments, corrected

if TYPE_CHECKING:
    from torch import Tensor

ROUNDS = 3
STEPS = 8
"""Of conjugate gradients in a round."""


def calibrated_codebook(weights: Tensor, moments: Moments, scheme: Scheme, name: str) -> QuantizedTensor:
    """Quantize float32 `[out, in]` to palettes or NormalFloat by GPTQ, then refit. Raises as both do."""
    return refit_codebook(weights, moments, gptq_codebook(weights, moments, scheme, name), name=name)


def refit_codebook(
    weights: Tensor, moments: Moments, tensor: QuantizedTensor, rounds: int = ROUNDS, *, name: str = "weight"
) -> QuantizedTensor:
    """`tensor` with better tables or scales, and codes, for float32 `weights [out, in]`; never a larger error.

    Raises CorruptInputError for NaN and infinity, UsageError for a tensor without a codebook.
    """
    import torch

    check_moments(weights, moments, name)
    target = corrected(weights, moments)
    order = torch.argsort(moments.hessian.diagonal(), descending=True, stable=True)
    order = order[moments.hessian.diagonal()[order] > 0]
    parts = []
    for rows in table_parts(len(target), tensor.scheme):
        state = _State.of(target[rows], _rows(tensor, rows), moments.hessian)
        for _ in range(rounds):
            _refit(state)
            _descend(state, order)
        parts.append(state.grid.tensor(state.codes))
    return stack(parts)


def _rows(tensor: QuantizedTensor, rows: slice) -> QuantizedTensor:
    """A part of `table_parts`."""
    tables = tensor.codebook
    shared = tensor.scheme.palette_rows
    if tables is not None and shared is not None:
        tables = tables[rows.start // shared : -(-rows.stop // shared)]
    return QuantizedTensor(
        scheme=tensor.scheme,
        codes=tensor.codes[rows],
        scales=tensor.scales[rows],
        zero_points=tensor.zero_points,
        codebook=tables,
    )


@dataclass(kw_only=True)
class _State:
    """Some rows, by input: codes int64 and `gradient = H (W - Q)^T`, float32, both `[in, out]`.

    Every change of the codes, tables or scales must be made to `gradient` as well.
    """

    hessian: Tensor
    grid: CodebookGrid
    codes: Tensor
    gradient: Tensor

    @classmethod
    def of(cls, target: Tensor, tensor: QuantizedTensor, hessian: Tensor) -> _State:
        import torch

        grid, codes = CodebookGrid.of(tensor)
        return cls(
            hessian=hessian,
            grid=grid,
            codes=codes,
            gradient=hessian @ (target - torch.from_numpy(tensor.dequantize())).t(),
        )

    def unknowns(self) -> _Entries | _Scales:
        """What a refit moves."""
        entries = self.grid.entries(self.codes)
        if self.grid.scale is None:
            return _Entries(grid=self.grid, entries=entries)
        return _Scales(grid=self.grid, levels=self.grid.tables.flatten()[entries])


@dataclass(frozen=True, kw_only=True)
class _Entries:
    """The entries of palettes as unknowns, float64 `[tables, levels]`: a system for each table."""

    grid: CodebookGrid
    entries: Tensor

    def now(self) -> Tensor:
        return self.grid.tables

    def change(self, unknowns: Tensor) -> Tensor:
        """By how much weights `[in, out]` change where the unknowns change so."""
        return unknowns.float().flatten()[self.entries]

    def back(self, gradient: Tensor) -> Tensor:
        """The transpose of `change`."""
        import torch

        places = self.grid.tables.numel()
        sums = torch.bincount(self.entries.flatten(), gradient.flatten().double(), minlength=places)
        return sums.reshape(self.grid.tables.shape)

    def squares(self, diagonal: Tensor) -> Tensor:
        """The diagonal of the systems, where `H` is diagonal."""
        return self.back(diagonal[:, None].expand_as(self.entries))

    def by_system(self, per_output: Tensor) -> Tensor:
        """Sums `[systems]` of `[out]`."""
        return per_output.reshape(len(self.grid.tables), -1).sum(1)

    def stored(self, wanted: Tensor) -> Tensor:
        """Rounded to what is stored."""
        import torch

        rounded = wanted.to(torch_dtype(self.grid.scheme.scale_dtype)).float()
        return torch.where(rounded.isfinite(), rounded, self.now())

    def put(self, values: Tensor, better: Tensor) -> None:
        """Take the values of the systems that are better."""
        self.grid.tables[better] = values[better]


@dataclass(frozen=True, kw_only=True)
class _Scales:
    """The scales of NormalFloat as unknowns, float64 `[out, groups]`: a system for each row. levels: `[in, out]`."""

    grid: CodebookGrid
    levels: Tensor

    @property
    def _scale(self) -> Tensor:
        assert self.grid.scale is not None  # noqa: S101 - has_scales
        return self.grid.scale

    def now(self) -> Tensor:
        return self._scale.t()

    def change(self, unknowns: Tensor) -> Tensor:
        return self.grid.per_input(unknowns.float().t(), len(self.levels)) * self.levels

    def back(self, gradient: Tensor) -> Tensor:
        return self._sums(gradient * self.levels)

    def squares(self, diagonal: Tensor) -> Tensor:
        return self._sums(diagonal[:, None] * self.levels.square())

    def _sums(self, per_weight: Tensor) -> Tensor:
        import torch

        padded = torch.nn.functional.pad(per_weight, (0, 0, 0, -len(per_weight) % self.grid.size))
        return padded.reshape(-1, self.grid.size, padded.shape[1]).sum(1, dtype=torch.float64).t()

    def by_system(self, per_output: Tensor) -> Tensor:
        return per_output

    def stored(self, wanted: Tensor) -> Tensor:
        import torch

        rounded = storable(wanted, self.grid.scheme.scale_dtype)
        return torch.where((wanted > 0) & rounded.isfinite(), rounded, self.now())

    def put(self, values: Tensor, better: Tensor) -> None:
        self._scale[:, better] = values[better].t()


def _refit(state: _State) -> None:
    """Move all unknowns to their common optimum, where that is still better once they are rounded."""
    import torch

    unknowns = state.unknowns()
    wanted = unknowns.now() + _solved(state, unknowns)
    values = unknowns.stored(wanted.float())
    change = unknowns.change(values - unknowns.now())
    pull = state.hessian @ change
    better = unknowns.by_system((change * (2 * state.gradient - pull)).sum(0)) > 0
    unknowns.put(values, better)
    state.gradient -= torch.where(better.repeat_interleave(pull.shape[1] // len(better)), pull, 0.0)
    _sort(state)


def _solved(state: _State, unknowns: _Entries | _Scales) -> Tensor:
    """What to add to the unknowns `[systems, unknowns]`, float64: the minimum of every system's error."""
    import torch

    left = unknowns.back(state.gradient)
    squares = unknowns.squares(state.hessian.diagonal())
    inverse = torch.where(squares > 0, 1 / squares, 0.0)
    found = torch.zeros_like(left)
    direction = inverse * left
    size = (left * direction).sum(1, keepdim=True)
    for _ in range(STEPS):
        pulled = unknowns.back(state.hessian @ unknowns.change(direction))
        curvature = (direction * pulled).sum(1, keepdim=True)
        step = torch.where(curvature > 0, size / curvature, 0.0)
        found += step * direction
        left -= step * pulled
        before, size = size, (left * inverse * left).sum(1, keepdim=True)
        direction = inverse * left + torch.where(before > 0, size / before, 0.0) * direction
    return found


def _sort(state: _State) -> None:
    """Entries may have overtaken one another."""
    order = state.grid.tables.argsort(dim=1, stable=True)
    state.codes = order.argsort(dim=1).flatten()[state.grid.entries(state.codes)]
    state.grid.tables = state.grid.tables.gather(1, order)


def _descend(state: _State, order: Tensor) -> None:
    """One sweep over the inputs in the given order: each code moves to its best place, given all others."""
    import torch

    grid, middles = state.grid, state.grid.middles()
    for indices in torch.split(order, BLOCK):
        hessian = state.hessian[:, indices]
        inner = hessian[indices].contiguous()
        gradient = state.gradient[indices]
        changes = torch.empty_like(gradient)
        diagonal = inner.diagonal().tolist()
        for at, index in enumerate(indices.tolist()):
            before = grid.values(index, state.codes[index])
            codes = grid.nearest(index, torch.add(before, gradient[at], alpha=1 / diagonal[at]), middles)
            torch.sub(grid.values(index, codes), before, out=changes[at])
            state.codes[index] = codes
            gradient[at + 1 :].addr_(inner[at, at + 1 :], changes[at], alpha=-1.0)
        state.gradient.addmm_(hessian, changes, alpha=-1.0)
