"""The estimate of memory, counted by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.errors import CorruptInputError
from edgeq.runtimes.coreml import estimated_memory
from tests.runtimes.coreml import models
from tests.runtimes.coreml.programs import function, save

X = np.zeros((10, 10), dtype=np.float32)


def _chain(given: dict[str, Any]) -> list[Any]:
    """x 400; half 200; wide [10, 40] of half 800; view; sum [10] 20; last 40 and its output 40."""
    from coremltools.converters.mil.mil import Builder as mb  # noqa: N813

    half = mb.cast(x=given["x"], dtype="fp16")
    wide = mb.tile(x=half, reps=[1, 4])
    view = mb.reshape(x=wide, shape=[40, 10])
    return [mb.reduce_sum(x=view, axes=[0], keep_dims=False)]


def test_activations_are_those_alive_at_the_fullest_moment(tmp_path: Path) -> None:
    path = save(tmp_path / "model.mlpackage", {"main": function({"x": X}, _chain, names=["y"])})
    # While `wide` is made, `half` is still there and x is not.
    assert estimated_memory(path).activation_bytes == 200 + 800


def test_states_weights_and_the_larger_function(tmp_path: Path) -> None:
    both = estimated_memory(models.save_generator(tmp_path / "both.mlpackage"))
    alone = estimated_memory(models.save_decoder(tmp_path / "alone.mlpackage"))
    assert both.state_bytes == alone.state_bytes == 12 * 2 * 2
    assert both.weights_bytes > alone.weights_bytes > 0
    assert both.activation_bytes >= alone.activation_bytes > 0


def test_free_axes_count_at_their_longest(tmp_path: Path) -> None:
    free = estimated_memory(models.save_encoder(tmp_path / "free.mlpackage"))
    longest = estimated_memory(models.save_encoder(tmp_path / "longest.mlpackage", length=8))
    shorter = estimated_memory(models.save_encoder(tmp_path / "shorter.mlpackage", length=4))
    assert free.activation_bytes == longest.activation_bytes > shorter.activation_bytes


def test_a_free_axis_without_a_limit_is_refused(tmp_path: Path) -> None:
    path = models.save_encoder(tmp_path / "model.mlpackage", longest=-1)
    with pytest.raises(CorruptInputError, match="no limit"):
        estimated_memory(path)
