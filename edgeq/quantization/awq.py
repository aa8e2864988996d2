"""AWQ: columns that large inputs meet are multiplied, what makes these inputs is divided, and less is rounded away.

AWQ: Activation-aware Weight Quantization for On-Device LLM Compression and Acceleration,
https://arxiv.org/abs/2306.00978. A channel's scale is a power of its mean absolute value. The exponent is the one with
which the quantizer in use errs least on the outputs; it is none where that is no better. The scales go into the norm or
linear before, so no runtime knows of them, and whatever quantizes the columns afterwards gains: rounding, or GPTQ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgeq.core.recipe import Assignment
from edgeq.core.scheme import Scheme
from edgeq.core.tensor import QuantizedTensor
from edgeq.errors import CorruptInputError
from edgeq.quantization.gptq import ROWS, check_grid
from edgeq.quantization.grid import assemble, group, nearest, stack
from edgeq.quantization.methods import CALIBRATED, SCALING, function_for
from edgeq.quantization.moments import Moments, MomentSums, check_moments
from edgeq.quantization.scale_search import weighted_grid
from edgeq.quantization.threads import all_threads

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from edgeq.models.blocks import Activations, BlockRunner
    from edgeq.models.folding import Fold

EXPONENTS = 20
"""Tried from 0 on, evenly, below 1."""
QUIETEST = 1e-4
"""Channels below this share of the loudest count as that loud, those that no token used as well."""


def awq(weights: Tensor, moments: Moments, scheme: Scheme, name: str) -> QuantizedTensor:
    """Round float32 `[out, in]`, scaled before, to grids searched with errors weighted by the inputs' mean squares.

    Raises CorruptInputError for NaN, infinity and huge values, UsageError for schemes with a codebook.
    """
    import torch

    check_grid(scheme, "awq")
    check_moments(weights, moments, name)
    importance = moments.hessian.diagonal()
    parts = []
    for rows in torch.split(weights, ROWS):
        groups = group(np.ascontiguousarray(rows.numpy()), scheme)
        grid = weighted_grid(groups, importance, name)
        parts.append(assemble(groups, grid, nearest(groups, grid)))
    return stack(parts)


@dataclass(frozen=True, kw_only=True, eq=False)
class Reader:
    """A linear that reads scaled channels: its weights, float32 `[out, in]`, and how they will be quantized."""

    weights: Tensor
    quantize: Callable[[Tensor, Moments], QuantizedTensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """All that the search takes. moments: of the unscaled inputs. magnitudes: float32 `[channels]`, their mean absolute
    values. columns: int64 `[in]`, the channel of each input."""

    readers: tuple[Reader, ...]
    moments: Moments
    magnitudes: Tensor
    columns: Tensor

    def candidates(self) -> list[Tensor]:
        """Scales `[channels]` for each exponent, around 1; the first are all 1."""
        import torch

        loudest = float(self.magnitudes.max())
        if loudest == 0:
            return [torch.ones_like(self.magnitudes)]
        shares = (self.magnitudes / loudest).clamp(min=QUIETEST)
        powers = [shares ** (step / EXPONENTS) for step in range(EXPONENTS)]
        return [power / (power.max() * power.min()).sqrt() for power in powers]

    def error(self, scales: Tensor) -> float:
        """`tr((W - Q) H (W - Q)^T)` of all readers' scaled weights and inputs; infinite where no grid holds them."""
        import torch

        by_column = scales[self.columns]
        moments = replace(self.moments, hessian=self.moments.hessian / by_column / by_column[:, None], cross=None)
        total = 0.0
        for reader in self.readers:
            weights = reader.weights * by_column
            try:
                tensor = reader.quantize(weights, moments)
            except CorruptInputError:
                if bool((scales == 1).all()):
                    raise
                return float("inf")
            missed = weights - torch.from_numpy(tensor.dequantize())
            total += float(((missed @ moments.hessian) * missed).sum(dtype=torch.float64))
        return total


def search(pairs: list[Pair], pool: ThreadPoolExecutor) -> list[Tensor | None]:
    """The best scales of every pair, float32 `[channels]`; None where none are better than no scales.

    Raises CorruptInputError for NaN and infinity, in weights and moments.
    """
    candidates = [pair.candidates() for pair in pairs]
    tried = [
        [pool.submit(pair.error, scales) for scales in scales_of]
        for pair, scales_of in zip(pairs, candidates, strict=True)
    ]
    best: list[Tensor | None] = []
    for futures, scales_of in zip(tried, candidates, strict=True):
        errors = [future.result() for future in futures]
        least = errors.index(min(errors))
        best.append(scales_of[least] if least > 0 else None)
    return best


