"""Capture of a plain torch module: one `torch.export` graph, with a free batch axis where the module allows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from edgeq.core.artifact import TensorSpec
from edgeq.errors import UnsupportedModelError
from edgeq.lowering.capture import CapturedModel
from edgeq.lowering.quiet import quiet_torch
from edgeq.models.examples import Examples, Tensors, batched_inputs, flat_outputs

BATCH = "batch"
_PREFIX = "module."


@dataclass(frozen=True, kw_only=True, eq=False)
class CapturedModule:
    """The graph, and its inputs and outputs in order. `note` says why the batch is fixed, "" where it is free."""

    graph: CapturedModel
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    note: str

    @property
    def has_free_batch(self) -> bool:
        return not self.note


class _Positional(nn.Module):
    """Tensors in `examples`' order to the outputs in theirs."""

    def __init__(self, module: nn.Module, examples: Examples) -> None:
        super().__init__()
        self.module, self.examples = module, examples

    def forward(self, *tensors: torch.Tensor) -> Tensors:
        return tuple(flat_outputs(self.examples.call(self.module, tensors)).values())


def capture_module(module: nn.Module, examples: Examples, output_names: tuple[str, ...]) -> CapturedModule:
    """Trace a module that is in evaluation mode. output_names: as the module names its outputs.

    Raises UnsupportedModelError where torch cannot trace it, with torch's reason.
    """
    rows = batched_inputs(examples.values)
    note = "the first input has no batch axis"
    if any(rows):
        try:
            return _captured(module, examples, output_names, rows, "")
        except UnsupportedModelError as error:
            note = error.what
    return _captured(module, examples, output_names, (False,) * len(rows), note)


def _captured(
    module: nn.Module, examples: Examples, output_names: tuple[str, ...], rows: tuple[bool, ...], note: str
) -> CapturedModule:
    program = _export(module, examples, rows)
    signature = program.graph_signature
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    inputs = tuple(_spec(name, values[str(p)]) for name, p in zip(examples.names, signature.user_inputs, strict=True))
    outputs = tuple(
        _spec(f"{name}_output" if name in examples.names else name, values[str(p)])
        for name, p in zip(output_names, signature.user_outputs, strict=True)
    )
    buffers = dict(module.named_buffers(remove_duplicate=False))
    constants = {p: buffers[name.removeprefix(_PREFIX)] for p, name in signature.inputs_to_buffers.items()}
    constants |= {p: program.constants[name] for p, name in signature.inputs_to_lifted_tensor_constants.items()}
    graph = CapturedModel(
        program=program,
        weight_names={p: name.removeprefix(_PREFIX) for p, name in signature.inputs_to_parameters.items()},
        constants=constants,
        tables=[],
        plain=False,
    )
    return CapturedModule(graph=graph, inputs=inputs, outputs=outputs, note=note)


def _export(module: nn.Module, examples: Examples, rows: tuple[bool, ...]) -> ExportedProgram:
    batch = Dim(BATCH)
    values = tuple(
        # torch takes a length of 1 for a constant
        torch.cat([value, value]) if has_rows and len(value) == 1 else value
        for value, has_rows in zip(examples.values, rows, strict=True)
    )
    dynamic: Any = (tuple({0: batch} if has_rows else {} for has_rows in rows),)
    try:
        with quiet_torch():
            return torch.export.export(_Positional(module, examples), values, dynamic_shapes=dynamic, strict=False)
    except UnsupportedModelError:
        raise
    except Exception as error:
        raise UnsupportedModelError(
            f"torch cannot trace {type(module).__name__} ({_reason(error)}).",
            remedy="Take branches on values of tensors, and Python loops over them, out of forward; see torch.export.",
        ) from error


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


def _spec(name: str, value: object) -> TensorSpec:
    if not isinstance(value, torch.Tensor):
        raise UnsupportedModelError(
            f"{name!r} does not depend on the inputs, or is no tensor.", remedy="Return tensors that forward computes."
        )
    shape = tuple(size if isinstance(size, int) else _axis(str(size)) for size in value.shape)
    return TensorSpec(name=name, dtype=str(value.dtype).removeprefix("torch."), shape=shape)


def _axis(expression: str) -> str:
    """The one free length is the batch; what is computed from it is written as torch does."""
    return BATCH if expression.isidentifier() else expression


def weight_uses(captured: CapturedModel) -> dict[str, set[str]]:
    """How the graph uses each weight: as a `linear` `[out, in]`, a `turned` linear `[in, out]`, a table for an
    `embedding`, the filters of a `convolution`, or for something `other`. Weights that nothing uses are left out."""
    uses: dict[str, set[str]] = {}
    for node in captured.program.graph.nodes:
        name = captured.weight_names.get(node.name) if node.op == "placeholder" else None
        if name is not None and node.users:
            uses.setdefault(name, set()).update(kind for user in node.users for kind in _kinds(node, user))
    return uses


_aten = torch.ops.aten
_TURNING = (_aten.t.default, _aten.numpy_T.default, _aten.transpose.int, _aten.permute.default)
_CONVOLVING = (_aten.conv2d.default, _aten.conv2d.padding)
_RIGHT = {_aten.mm.default: 1, _aten.matmul.default: 1, _aten.addmm.default: 2}


def _kinds(node: torch.fx.Node, user: torch.fx.Node) -> set[str]:
    places = [index for index, argument in enumerate(user.args) if argument is node]
    shape = node.meta["val"].shape
    if len(shape) != 2:
        is_filters = user.target in _CONVOLVING and places == [1] and shape[1] > 1  # else depthwise
        return {"convolution" if is_filters else "other"}
    if user.target == _aten.linear.default and places == [1]:
        return {"linear"}
    if user.target == _aten.embedding.default and places == [0]:
        return {"embedding"}
    if user.target in _RIGHT and places == [_RIGHT[user.target]]:
        return {"turned"}
    if user.target in _TURNING and user.users and all(_kinds(user, reader) == {"turned"} for reader in user.users):
        return {"linear"}
    return {"other"}
