"""Passes that change nothing are cut short, those that do something are not, and ExecuTorch is left as it was."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from executorch.backends.xnnpack import xnnpack_preprocess
from executorch.backends.xnnpack._passes import XNNPACKPassManager
from executorch.exir import to_edge
from executorch.exir.dialects._ops import ops as exir_ops
from executorch.exir.pass_base import ExportPass, _ExportPassBase
from torch import fx, nn
from torch.fx.passes.infra.pass_base import PassResult

from edgeq.lowering.executorch.retracing import unchanged_graphs_kept


class Small(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.neg(torch.relu(x + x)) * 0.5


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


class Widening(ExportPass):  # type: ignore[misc]
    """Gives what the relu returns another axis, so that what follows has another shape."""

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:  # noqa: ANN401
        if "relu" in str(op):
            return super().call_operator(exir_ops.edge.aten.unsqueeze_copy.default, (args[0], 0), {}, meta)
        return super().call_operator(op, args, kwargs, meta)


@pytest.fixture
def graph_module() -> fx.GraphModule:
    length = torch.export.Dim("length", max=9)
    edge = to_edge(torch.export.export(Small(), (torch.ones(3),), dynamic_shapes=({0: length},)))
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


def values(result: Any) -> list[Any]:  # noqa: ANN401
    return [n.meta["val"] for n in result.graph_module.graph.nodes if n.op == "call_function"]


@pytest.mark.parametrize("kind", [Editing, Hooked, Widening])
def test_values_are_those_of_a_whole_computation(kind: type, graph_module: fx.GraphModule) -> None:
    before = copy.deepcopy(graph_module)
    expected = values(kind()(before))
    with unchanged_graphs_kept():
        found = values(kind()(graph_module))
    assert [(v.dtype, str(v.shape), str(v.stride())) for v in found] == [
        (v.dtype, str(v.shape), str(v.stride())) for v in expected
    ]


def test_only_the_values_of_changed_nodes_are_computed(
    graph_module: fx.GraphModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[str] = []
    compute = ExportPass._fx

    def record(self: Any, kind: str, target: Any, *rest: Any) -> Any:  # noqa: ANN401
        computed.append(str(target))
        return compute(self, kind, target, *rest)

    monkeypatch.setattr(_ExportPassBase, "_fx", record)
    before = values(SimpleNamespace(graph_module=graph_module))
    with unchanged_graphs_kept():
        after = values(Hooked()(graph_module))
    assert len(computed) == 2, "the sum that was a relu, and the output"
    assert all(one is other for one, other in zip(before, after, strict=True))


def test_a_pass_may_run_twice(graph_module: fx.GraphModule) -> None:
    with unchanged_graphs_kept():
        one = Idle()
        first = one(graph_module).graph_module
        assert one(first).graph_module is graph_module


def test_code_is_made_from_the_graph_that_is_run() -> None:
    x = torch.tensor([1.0, -1.0, 2.0])
    with unchanged_graphs_kept():
        module = fx.symbolic_trace(Small())
        assert "_code" in vars(module)
        assert "relu" not in module.code
        assert str(module)
        relu = next(node for node in module.graph.nodes if node.target is torch.relu)
        relu.replace_all_uses_with(relu.args[0])
        module.graph.erase_node(relu)
        module.recompile()
        torch.testing.assert_close(module(x), -x)
        assert "neg" in module.code
        torch.testing.assert_close(module(x + 1), -(x + 1))
    torch.testing.assert_close(module(x), -x)


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
    def state() -> tuple[Any, ...]:
        changed = (ExportPass, ExportPass.ExportInterpreter, fx.GraphModule)
        return *(dict(vars(one)) for one in changed), xnnpack_preprocess.XNNPACKPassManager

    before = state()
    with pytest.raises(ZeroDivisionError), unchanged_graphs_kept():
        _ = 1 / 0
    assert state() == before