def scale_block(
    runner: BlockRunner,
    index: int,
    block: nn.Module,
    hidden: Activations,
    *,
    assignments: Mapping[str, Assignment],
    pool: ThreadPoolExecutor,
) -> dict[str, npt.NDArray[np.float32]]:
    """Scale in `block` the pairs that have a reader which a scaling method quantizes; it answers as before.

    hidden: what the block is given. Returns the weights that changed and will not be quantized, by their stored names,
    in the module's orientation. Raises CorruptInputError for NaN and infinity.
    """
    from edgeq.models.folding import apply_fold, find_folds

    stored = runner.parameters(index, block)
    names = {id(parameter): name for name, parameter in stored.items()}
    owned = {path: [names[id(part)] for part in module.parameters()] for path, module in block.named_modules()}
    folds = [fold for fold in find_folds(runner, index, block) if _is_wanted(fold, owned, assignments)]
    if not folds:
        return {}
    with all_threads():
        inputs = _inputs(runner, index, block, folds, hidden)
    readers = [_readers(fold, block, owned, assignments) for fold in folds]
    pairs = [
        Pair(readers=of_fold, moments=sums.result(), magnitudes=by_channel, columns=fold.columns)
        for fold, of_fold, (sums, by_channel) in zip(folds, readers, inputs, strict=True)
    ]
    changed: set[str] = set()
    for fold, scales in zip(folds, search(pairs, pool), strict=True):
        if scales is not None:
            apply_fold(block, fold, scales)
            changed.update(name for path in (fold.producer, *fold.consumers) for name in owned[path])
    floats = [name for name in stored if name in changed and name not in assignments]
    return {name: stored[name].detach().numpy() for name in floats}


def _is_wanted(fold: Fold, owned: Mapping[str, list[str]], assignments: Mapping[str, Assignment]) -> bool:
    """Whether a scaling method quantizes one of the readers, and nothing becomes float16, which would round what was
    scaled: the next blocks would be given something else when a killed run continues."""
    involved = [name for path in (fold.producer, *fold.consumers) for name in owned[path] if name in assignments]
    if any(assignments[name].scheme.is_float for name in involved):
        return False
    read = [name for path in fold.consumers for name in owned[path] if name in assignments]
    return any(assignments[name].method in SCALING for name in read)


def _readers(
    fold: Fold, block: nn.Module, owned: Mapping[str, list[str]], assignments: Mapping[str, Assignment]
) -> tuple[Reader, ...]:
    """The readers that will be quantized: only they err."""
    from edgeq.models.folding import by_output

    readers = []
    for path in fold.consumers:
        for name in owned[path]:
            if name in assignments:
                weights = by_output(block.get_submodule(path)).contiguous()
                readers.append(Reader(weights=weights, quantize=_quantizer(assignments[name], name)))
    return tuple(readers)


def _quantizer(assignment: Assignment, name: str) -> Callable[[Tensor, Moments], QuantizedTensor]:
    """How a reader is quantized in the search. The errors that GPTQ still makes up for are in proportion to those of
    its grids, which are searched in the same way."""
    scheme = assignment.scheme
    if assignment.method in CALIBRATED and scheme.codebook is None:
        return lambda weights, moments: awq(weights, moments, scheme, name)
    function = function_for(assignment.method, scheme)
    return lambda weights, _moments: function(weights.numpy(), scheme, name)


def _inputs(
    runner: BlockRunner, index: int, block: nn.Module, folds: list[Fold], hidden: Activations
) -> list[tuple[MomentSums, Tensor]]:
    """For each pair the moments of what its readers are given, and the mean absolute value of each channel."""
    import torch

    sums = [MomentSums(len(fold.columns), cross=False) for fold in folds]
    totals = [torch.zeros(len(fold.columns), dtype=torch.float64) for fold in folds]
    hooks = []
    for fold, moments, total in zip(folds, sums, totals, strict=True):

        def add(
            _linear: nn.Module,
            inputs: tuple[torch.Tensor, ...],
            moments: MomentSums = moments,
            total: torch.Tensor = total,
        ) -> None:
            tokens = inputs[0].reshape(-1, inputs[0].shape[-1])
            moments.add(tokens, tokens)
            total += tokens.abs().sum(0, dtype=torch.float64)

        hooks.append(block.get_submodule(fold.consumers[0]).register_forward_pre_hook(add))
    try:
        for batch, states in enumerate(hidden):
            runner.run_batch(block, index, batch, states)
    finally:
        for hook in hooks:
            hook.remove()
    found = []
    for fold, moments, total in zip(folds, sums, totals, strict=True):
        by_channel = torch.zeros(fold.channels, dtype=torch.float64).index_add_(0, fold.columns, total)
        found.append((moments, (by_channel / fold.columns.bincount() / moments.tokens).float()))
    return found
