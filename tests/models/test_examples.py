"""Plain modules with example inputs: what is refused, what outputs are called, and which cases they are judged on."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import pytest
import torch
from torch import nn

from edgeq.errors import UnsupportedModelError, UsageError
from edgeq.models.examples import (
    PERTURBED,
    Examples,
    answers_to,
    batched_inputs,
    check_module,
    evaluating,
    flat_outputs,
    read_examples,
)


class Two(nn.Module):
    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return first - second


class Many(nn.Module):
    def forward(self, first: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        return torch.stack([first, *rest])


class Root(nn.Module):
    """NaN for what is below zero."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sqrt()


def of(module: nn.Module, *values: torch.Tensor) -> Examples:
    return read_examples(module, values)


def test_inputs_are_named_by_the_signature() -> None:
    x, y = torch.zeros(2), torch.ones(2)
    positional = read_examples(Two(), (x, y))
    assert (positional.names, positional.positional) == (("first", "second"), 2)
    named = read_examples(Two(), {"second": y, "first": x})
    assert (named.names, named.positional) == (("second", "first"), 0)
    assert torch.equal(positional.call(Two(), positional.values), named.call(Two(), named.values))
    assert of(Many(), x, y, y).names == ("first", "rest_0", "rest_1")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.zeros(2), "are a Tensor, not a tuple"),
        ((), "are a tuple, not a tuple of tensors"),
        ({}, "are a dict"),
        ("x", "are a str"),
        ((torch.zeros(2),), "does not take the example inputs"),
        ({"first": torch.zeros(2), "third": torch.zeros(2)}, "does not take the example inputs"),
        ((torch.zeros(2), 3), "'second' is a int, not a tensor"),
        ({"first": torch.zeros(2), "second": None}, "'second' is a NoneType, not a tensor"),
        ((torch.zeros(2), torch.zeros(2, device="meta")), "'second' is on meta"),
    ],
)
def test_inputs_that_are_refused(inputs: Any, message: str) -> None:  # noqa: ANN401 - wrong on purpose
    with pytest.raises(UsageError, match=message):
        read_examples(Two(), inputs)


def test_weights_elsewhere_and_of_other_types_are_refused() -> None:
    check_module(nn.Linear(2, 2))
    with pytest.raises(UsageError, match="'weight' is on meta"):
        check_module(nn.Linear(2, 2, device="meta"))
    with pytest.raises(UnsupportedModelError, match=r"torch.bfloat16.*module.float\(\)"):
        check_module(nn.Linear(2, 2, dtype=torch.bfloat16))


def test_a_module_is_left_as_it_was() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    module[1].eval()
    with evaluating(module):
        assert not module.training
        assert not torch.is_grad_enabled()
    assert (module.training, module[0].training, module[1].training) == (True, True, False)
    assert torch.is_grad_enabled()
    assert torch.backends.mha.get_fastpath_enabled()


def test_names_of_outputs() -> None:
    x = torch.zeros(1)
    pair = namedtuple("pair", ["left", "right"])
    assert list(flat_outputs(x)) == ["output"]
    assert list(flat_outputs((x, x))) == ["output_0", "output_1"]
    assert list(flat_outputs({"logits": x, "hidden": (x, x)})) == ["logits", "hidden_0", "hidden_1"]
    assert list(flat_outputs(pair(x, x))) == ["left", "right"]
    assert len(flat_outputs({"a": {"b": x}, "a_b": x})) == 2


@pytest.mark.parametrize("output", [None, (torch.zeros(1), None), {"n": 3}, (), []])
def test_outputs_that_are_no_tensors(output: object) -> None:
    with pytest.raises(UnsupportedModelError, match=r"not a tensor|returns nothing"):
        flat_outputs(output)


def test_cases_are_the_example_perturbed_ones_and_other_batches() -> None:
    torch.manual_seed(0)
    floats, ids = torch.randn(3, 5), torch.randint(7, (3, 5))
    answers = answers_to(Two(), of(Two(), floats, ids), batch=True)
    assert answers.names == ("output",)
    assert [len(case[0]) for case in answers.cases] == [3] * (PERTURBED + 1) + [1, 4]
    assert torch.equal(answers.cases[0][0], floats)
    for (noisy, moved), (said,) in zip(answers.cases[1 : PERTURBED + 1], answers.outputs[1:], strict=False):
        assert 0 < float((noisy - floats).abs().max()) < 1
        assert torch.equal(moved.sort().values, ids.sort().values)
        assert torch.equal(said, noisy - moved)
    again = answers_to(Two(), of(Two(), floats, ids), batch=True)
    assert all(map(torch.equal, (case[0] for case in answers.cases), (case[0] for case in again.cases)))
    assert len(answers_to(Two(), of(Two(), floats, ids), batch=False).cases) == PERTURBED + 1


def test_perturbed_inputs_without_an_answer_are_left_out_and_told_of() -> None:
    answers = answers_to(Root(), of(Root(), torch.tensor([[0.0, 1.0, 100.0]])), batch=False)
    assert len(answers.cases) < PERTURBED + 1
    assert answers.notes == (
        f"the module refused {PERTURBED + 1 - len(answers.cases)} perturbed inputs: it was judged on "
        f"{len(answers.cases)}",
    )


def test_an_example_without_an_answer_is_refused() -> None:
    with pytest.raises(UsageError, match="NaN or infinity"):
        answers_to(Root(), of(Root(), -torch.ones(1, 3)), batch=False)
    with pytest.raises(UsageError, match="fails on its example inputs"):
        answers_to(Two(), of(Two(), torch.zeros(2), torch.zeros(3)), batch=False)


def test_the_batch_is_what_is_as_long_as_the_first_input() -> None:
    x = torch.zeros
    assert batched_inputs((x(2, 3), x(2), x(3, 2), x(()))) == (True, True, False, False)
    assert batched_inputs((x(()), x(2))) == (False, False)
