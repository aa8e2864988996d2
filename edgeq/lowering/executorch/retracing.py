"""ExecuTorch's passes without the work that changes nothing, which is most of what lowering takes.

Each pass ends by interpreting the graph again on fake tensors with a symbolic length, milliseconds a node, whether it
changed a node or not; so do XNNPACK's 17 passes on each delegate, two of which look for images and for fused attention
by comparing graphs. Cutting each delegate out makes Python code of the whole model again, which grows as the square of
the layers. A 30-layer model has 4000 nodes in 62 delegates: minutes. Skipped where the outcome is known to be the same:
the passes, in those that do change something the values of what they leave, and the code that nobody runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx
from torch._subclasses import FakeTensor
from torch.utils import _pytree as pytree

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
    """Within the block a pass that left its graph alone does not trace it again, one that did not computes the values
    of changed nodes only, XNNPACK's passes for operators that a delegate does not have are left out, and the code of a
    graph is made when it is first run."""
    from executorch.backends.xnnpack import xnnpack_preprocess
    from executorch.exir.pass_base import ExportPass

    interpreter, manager = ExportPass.ExportInterpreter, xnnpack_preprocess.XNNPACKPassManager
    recompile: Any = fx.GraphModule.recompile
    changed = {
        "__call__": _remembering(ExportPass.__call__, ExportPass),
        "call": _tracing_what_changed(ExportPass.call),
        "_fx": _computing_what_changed(ExportPass._fx),
    }
    for name, method in changed.items():
        setattr(ExportPass, name, method)
    interpreter.run_node = _telling_the_node(interpreter.run_node)
    xnnpack_preprocess.XNNPACKPassManager = _choosing(manager)
    fx.GraphModule.recompile = _compiling_what_runs(recompile)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for name in changed:
            delattr(ExportPass, name)  # each is inherited, as is the next
        del interpreter.run_node
        xnnpack_preprocess.XNNPACKPassManager = manager
        fx.GraphModule.recompile = recompile  # type: ignore[method-assign]


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


def _telling_the_node(run: Any) -> Any:  # noqa: ANN401
    def run_node(self: Any, node: fx.Node) -> Any:  # noqa: ANN401
        self.callback.edgeq_node = node
        return run(self, node)

    return run_node


def _computing_what_changed(compute: Any) -> Any:  # noqa: ANN401
    """A node's new value is its old one if its operator and inputs are; what turns out equal is taken for the old one,
    so that what follows a changed node is not computed again either."""
    from executorch.exir.pass_base import ProxyValue

    def _fx(self: Any, kind: str, target: Any, args: Any, kwargs: Any, meta: Any) -> Any:  # noqa: ANN401, PLR0917
        node: Any = getattr(self, "edgeq_node", None)
        old = node.meta.get("val") if node is not None and kind == node.op == "call_function" else None
        if not isinstance(old, FakeTensor | tuple | list):
            return compute(self, kind, target, args, kwargs, meta)
        if _is_unchanged(node, target, args, kwargs):
            inputs, options = pytree.tree_map_only(ProxyValue, lambda value: value.proxy, (args, kwargs))
            name = None
            if isinstance(target, torch._ops.OpOverload):
                name = self.tracer.graph._target_to_str(target.overloadpacket.__name__)
            proxy = self.tracer.create_proxy(kind, target, inputs, options, name=name)
            proxy.node.meta.update(meta.data)
        else:
            result = compute(self, kind, target, args, kwargs, meta)
            if not _is_equal(old, result.data):
                return result
            proxy = result.proxy
        self.tracer.set_metadata(proxy.node, old)
        return ProxyValue(old, proxy)

    return _fx


def _is_unchanged(node: fx.Node, target: Any, args: Any, kwargs: Any) -> bool:  # noqa: ANN401
    """Whether the interpreter calls what `node` says; an operator of the edge dialect computes what torch's does."""
    if getattr(target, "_op", target) is not getattr(node.target, "_op", node.target):
        return False
    before, now = pytree.tree_leaves((node.args, dict(node.kwargs))), pytree.tree_leaves((args, kwargs))
    return len(before) == len(now) and all(map(_is_same, before, now))


def _is_same(before: Any, now: Any) -> bool:  # noqa: ANN401
    """Whether an argument has the value that a node's argument had; values of nodes count as themselves, and small
    constants, which passes are given for the fake tensors of their placeholders."""
    if not isinstance(before, fx.Node):
        return type(before) is type(now) and bool(before == now)
    if before.op == "get_attr":
        return getattr(before.graph.owning_module, str(before.target), None) is now
    old, new = pytree.tree_leaves(before.meta.get("val")), pytree.tree_leaves(getattr(now, "data", None))
    return len(old) == len(new) and all(
        one is other or (isinstance(one, FakeTensor) and one.constant is other is not None)
        for one, other in zip(old, new, strict=True)
    )


def _is_equal(old: Any, new: Any) -> bool:  # noqa: ANN401
    """Whether two fake results, or tuples of them, say the same of real ones."""
    if isinstance(old, tuple | list):
        return type(old) is type(new) and len(old) == len(new) and all(map(_is_equal, old, new))
    if not (isinstance(old, FakeTensor) and isinstance(new, FakeTensor)):
        return False
    no_constants = old.constant is None and new.constant is None
    return no_constants and old.fake_mode is new.fake_mode and _description(old) == _description(new)


def _description(value: torch.Tensor) -> tuple[Any, ...]:
    """Symbolic sizes by their expressions: to compare them as numbers would add conditions to the program."""
    numbers = (*value.shape, *value.stride(), value.storage_offset())
    return (value.dtype, value.device, *(getattr(getattr(one, "node", one), "expr", one) for one in numbers))


def _compiling_what_runs(compile_now: Any) -> Any:  # noqa: ANN401
    """Each graph module has a class of its own, whose `forward` is made from the graph as it is at the first call."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        compile_now(self)
        return type(self).forward(self, *args, **kwargs)

    def recompile(self: Any) -> None:  # noqa: ANN401
        tree = getattr(self.graph._codegen, "pytree_info", None)
        if tree is not None:
            self._in_spec, self._out_spec = tree.in_spec, tree.out_spec
        vars(self).setdefault("_code", "")  # ExecuTorch prints modules into its log
        type(self).forward = forward

    return recompile


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
