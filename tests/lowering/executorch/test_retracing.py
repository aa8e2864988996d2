"""Passes that change nothing are cut short, those that do something are not, and ExecuTorch is left as it was."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from executorch.backends.xnnpack import xnnpack_preprocess
from executorch.backends.xnnpack._passes import XNNPACKPassManager
from executorch.exir import to_edge
from executorch.exir.pass_base import ExportPass
from torch import fx, nn
from torch.fx.passes.infra.pass_base import PassResult

from edgeq.lowering.executorch.retracing import unchanged_graphs_kept


class Small(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + x)


class Idle(ExportPass):  # type: ignore[misc]
    """Looks at the graph and leaves it."""

    def call(self, graph_module: fx.GraphModule) -> Any:  # noqa: ANN401
        return PassResult(super().call(graph_module).graph_module, True)


class Editing(Idle):
    """Takes the relu out before it traces again."""

    def call(self, graph_module: fx.GraphModule) -> Any:  # noqa: ANN401
        relu = next(node for node in graph_module.graph.nodes if "relu" in str(node.target))
        relu.replace_all_uses_with(relu.args[0])
        graph_module.graph.erase_node(relu)
        return super().call(graph_module)


class Hooked(ExportPass):  # type: ignore[misc]
    """Turns the relu into a sum as it is traced; the graph itself looks unchanged before."""

    sum: Any = None

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:  # noqa: ANN401
        if "relu" in str(op):
            return super().call_operator(self.sum, (args[0], args[0]), kwargs, meta)
        self.sum = op
        return super().call_operator(op, args, kwargs, meta)


@pytest.fixture
def graph_module() -> fx.GraphModule:
    edge = to_edge(torch.export.export(Small(), (torch.ones(3),)))
    module: fx.GraphModule = edge.exported_program().graph_module
    return module


def operators(result: Any) -> list[str]:  # noqa: ANN401
    return [str(n.target).rpartition(".")[0] for n in result.graph_module.graph.nodes if n.op == "call_function"]


def test_an_idle_pass_does_not_trace_again(graph_module: fx.GraphModule) -> None:
    assert Idle()(graph_module).graph_module is not graph_module
    with unchanged_graphs_kept():
        assert Idle()(graph_module).graph_module is graph_module


@pytest.mark.parametrize("kind", [Editing, Hooked])
def test_a_pass_that_changes_something_works_as_before(kind: type, graph_module: fx.GraphModule) -> None:
    with unchanged_graphs_kept():
        result = kind()(graph_module)
    assert result.graph_module is not graph_module
    assert not [name for name in operators(result) if "relu" in name]
    assert all("val" in node.meta for node in result.graph_module.graph.nodes if node.op == "call_function")


def test_a_pass_may_run_twice(graph_module: fx.GraphModule) -> None:
    with unchanged_graphs_kept():
        one = Idle()
        first = one(graph_module).graph_module
        assert one(first).graph_module is graph_module


def test_passes_for_operators_that_are_not_there_are_left_out(graph_module: fx.GraphModule) -> None:
    everything = [one.__name__ for one in XNNPACKPassManager(None).passes]
    program = SimpleNamespace(graph=graph_module.graph)
    with unchanged_graphs_kept():
        chosen = [one.__name__ for one in xnnpack_preprocess.XNNPACKPassManager(program).passes]
    left_out = {"ConvertToUpsampleBilinear2d", "ConvertToSDPAPass", "FuseBatchNormPass", "DecomposeBatchNorm"}
    left_out |= {"Conv1dUnsqueezePass", "PReLUReshapePass"}
    assert left_out <= set(everything)
    assert chosen == [name for name in everything if name not in left_out]


def test_executorch_is_left_as_it_was() -> None:
    before = ExportPass.call, ExportPass.__call__, xnnpack_preprocess.XNNPACKPassManager
    with pytest.raises(ZeroDivisionError), unchanged_graphs_kept():
        _ = 1 / 0
    assert (ExportPass.call, ExportPass.__call__, xnnpack_preprocess.XNNPACKPassManager) == before
    assert not {"call", "__call__"} & set(vars(ExportPass))
