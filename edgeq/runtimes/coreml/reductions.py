"""Reductions, orders and running sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from edgeq.runtimes.coreml.operator import Operator, on

Tensor = torch.Tensor


def _reduction(function: Callable[[Tensor, list[int], bool], Tensor]) -> Operator:
    """`function(x, axes, keep_dims)`; without axes, over all."""

    def run(x: Tensor, *, axes: Sequence[int] | None = None, keep_dims: bool) -> Tensor:
        return function(x, list(range(x.dim())) if axes is None else list(axes), keep_dims)

    return on("x", run)


def _norm_1(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.abs().sum(axes, keepdim=keep)


def _norm_2(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.square().sum(axes, keepdim=keep).sqrt()


def _log_sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.sum(axes, keepdim=keep).log()


def _sum_of_squares(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.square().sum(axes, keepdim=keep)


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    ordered = sorted((axis % x.dim() for axis in axes), reverse=True)
    for axis in ordered:
        x = x.prod(axis, keepdim=keep)
    return x


def _index_of(function: Callable[..., Tensor]) -> Operator:
    def run(x: Tensor, *, axis: int, keep_dims: bool, output_dtype: str = "int32") -> Tensor:
        return function(x, axis, keepdim=keep_dims)

    return on("x", run)


def _cumsum(x: Tensor, *, axis: int, exclusive: bool, reverse: bool) -> Tensor:
    ordered = x.flip(axis) if reverse else x
    total = ordered.cumsum(axis)
    if exclusive:
        total = total - ordered
    return total.flip(axis) if reverse else total


def _argsort(x: Tensor, *, axis: int, ascending: bool) -> Tensor:
    return torch.argsort(x, dim=axis, descending=not ascending, stable=True)


def _topk(
    x: Tensor,
    *,
    k: int,
    axis: int,
    ascending: bool,
    sort: bool = True,
    return_indices: bool = True,
    output_indices_dtype: str = "int32",
) -> Tensor | tuple[Tensor, Tensor]:
    found = torch.topk(x, x.shape[axis] if k == -1 else k, dim=axis, largest=not ascending, sorted=sort)
    return (found.values, found.indices) if return_indices else found.values


REDUCTIONS: dict[str, Operator] = {
    "argsort": on("x", _argsort),
    "cumsum": on("x", _cumsum),
    "reduce_argmax": _index_of(torch.argmax),
    "reduce_argmin": _index_of(torch.argmin),
    "reduce_l1_norm": _reduction(_norm_1),
    "reduce_l2_norm": _reduction(_norm_2),
    "reduce_log_sum": _reduction(_log_sum),
    "reduce_log_sum_exp": _reduction(torch.logsumexp),
    "reduce_max": _reduction(torch.amax),
    "reduce_mean": _reduction(torch.mean),
    "reduce_min": _reduction(torch.amin),
    "reduce_prod": _reduction(_product),
    "reduce_sum": _reduction(torch.sum),
    "reduce_sum_square": _reduction(_sum_of_squares),
    "topk": on("x", _topk),
}
