"""A language model's inputs and outputs: what an app passes, and what the graph makes of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest
import torch
from torch import nn

from edgeq.lowering import operators
from tests.lowering.converting import (
    TRACED,
    Case,
    Given,
    export,
    integers,
    make_inputs,
    open_session,
    randomize,
    translate,
)

Array = npt.NDArray[Any]
IDS, MASK = integers("b", "s", low=0, high=24), Given(torch.int64, ("b", "t"), 1, 2)
SIZE = 8


class Cached(nn.Module):
    """Gives what it was given, and what its cache holds after the new tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(24, 2 * SIZE)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        kept_positions: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        new = self.table(input_ids).view(*input_ids.shape, 2, SIZE).transpose(1, 2)
        key, value = operators.append_cache(new, new * 2, attention_mask, 3)
        return position_ids, kept_positions, (key + value).sum(-1)


@pytest.fixture(scope="module")
def module() -> Cached:
    cached = Cached()
    randomize(cached)
    return cached


@pytest.fixture(scope="module")
def session(module: Cached, tmp_path_factory: pytest.TempPathFactory) -> ort.InferenceSession:
    directory = tmp_path_factory.mktemp("signature")
    case = Case(name="cached", operators=(), module=module, inputs=(IDS, MASK, IDS, integers("k", low=0, high=5)))
    program = export(module, case.inputs, make_inputs(case, {**TRACED, "k": 3}))
    return open_session(translate(program, module, case, directory, "text-generation").save(directory))


def run(session: ort.InferenceSession, ids: Array, mask: Array, *, keep: int = 0, past: int = 0) -> list[Array]:
    cache = np.ones((len(ids), 2, past, SIZE), np.float32)
    feeds = {"input_ids": ids, "attention_mask": mask, "num_logits_to_keep": np.array(keep)}
    names = ("past_key_values.3.key", "past_key_values.3.value")
    outputs: list[Array] = session.run(None, {**feeds, **dict.fromkeys(names, cache)})
    return outputs


def test_inputs_and_outputs_have_public_names(session: ort.InferenceSession) -> None:
    past = ["batch_size", 2, "past_sequence_length", SIZE]
    assert {given.name: given.shape for given in session.get_inputs()} == {
        "input_ids": ["batch_size", "sequence_length"],
        "attention_mask": ["batch_size", "total_sequence_length"],
        "num_logits_to_keep": [],
        "past_key_values.3.key": past,
        "past_key_values.3.value": past,
    }
    present = ["batch_size", 2, "total_sequence_length", SIZE]
    outputs = {given.name: given.shape for given in session.get_outputs()}
    assert outputs["present.3.key"] == outputs["present.3.value"] == present


def test_positions_count_the_real_tokens(session: ort.InferenceSession) -> None:
    ids = np.zeros((3, 3), np.int64)
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 0, 0, 1]])
    positions = run(session, ids, mask, past=2)[0]
    assert positions.tolist() == [[2, 3, 4], [2, 2, 2], [0, 0, 0]]


@pytest.mark.parametrize(
    ("keep", "positions"), [(0, [0, 1, 2, 3]), (1, [3]), (3, [1, 2, 3]), (4, [0, 1, 2, 3]), (9, [0, 1, 2, 3])]
)
def test_as_many_positions_are_kept_as_asked(session: ort.InferenceSession, keep: int, positions: list[int]) -> None:
    ids = np.zeros((1, 4), np.int64)
    assert run(session, ids, np.ones((1, 4), np.int64), keep=keep)[1].tolist() == positions


@pytest.mark.parametrize("past", [0, 3])
def test_the_cache_grows_by_the_new_tokens(session: ort.InferenceSession, module: Cached, past: int) -> None:
    ids = np.array([[1, 2], [3, 4]])
    _, _, sums, key, value = run(session, ids, np.ones((2, past + 2), np.int64), past=past)
    new = module.table.weight.detach().numpy()[ids].reshape(2, 2, 2, SIZE).transpose(0, 2, 1, 3)
    assert np.array_equal(key, np.concatenate([np.ones((2, 2, past, SIZE), np.float32), new], axis=2))
    assert np.array_equal(value[:, :, past:], 2 * new)
    np.testing.assert_allclose(sums, (key + value).sum(-1), rtol=1e-5)
