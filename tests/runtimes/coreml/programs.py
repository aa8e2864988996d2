"""Small programs, built with coremltools and saved as packages."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.runtimes.coreml.package import import_coremltools

Array = npt.NDArray[Any]
ct = import_coremltools()


def ints(values: Any) -> Array:  # noqa: ANN401 - lists of any depth
    return np.array(values, dtype=np.int32)


def floats(values: Any) -> Array:  # noqa: ANN401 - as above
    return np.array(values, dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One operation on tensors (a list for a tuple of values), and what must come out: an array, or several."""

    op: str
    tensors: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    expected: Any
    atol: float = 1e-6
    infers: bool = True
    """Whether coremltools may be asked to compute it from constants."""


def case(op: str, tensors: dict[str, Any], expected: Any, *, atol: float = 1e-6, **settings: Any) -> Case:  # noqa: ANN401
    return Case(op=op, tensors=tensors, settings=settings, expected=expected, atol=atol)


def save(path: Path, functions: dict[str, Any], *, longest: int | None = None) -> Path:
    """Write coremltools functions as a package, without any pass over them. `longest`: of free axes, -1
    for no limit."""
    from coremltools.converters.mil.converter import mil_convert
    from coremltools.converters.mil.mil import Program

    program = Program()
    for name, function in functions.items():
        program.add_function(name, function)
    program.default_function_name = next(iter(functions))
    program.skip_all_passes = True
    program.export_as_multifunction = len(functions) > 1
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        model = mil_convert(
            program,
            convert_to="mlprogram",
            convert_from="milinternal",
            specification_version=int(ct.target.iOS18.value),
            compute_units=ct.ComputeUnit.CPU_ONLY,
            export_multi_functions=len(functions) > 1,
            skip_model_load=True,
        )
        for item in model._spec.description.input if longest else ():
            for interval in item.type.multiArrayType.shapeRange.sizeRanges:
                if interval.upperBound > interval.lowerBound:
                    interval.upperBound = longest
        model.save(str(path))
    finally:
        logging.disable(before)
    return path


def function(
    inputs: dict[str, Any],
    build: Callable[[dict[str, Any]], Sequence[Any]],
    *,
    names: Sequence[str],
    states: dict[str, tuple[int, ...]] | None = None,
) -> Any:  # noqa: ANN401 - coremltools has no types
    """A function of `inputs`: arrays like them, or shapes of integers that may hold symbols. `build` makes the outputs,
    and `names` are theirs."""
    from coremltools.converters.mil.mil import Builder as mb  # noqa: N813
    from coremltools.converters.mil.mil import Function, types

    placeholders = {name: _placeholder(name, value) for name, value in inputs.items()}
    for name, shape in (states or {}).items():
        placeholders[name] = mb.state_tensor_placeholder(shape, types.fp16)
    with Function(placeholders, opset_version=ct.target.iOS18) as built:
        outputs = [_as_output(value, name) for value, name in zip(build(built.inputs), names, strict=True)]
        built.set_outputs(outputs)
    return built


def _placeholder(name: str, value: Any) -> Any:  # noqa: ANN401
    from coremltools.converters.mil.mil import Placeholder, types

    if isinstance(value, tuple):
        return Placeholder(sym_shape=value, dtype=types.int32, name=name)
    kind = types.int32 if np.asarray(value).dtype.kind in "ib" else types.fp32
    return Placeholder(sym_shape=np.asarray(value).shape, dtype=kind, name=name)


def _as_output(value: Any, name: str) -> Any:  # noqa: ANN401
    from coremltools.converters.mil.mil import Builder as mb  # noqa: N813
    from coremltools.converters.mil.mil import types

    if value.dtype in (types.fp32, types.int32):
        return mb.identity(x=value, name=name)
    return mb.cast(x=value, dtype="fp32" if value.dtype == types.fp16 else "int32", name=name)
