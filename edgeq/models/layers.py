"""How far the hidden states of two models lie apart after each block: one is recorded, the other compared with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edgeq.core.details import LayerDivergence
from edgeq.errors import UnsupportedModelError
from edgeq.files import output_errors, save_array
from edgeq.models.chain import find_blocks

LARGEST = 256 * 2**20
"""Bytes of recorded states from which no further forward is recorded: many tokens say nothing new."""
See = Callable[[int, torch.Tensor], None]
"""`(place in the forward, hidden states)`."""


class LayerStates:
    """The states of one model in `directory`, one file per forward and block, and sums of how another's differ.

    A block that runs several times counts each time. Nothing is recorded of a model whose blocks are not one list, or
    return no tensor first.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._written = 0
        self._sums: dict[int, npt.NDArray[np.float64]] = {}
        with output_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def recording(self, model: nn.Module) -> Iterator[None]:
        """Keep what the blocks of `model` return in every forward within. Raises OutputError."""

        def begin(forward: int) -> See | None:
            if self._written >= LARGEST:
                return None
            return lambda place, hidden: self._keep(forward, place, hidden)

        with _watched(model, begin):
            yield

    @contextmanager
    def comparing(self, model: nn.Module) -> Iterator[None]:
        """Compare what the blocks of `model` return with what was kept of the same forward."""
        with _watched(model, lambda forward: lambda place, hidden: self._compare(forward, place, hidden)):
            yield

    def divergences(self) -> tuple[LayerDivergence, ...]:
        """One entry per block, in the order in which they ran; empty where nothing was compared."""
        return tuple(
            LayerDivergence(
                layer=place,
                relative_error=_share(difference, reference),
                cosine=float(f"{cosines / rows:.6g}"),
            )
            for place, (difference, reference, cosines, rows) in sorted(self._sums.items())
        )

    def _path(self, forward: int, place: int) -> Path:
        return self._directory / f"{forward:04d}-{place:04d}.npy"

    def _keep(self, forward: int, place: int, hidden: torch.Tensor) -> None:
        values = _rows(hidden)
        self._written += values.nbytes
        save_array(self._path(forward, place), values)

    def _compare(self, forward: int, place: int, hidden: torch.Tensor) -> None:
        path = self._path(forward, place)
        if not path.is_file():
            return
        reference, candidate = np.load(path).astype(np.float64), _rows(hidden).astype(np.float64)
        difference = candidate - reference
        norms = np.linalg.norm(reference, axis=1) * np.linalg.norm(candidate, axis=1)
        products = (reference * candidate).sum(axis=1)
        cosines = np.divide(products, norms, out=np.ones_like(products), where=norms > 0)
        found = np.array([(difference**2).sum(), (reference**2).sum(), cosines.sum(), len(cosines)])
        self._sums[place] = self._sums.get(place, np.zeros(4)) + found


@contextmanager
def _watched(model: nn.Module, begin: Callable[[int], See | None]) -> Iterator[None]:
    """Ask `begin` at the start of each forward of `model` who is to see the states that its blocks return."""
    try:
        blocks = find_blocks(model)[1]
    except UnsupportedModelError:
        yield
        return
    forwards, place = -1, 0
    see: See | None = None

    def enter(*_: object) -> None:
        nonlocal forwards, place, see
        forwards, place = forwards + 1, 0
        see = begin(forwards)

    def leave(module: nn.Module, arguments: object, output: object) -> None:
        nonlocal place
        hidden = output[0] if isinstance(output, tuple) and output else output
        if see is not None and isinstance(hidden, torch.Tensor):
            see(place, hidden)
        place += 1

    handles = [model.register_forward_pre_hook(enter), *(block.register_forward_hook(leave) for block in blocks)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _rows(hidden: torch.Tensor) -> npt.NDArray[np.float32]:
    """float32 `[tokens, hidden]`; what is no `[batch, tokens, hidden]` is one row."""
    rows = hidden.flatten(0, 1) if hidden.ndim == 3 else hidden.reshape(1, -1)
    return np.asarray(rows.detach().float().numpy())


def _share(difference: float, reference: float) -> float:
    """Four significant digits: more only fill the report."""
    if not np.isfinite(difference) or reference <= 0:
        return 0.0 if difference == 0 else float("inf")
    return float(f"{np.sqrt(difference / reference):.4g}")
