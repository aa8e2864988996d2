"""Second moments of what a linear layer is given: the metric in which calibrated methods measure their error.

`y = W x` changes by `(W - Q) x`, whose mean square over tokens is `tr((W - Q) H (W - Q)^T)` with `H = E[x x^T]`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeq.core.scheme import Scheme
from edgeq.core.tensor import QuantizedTensor
from edgeq.errors import CorruptInputError, InternalError

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 4096
"""Tokens whose products are added up in float32; the sums of chunks are kept in float64."""
DAMPING = 0.01
"""Share of the mean diagonal that is added to it, so that directions without data do not blow up."""
MOST_DAMPING = 1.0


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Means over tokens, float32 `[in, in]`.

    hessian: of `xq xq^T`, `xq` being what the already quantized layers before hand over. cross: of `x xq^T`, `x` being
    what the float model hands over; None where the two are not told apart.
    """

    hessian: Tensor
    cross: Tensor | None
    tokens: int


CalibratedFunction = Callable[["Tensor", Moments, Scheme, str], QuantizedTensor]
"""`(weights float32 [out, in], moments of its inputs, scheme, name for messages) -> QuantizedTensor`. Raises
CorruptInputError for NaN, infinity and values that no scale can hold, in the weights as in the moments."""


class MomentSums:
    """Adds up moments over any number of batches."""

    def __init__(self, inputs: int, *, cross: bool = True) -> None:
        import torch

        self._inputs = inputs
        self._hessian = torch.zeros((inputs, inputs), dtype=torch.float64)
        self._cross = torch.zeros_like(self._hessian) if cross else None
        self._tokens = 0

    @property
    def tokens(self) -> int:
        """How many were added."""
        return self._tokens

    def add(self, x_float: Tensor, x_quantized: Tensor) -> None:
        """Both `[tokens, in]`, of the same tokens. Raises InternalError for other shapes."""
        if x_float.shape != x_quantized.shape or x_quantized.dim() != 2 or x_quantized.shape[1] != self._inputs:
            raise InternalError(
                f"Inputs {tuple(x_float.shape)} and {tuple(x_quantized.shape)} are not both [tokens, {self._inputs}].",
                remedy="Report this.",
            )
        for start in range(0, len(x_quantized), CHUNK):
            part = x_quantized[start : start + CHUNK].float()
            self._hessian += part.t() @ part
            if self._cross is not None:
                self._cross += x_float[start : start + CHUNK].float().t() @ part
        self._tokens += len(x_quantized)

    def result(self) -> Moments:
        """The means. Raises InternalError where nothing was added."""
        if self._tokens == 0:
            raise InternalError("There are no moments of no tokens.", remedy="Report this.")
        cross = None if self._cross is None else (self._cross / self._tokens).float()
        return Moments(hessian=(self._hessian / self._tokens).float(), cross=cross, tokens=self._tokens)


def check_moments(weights: Tensor, moments: Moments, name: str) -> None:
    """Raises CorruptInputError unless all moments are finite, InternalError unless they fit `weights [out, in]`."""
    import torch

    expected = (weights.shape[1], weights.shape[1])
    for part in (moments.hessian, moments.cross):
        if part is None:
            continue
        if part.shape != expected:
            raise InternalError(
                f"{name!r} needs moments {expected}, not {tuple(part.shape)}.", remedy="Report this: wrong calibration."
            )
        if not bool(torch.isfinite(part).all()):
            raise CorruptInputError(
                f"The inputs of {name!r} contain NaN or infinity.",
                remedy="Calibrate with other text, or take a method that needs none, such as --method mse.",
            )


def loss(weights: Tensor, dequantized: Tensor, moments: Moments) -> float:
    """`tr((W - Q) H (W - Q)^T) / tr(W H W^T)` of float32 `[out, in]`: the relative squared error of the outputs."""
    hessian = moments.hessian.double()
    error = weights.double() - dequantized.double()
    total = weights.double()
    scale = float(((total @ hessian) * total).sum())
    return float(((error @ hessian) * error).sum()) / scale if scale > 0 else 0.0


def inverse_factor(hessian: Tensor, name: str, damping: float = DAMPING) -> Tensor:
    """The upper triangle `U`, float32 `[in, in]`, with `U^T U = (hessian + damping * mean diagonal)^-1`.

    Columns that no token ever used get a 1 on the diagonal. Damping grows tenfold until the factor exists. Raises
    InternalError where it never does: then the matrix holds no moments.
    """
    import torch

    matrix = hessian.double()
    diagonal = matrix.diagonal()
    mean = float(diagonal.mean()) or 1.0
    dead = diagonal <= 0
    added = damping
    while added <= MOST_DAMPING:
        damped = matrix + torch.diag(torch.where(dead, 1.0, added * mean))
        # With rows and columns reversed, the lower factor is that of the inverse: no inverse is ever formed.
        lower, failed = torch.linalg.cholesky_ex(damped.flip(0, 1))
        if int(failed) == 0:
            unit = torch.eye(len(matrix), dtype=torch.float64)
            factor: Tensor = torch.linalg.solve_triangular(lower.flip(0, 1), unit, upper=True).float()
            return factor
        added *= 10
    raise InternalError(f"The moments of {name!r} have negative eigenvalues.", remedy="Report this.")


def corrected(weights: Tensor, moments: Moments, share: float = 1.0, damping: float = DAMPING) -> Tensor:
    """The float32 `[out, in]` weights `W*` that make `W* xq` nearest to `W x`, or `share` of the way from `W` there.

    `W* = W + W (C - H) (H + damping)^-1`: damping draws towards `W`. Without a cross moment, `weights` themselves.
    """
    import torch

    if moments.cross is None or share == 0.0:
        return weights
    hessian = moments.hessian.double()
    diagonal = hessian.diagonal()
    damped = hessian + torch.diag(torch.where(diagonal > 0, damping * float(diagonal.mean()), 1.0))
    difference = weights.double() @ (moments.cross.double() - hessian)
    change: Tensor = torch.linalg.solve(damped, difference, left=False)
    return (weights.double() + share * change).float()
