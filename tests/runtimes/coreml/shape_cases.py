"""Reductions, shapes and indices: what numpy says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from tests.runtimes.coreml.programs import Array, Case, case, floats, ints

RNG = np.random.default_rng(1)
X: Array = RNG.normal(size=(2, 3, 4)).astype(np.float32)
P: Array = np.abs(X) + np.float32(0.1)
ROWS: Array = RNG.normal(size=(4, 5)).astype(np.float32)


def _into(data: Array, place: Any, update: Array) -> Array:  # noqa: ANN401 - whatever numpy indexes with
    changed = data.copy()
    changed[place] = update
    return changed


def _scattered(mode: str) -> Case:
    """Rows 3 and 0 of ROWS meet rows of `updates`."""
    functions: dict[str, Callable[[Array, Array], Array]] = {
        "update": lambda _, b: b,
        "add": np.add,
        "sub": np.subtract,
        "mul": np.multiply,
        "div": np.divide,
        "max": np.maximum,
        "min": np.minimum,
    }
    updates = RNG.normal(size=(2, 5)).astype(np.float32) + np.float32(3)
    tensors = {"data": ROWS, "indices": ints([3, 0]), "updates": updates}
    expected = _into(ROWS, [3, 0], functions[mode](ROWS[[3, 0]], updates))
    return case("scatter", tensors, expected, axis=0, mode=mode)


REDUCTIONS = [
    case("argsort", {"x": X}, np.argsort(X, axis=1), axis=1, ascending=True),
    case("argsort", {"x": X}, np.argsort(-X, axis=-1), axis=-1, ascending=False),
    case("cumsum", {"x": X}, np.cumsum(X, axis=1), axis=1, exclusive=False, reverse=False),
    # coremltools means to infer this one, but calls numpy wrongly.
    replace(case("cumsum", {"x": X}, np.cumsum(X, axis=2) - X, axis=2, exclusive=True, reverse=False), infers=False),
    case("cumsum", {"x": X}, np.cumsum(X[..., ::-1], axis=2)[..., ::-1], axis=2, exclusive=False, reverse=True),
    case("reduce_argmax", {"x": X}, np.argmax(X, axis=1), axis=1, keep_dims=False),
    case("reduce_argmin", {"x": X}, np.argmin(X, axis=2)[..., None], axis=2, keep_dims=True),
    case("reduce_l1_norm", {"x": X}, np.abs(X).sum(-1), axes=[-1], keep_dims=False),
    case("reduce_l2_norm", {"x": X}, np.sqrt((X**2).sum((1, 2), keepdims=True)), axes=[1, 2], keep_dims=True),
    case("reduce_log_sum", {"x": P}, np.log(P.sum(1)), axes=[1], keep_dims=False),
    case("reduce_log_sum_exp", {"x": X}, np.log(np.exp(X).sum(1)), axes=[1], keep_dims=False),
    case("reduce_max", {"x": X}, X.max((0, 2)), axes=[0, 2], keep_dims=False),
    case("reduce_mean", {"x": X}, X.mean(-1, keepdims=True), axes=[-1], keep_dims=True),
    case("reduce_min", {"x": X}, X.min(1), axes=[1], keep_dims=False),
    case("reduce_prod", {"x": X}, X.prod((0, 2)), axes=[0, 2], keep_dims=False),
    case("reduce_sum", {"x": X}, X.sum((1, 2)), axes=[-1, 1], keep_dims=False),
    case("reduce_sum", {"x": X}, X.sum(keepdims=True), keep_dims=True),
    case("reduce_sum_square", {"x": X}, (X**2).sum(0), axes=[0], keep_dims=False),
    case(
        "topk",
        {"x": X},
        (-np.sort(-X, axis=2)[..., :2], np.argsort(-X, axis=2)[..., :2]),
        k=2,
        axis=2,
        ascending=False,
    ),
]
SHAPES = [
    case("band_part", {"x": X}, np.triu(X), lower=0, upper=-1),
    case("band_part", {"x": X}, np.tril(np.triu(X, -1), 1), lower=1, upper=1),
    case("concat", {"values": [X, P]}, np.concatenate([X, P], 1), axis=1),
    # coremltools forgets to interleave what it infers.
    replace(
        case("concat", {"values": [X, P]}, np.stack([X, P], 2).reshape(2, 6, 4), axis=1, interleave=True), infers=False
    ),
    case("expand_dims", {"x": X}, X[:, None, :, :, None], axes=[1, -1]),
    case("fill", {}, np.full((2, 3), 1.5, np.float32), shape=[2, 3], value=1.5),
    case("fill_like", {"ref_tensor": X}, np.full(X.shape, 7, np.int32), value=7),
    case("flatten2d", {"x": X}, X.reshape(2, 12), axis=1),
    case(
        "one_hot",
        {"indices": ints([2, 0])},
        floats([[0, 0, 5], [5, 0, 0]]),
        one_hot_vector_size=3,
        axis=-1,
        on_value=5.0,
        off_value=0.0,
    ),
    case(
        "pad",
        {"x": X},
        np.pad(X, ((0, 0), (1, 2), (3, 0)), constant_values=2),
        pad=[1, 2, 3, 0],
        mode="constant",
        constant_val=2.0,
    ),
    case("pad", {"x": X}, np.pad(X, ((0, 0), (2, 1), (0, 3)), mode="reflect"), pad=[2, 1, 0, 3], mode="reflect"),
    case("pad", {"x": X}, np.pad(X, ((0, 0), (2, 1), (0, 3)), mode="edge"), pad=[2, 1, 0, 3], mode="replicate"),
    case("range_1d", {}, np.arange(3, 11, 2, dtype=np.int32), start=3, end=11, step=2),
    case("reshape", {"x": X}, X.reshape(4, 6), shape=[4, -1]),
    case("reshape", {"x": ROWS}, ROWS.reshape(1, 1, 4, 5), shape=[1, 0, -1, 0]),
    case("reverse", {"x": X}, X[:, ::-1, ::-1], axes=[1, 2]),
    case("shape", {"x": X}, ints([2, 3, 4])),
    case("split", {"x": X}, tuple(np.split(X, 2, axis=2)), num_splits=2, axis=2),
    case("split", {"x": X}, (X[:, :1], X[:, 1:]), split_sizes=[1, 2], axis=1),
    case("squeeze", {"x": X[:, :1, :, None]}, X[:, 0], axes=[1, 3]),
    case("stack", {"values": [X, P]}, np.stack([X, P], 1), axis=1),
    case("tile", {"x": X}, np.tile(X, (1, 2, 3)), reps=[1, 2, 3]),
    case("transpose", {"x": X}, X.transpose(2, 0, 1), perm=[2, 0, -2]),
]
INDICES = ints([[2, 0], [1, 1]])
DEEP = ints([[0, 2], [1, 0], [1, 2]])
INDEXING = [
    case("gather", {"x": ROWS, "indices": INDICES}, ROWS[INDICES], axis=0),
    case("gather", {"x": X, "indices": ints([3, 3, 0])}, X[:, :, [3, 3, 0]], axis=-1),
    case(
        "gather",
        {"x": X, "indices": INDICES},
        np.stack([X[row][INDICES[row]] for row in range(2)]),
        axis=1,
        batch_dims=1,
    ),
    case(
        "gather_along_axis",
        {"x": X, "indices": np.argsort(X, axis=1).astype(np.int32)},
        np.sort(X, axis=1),
        axis=1,
    ),
    case("gather_nd", {"x": X, "indices": DEEP}, X[DEEP[:, 0], DEEP[:, 1]], batch_dims=0),
    case(
        "gather_nd",
        {"x": X, "indices": INDICES[..., None]},
        np.stack([X[row][INDICES[row]] for row in range(2)]),
        batch_dims=1,
    ),
    *(_scattered(mode) for mode in ("update", "add", "sub", "mul", "div", "max", "min")),
    case(
        "scatter",
        {"data": X, "indices": ints([1, 1]), "updates": P[:, :, :2]},
        _into(X, np.s_[:, :, 1], X[:, :, 1] + P[:, :, 0] + P[:, :, 1]),
        axis=2,
        mode="add",
    ),
    case(
        "scatter_along_axis",
        {"data": X, "indices": ints([[[2, 0, 1, 2]], [[0, 0, 2, 1]]]), "updates": P[:, :1]},
        _into(X, ([[0], [1]], [[2, 0, 1, 2], [0, 0, 2, 1]], [[0, 1, 2, 3]]), P[:, 0]),
        axis=1,
        mode="update",
    ),
    case(
        "scatter_nd",
        {"data": X, "indices": DEEP, "updates": ROWS[:3, :4]},
        _into(X, (DEEP[:, 0], DEEP[:, 1]), X[DEEP[:, 0], DEEP[:, 1]] + ROWS[:3, :4]),
        mode="add",
    ),
    case("slice_by_index", {"x": X}, X[0:2, 1:3, 0:4:2], begin=[0, 1, 0], end=[2, 3, 4], stride=[1, 1, 2]),
    case(
        "slice_by_index",
        {"x": X},
        X[1, ::-1, -3:],
        begin=[1, 0, -3],
        end=[0, 0, 0],
        stride=[1, -1, 1],
        begin_mask=[False, True, False],
        end_mask=[False, True, True],
        squeeze_mask=[True, False, False],
    ),
    case("slice_by_size", {"x": X}, X[:, 1:2, 1:], begin=[0, 1, 1], size=[-1, 1, -1]),
    case(
        "slice_update",
        {"x": X, "update": P[:, :2, ::2]},
        _into(X, np.s_[:, 1:3, ::2], P[:, :2, ::2]),
        begin=[0, 1, 0],
        end=[2, 3, 4],
        stride=[1, 1, 2],
    ),
]
CASES: list[Case] = REDUCTIONS + SHAPES + INDEXING
