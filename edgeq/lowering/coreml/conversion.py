"""Torch modules to Core ML programs, one per function."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

import coremltools as ct
import numpy as np
import torch
from coremltools.converters.mil.mil.passes.pass_pipeline import PassPipeline, PassPipelineManager
from torch import nn
from torch.export import Dim, ExportedProgram

from edgeq.errors import UnsupportedModelError
from edgeq.lowering.coreml.converters import Converters
from edgeq.lowering.quiet import quiet_torch

SKIPPED = {
    "common::const_deduplication",  # it would merge weights that happen to be equal, and names are to stay
    "common::canonicalize_quantized_lut_pattern",  # it repeats a table for each group that has a scale
    "common::add_int16_cast",  # indices stay what they are
}
SUMS = ("reduce_sum", "reduce_sum_square", "reduce_l2_norm")
"""They may exceed 65504 where their terms do not, so they are float32."""


def convert(
    module: nn.Module, examples: tuple[torch.Tensor, ...], longest: int | None, output: str, converters: Converters
) -> Any:  # noqa: ANN401 - coremltools has no types
    """The program of `module`, whose only function is `main` and whose result, float32, is called `output`.

    `longest`: the second axis of all inputs has a length of 1 to this; None: their shapes are those of the examples.
    Raises UnsupportedModelError.
    """
    exported = _export(module, examples, longest)
    try:
        with converters.registered(), _quiet():
            program = ct.convert(
                exported,
                convert_to="milinternal",
                minimum_deployment_target=ct.target.iOS18,
                outputs=[ct.TensorType(name=output, dtype=np.float32)],
                compute_precision=ct.transform.FP16ComputePrecision(lambda operation: operation.op_type not in SUMS),
                pass_pipeline=_pipeline(),
            )
            PassPipelineManager.apply_pipeline(program, PassPipeline.get_pipeline("backend_mlprogram"))
            return program
    except (NotImplementedError, ValueError, RuntimeError, TypeError, AttributeError, KeyError) as error:
        raise _unsupported("coremltools could not convert", error) from error


def _export(module: nn.Module, examples: tuple[torch.Tensor, ...], longest: int | None) -> ExportedProgram:
    shapes: Any = None
    if longest is not None:
        shapes = ({1: Dim("length", min=1, max=longest)},) * len(examples)
    try:
        with quiet_torch(), torch.no_grad():
            exported = torch.export.export(module.eval(), examples, dynamic_shapes=shapes, strict=False)
            decomposed: ExportedProgram = exported.run_decompositions({})
            return decomposed
    except UnsupportedModelError:
        raise
    except Exception as error:  # torch.export has no common error type
        raise _unsupported("torch could not trace", error) from error


def _pipeline() -> Any:  # noqa: ANN401 - coremltools has no types
    pipeline = ct.PassPipeline()
    pipeline.remove_passes(SKIPPED)
    return pipeline


def _unsupported(what: str, error: Exception) -> UnsupportedModelError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return UnsupportedModelError(
        f"{what} this model for Core ML ({reason[:200]}).", remedy="Use --format onnx or --format executorch."
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the converter's own progress bars and warnings."""
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
