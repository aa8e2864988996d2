"""ExecuTorch's passes without the work that changes nothing, which is most of what lowering takes.

Each of XNNPACK's 17 passes runs on each delegate, and ends by tracing it again on fake tensors with symbolic shapes,
milliseconds a node, whether it changed a node or not; two of them look for images and for fused attention by comparing
graphs. A 30-layer model has a hundred delegates: minutes. Skipped where the outcome is known to be the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

HOOKS = (
    *("call_operator", "call_getitem", "call_sym", "call_delegate", "call_cond", "call_map", "call_scan"),
    *("call_submodule", "placeholder", "output", "inputs"),
)
"""What a pass overrides that changes nodes while they are traced; the others edit the graph before."""
NEEDED_OPERATORS = {
    "ConvertToUpsampleBilinear2d": ("index",),
    "ConvertToSDPAPass": ("softmax",),
    "FuseBatchNormPass": ("batch_norm",),
    "DecomposeBatchNorm": ("batch_norm",),
    "Conv1dUnsqueezePass": ("convolution",),
    "PReLUReshapePass": ("prelu",),
}
"""By XNNPACK pass: one of these is part of the name of an operator without which the pass finds nothing."""
Graph = Any
Snapshot = list[tuple[Any, ...]]


@contextmanager
def unchanged_graphs_kept() -> Iterator[None]:
    """Within the block a pass that left its graph alone does not trace it again, and XNNPACK's passes for operators
    that a delegate does not have are left out."""
    from executorch.backends.xnnpack import xnnpack_preprocess
    from executorch.exir.pass_base import ExportPass

    trace, manager = ExportPass.call, xnnpack_preprocess.XNNPACKPassManager
    ExportPass.__call__ = _remembering(ExportPass.__call__, ExportPass)
    ExportPass.call = _tracing_what_changed(trace)
    xnnpack_preprocess.XNNPACKPassManager = _choosing(manager)
    try:
        yield
    finally:
        del ExportPass.__call__, ExportPass.call  # both are inherited
        xnnpack_preprocess.XNNPACKPassManager = manager


def snapshot(graph: Graph) -> Snapshot:
    """What two states of a graph are compared by; nodes count as themselves."""
    return [(node, node.op, node.target, node.args, node.kwargs) for node in graph.nodes]


def _remembering(start: Any, base: type) -> Any:  # noqa: ANN401 - methods of ExecuTorch, which has no types
    def call(self: Any, graph_module: Any) -> Any:  # noqa: ANN401
        edits_only = all(getattr(type(self), hook, None) is getattr(base, hook, None) for hook in HOOKS)
        self.edgeq_before = (graph_module, snapshot(graph_module.graph)) if edits_only else None
        return start(self, graph_module)

    return call


def _tracing_what_changed(trace: Any) -> Any:  # noqa: ANN401
    from torch.fx.passes.infra.pass_base import PassResult

    def call(self: Any, graph_module: Any) -> Any:  # noqa: ANN401
        before = getattr(self, "edgeq_before", None)
        if before is not None and before[0] is graph_module and before[1] == snapshot(graph_module.graph):
            return PassResult(graph_module, False)
        return trace(self, graph_module)

    return call


def _choosing(manager: Any) -> Any:  # noqa: ANN401
    def choose(program: Any, passes: Any = None) -> Any:  # noqa: ANN401
        chosen = manager(program, passes=passes)
        names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
        chosen.passes = [
            one
            for one in chosen.passes
            if one.__name__ not in NEEDED_OPERATORS
            or any(part in name for part in NEEDED_OPERATORS[one.__name__] for name in names)
        ]
        return chosen

    return choose
