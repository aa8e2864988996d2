"""Hidden states block by block against those that transformers hands out itself."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel

from edgeq.core.details import ReferenceDetails
from edgeq.core.model import Task
from edgeq.models import layers
from edgeq.models.layers import LayerStates
from edgeq.models.reference import ReferenceRequest, compute
from edgeq.validation.reference_set import ReferenceSet
from tests.models.test_reference import make_store

SEQUENCES = ((1, 5, 9, 200, 17), (3, 4))


def hidden(model: PreTrainedModel, ids: tuple[int, ...]) -> list[np.ndarray[tuple[int, int], np.dtype[np.float64]]]:
    states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[1:]
    return [state[0].detach().numpy().astype(np.float64) for state in states]


@pytest.mark.parametrize(
    ("fixture", "task", "kind"),
    [("llama", "text-generation", AutoModelForCausalLM), ("bert", "feature-extraction", AutoModel)],
)
def test_layers_are_those_of_transformers(
    fixture: str, task: Task, kind: type[AutoModel], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    source = request.getfixturevalue(fixture)
    store = make_store(source, tmp_path / "store")
    compute(
        ReferenceRequest(
            source=str(source),
            store=str(store.directory),
            task=task,
            sequences=SEQUENCES,
            output=str(tmp_path / "out"),
        )
    )
    found = ReferenceSet.open(tmp_path / "out").details().layers
    model = kind.from_pretrained(source, dtype=torch.float32)
    original = [hidden(model, ids) for ids in SEQUENCES]
    model.load_state_dict({name: torch.from_numpy(store.dequantized(name)) for name in store.names()}, strict=False)
    quantized = [hidden(model, ids) for ids in SEQUENCES]
    count = len(original[0])
    assert [layer.layer for layer in found] == list(range(count))
    for index in range(count if task == "feature-extraction" else count - 1):  # llama's last is behind the norm
        a, b = (np.concatenate([states[index] for states in every]) for every in (original, quantized))
        cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert found[index].relative_error == pytest.approx(np.linalg.norm(b - a) / np.linalg.norm(a), rel=1e-3)
        assert found[index].cosine == pytest.approx(cosines.mean(), rel=1e-4)
    assert all(layer.relative_error > 1e-3 for layer in found)
    assert not list((tmp_path / "out").glob("tmp*")), "the states are gone"


class Blocks(nn.Module):
    """Two additions, the second of which `change` replaces."""

    def __init__(self, change: float = 1.0) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)])
        self.blocks[0].weight.data = torch.eye(2)
        self.blocks[1].weight.data = change * torch.eye(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def test_only_the_block_that_changed_differs(tmp_path: Path) -> None:
    states, x = LayerStates(tmp_path), torch.ones(1, 3, 2)
    with states.recording(model := Blocks()), torch.no_grad():
        model(x)
    with states.comparing(model := Blocks(1.5)), torch.no_grad():
        model(x)
    first, second = states.divergences()
    assert (first.relative_error, first.cosine) == (0.0, 1.0)
    assert second.relative_error == 0.5
    assert second.cosine == pytest.approx(1.0)
    assert not model._forward_pre_hooks
    assert not model.blocks[0]._forward_hooks


def test_broken_states_are_infinitely_far(tmp_path: Path) -> None:
    states, x = LayerStates(tmp_path), torch.ones(1, 3, 2)
    with states.recording(model := Blocks()), torch.no_grad():
        model(x)
    with states.comparing(model := Blocks(math.nan)), torch.no_grad():
        model(x)
    assert states.divergences()[1].relative_error == math.inf


def test_what_is_recorded_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "LARGEST", 40)
    states, x = LayerStates(tmp_path), torch.ones(1, 3, 2)
    with states.recording(model := Blocks()), torch.no_grad():
        model(x)
        model(x)
    assert len(list(tmp_path.iterdir())) == 2, "the second forward is not recorded"
    with states.comparing(model), torch.no_grad():
        model(x)
        model(2 * x)
    assert [layer.relative_error for layer in states.divergences()] == [0.0, 0.0]


def test_a_model_without_one_list_of_blocks_has_no_layers(tmp_path: Path) -> None:
    states, model = LayerStates(tmp_path), nn.Linear(2, 2)
    for watching in (states.recording(model), states.comparing(model)):
        with watching, torch.no_grad():
            model(torch.ones(1, 3, 2))
    assert states.divergences() == ReferenceDetails().layers
