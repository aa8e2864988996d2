"""Torch modules to Core ML programs, one per function."""

from __future__ import annotations

import io
import math
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

import coremltools as ct
import numpy as np
import torch
from coremltools.converters.mil.frontend.torch.ops import convert_single_node
from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY
from coremltools.converters.mil.mil import Builder
from coremltools.converters.mil.mil.passes.pass_pipeline import PassPipeline, PassPipelineManager
from torch import fx, nn
from torch.export import Dim, ExportedProgram, default_decompositions

from edgeq.errors import UnsupportedModelError
from edgeq.lowering.coreml.converters import Converters
from edgeq.lowering.coreml.kernels import MASKED
from edgeq.lowering.quiet import quiet_torch

SKIPPED = {
    "common::const_deduplication",  # it would merge weights that happen to be equal, and names are to stay
    "common::canonicalize_quantized_lut_pattern",  # it repeats a table for each group that has a scale
    "common::add_int16_cast",  # indices stay what they are
    "common::divide_to_multiply",  # float16 does not hold 1 / 30, by which it would multiply for a cap of 30
}
SUMS = ("reduce_sum", "reduce_sum_square", "reduce_l2_norm")
"""They may exceed 65504 where their terms do not, so they are float32."""
ANGLES = ("cast", "concat", "expand_dims", "matmul", "mul", "reshape", "squeeze", "tile", "transpose")
"""What lies between a position and its sine."""
ENDLESS = 1e30
REFUSALS = (NotImplementedError, RuntimeError, ValueError)
"""How torch.export and coremltools say that they do not take a model. Other errors are defects: theirs, where a model's
operator is converted, else ours."""


def convert(
    module: nn.Module, examples: tuple[torch.Tensor, ...], longest: int | None, output: str, converters: Converters
) -> Any:  # noqa: ANN401 - coremltools has no types
    """The program of `module`, whose only function is `main` and whose result, float32, is called `output`.

    `longest`: the second axis of all inputs has a length of 1 to this; None: their shapes are those of the examples.
    Raises UnsupportedModelError where torch cannot trace it, and where coremltools does not know an operator or cannot
    convert how the model uses it; what goes wrong in this package's own converters is raised as it is.
    """
    exported = _export(module, examples, longest)
    Builder.name_count.clear()  # else names go on from what this process converted or opened before
    try:
        with converters.registered(), _quiet():
            program = ct.convert(
                exported,
                convert_to="milinternal",
                minimum_deployment_target=ct.target.iOS18,
                outputs=[ct.TensorType(name=output, dtype=np.float32)],
                compute_precision=ct.transform.FP16ComputePrecision(_may_be_half),
                pass_pipeline=_pipeline(),
            )
            PassPipelineManager.apply_pipeline(program, PassPipeline.get_pipeline("backend_mlprogram"))
            return program
    except MemoryError:
        raise
    except Exception as error:  # coremltools has no common error type
        operator = _operator(error)
        if operator in converters.own or (operator is None and not isinstance(error, REFUSALS)):
            raise
        raise _unsupported(f"coremltools could not convert {operator or 'the operators of'}", error) from error


def _export(module: nn.Module, examples: tuple[torch.Tensor, ...], longest: int | None) -> ExportedProgram:
    shapes: Any = None
    if longest is not None:
        shapes = ({1: Dim("length", min=1, max=longest)},) * len(examples)
    try:
        with quiet_torch(), torch.no_grad():
            exported = torch.export.export(module.eval(), examples, dynamic_shapes=shapes, strict=False)
            return _with_finite_numbers(_decomposed(exported.run_decompositions({})))
    except REFUSALS as error:
        raise _unsupported("torch could not trace", error) from error


def _decomposed(exported: ExportedProgram) -> ExportedProgram:
    """Without the operators that coremltools does not know and torch knows how to express by others."""
    calls = [node for node in exported.graph.nodes if node.op == "call_function"]
    unknown = {node.target for node in calls if not _is_known(node)}
    rules: Any = default_decompositions()
    table = {target: rule for target, rule in rules.items() if target in unknown}
    result: ExportedProgram = exported.run_decompositions(table) if table else exported
    return result


def _is_known(node: fx.Node) -> bool:
    target: Any = node.target
    is_operator = isinstance(target, torch._ops.OpOverload)
    return not is_operator or _TORCH_OPS_REGISTRY.get_func(target.name()) is not None


def _with_finite_numbers(exported: ExportedProgram) -> ExportedProgram:
    """Numbers that stand for infinity become some that float16 holds: an infinity times 0 is not a number."""
    for node in exported.graph.nodes:
        node.args = fx.node.map_aggregate(node.args, _finite)
        node.kwargs = fx.node.map_aggregate(node.kwargs, _finite)
    return exported


def _finite(value: Any) -> Any:  # noqa: ANN401 - arguments of nodes
    is_endless = isinstance(value, float) and abs(value) >= ENDLESS
    return math.copysign(MASKED, value) if is_endless else value


def _may_be_half(operation: Any) -> bool:  # noqa: ANN401 - coremltools has no types
    return operation.op_type not in SUMS and not _is_angle(operation)


def _is_angle(operation: Any) -> bool:  # noqa: ANN401 - coremltools has no types
    """Sines, cosines and what computes their angles from positions, which float16 does not tell apart above 2048."""
    if operation.op_type in ("sin", "cos"):
        return True
    users = [user for output in operation.outputs for user in output.child_ops]
    return any(user.op_type in ("sin", "cos") or (user.op_type in ANGLES and _is_angle(user)) for user in users)


def _pipeline() -> Any:  # noqa: ANN401 - coremltools has no types
    pipeline = ct.PassPipeline()
    pipeline.remove_passes(SKIPPED)
    return pipeline


def _operator(error: Exception) -> str | None:
    """The torch operator that was being converted, as coremltools calls it; None where it was something else."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code is convert_single_node.__code__:
            return str(frame.f_locals["node"].kind)
    return None


def _unsupported(what: str, error: Exception) -> UnsupportedModelError:
    lines = str(error).strip().splitlines()
    reason = f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
    return UnsupportedModelError(
        f"{what} this model for Core ML ({reason}).", remedy="Use --format onnx or --format executorch."
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the converter's own progress bars and warnings."""
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
