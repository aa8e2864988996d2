"""Torch modules to Core ML programs, one per function."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import coremltools as ct
import torch
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


def convert(module: nn.Module, examples: tuple[torch.Tensor, ...], longest: int | None, converters: Converters) -> Any:  # noqa: ANN401 - coremltools has no types
    """The program of `module`, whose only function is `main`. `longest`: the second axis of all inputs has a length of
    1 to this; None: their shapes are those of the examples. Raises UnsupportedModelError.
    """
    exported = _export(module, examples, longest)
    try:
        with converters.registered(), _quiet():
            return ct.convert(
                exported,
                convert_to="milinternal",
                minimum_deployment_target=ct.target.iOS18,
                compute_precision=ct.precision.FLOAT16,
                pass_pipeline=_pipeline(),
            )
    except (NotImplementedError, ValueError, RuntimeError, TypeError, AttributeError, KeyError) as error:
        raise _unsupported("coremltools could not convert", error) from error


def _export(module: nn.Module, examples: tuple[torch.Tensor, ...], longest: int | None) -> ExportedProgram:
    shapes: Any = None
    if longest is not None:
        length = Dim("length", min=1, max=longest)
        shapes = ({0: None, 1: length},) * len(examples)
        shapes = (shapes,) if len(examples) != 1 else (shapes,)
    try:
        with quiet_torch(), torch.no_grad():
            exported = torch.export.export(module.eval(), examples, dynamic_shapes=shapes, strict=False)
            return exported.run_decompositions({})
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
    """Core ML's converter announces versions that it has not been tested with, and draws its own progress."""
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
