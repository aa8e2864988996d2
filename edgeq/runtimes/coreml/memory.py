"""What a package will need in memory, estimated from the program: nobody has measured it on a phone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeq.runtimes.coreml.package import Package, corrupt, import_coremltools, open_package

STATE_BYTES = 2
"""States are float16."""
VIEWS = ("reshape", "expand_dims", "squeeze", "identity", "coreml_update_state", "read_state")
"""Their result is their first argument, or the state, in the same place."""
FIRST = {"read_state": "input", "coreml_update_state": "state"}


@dataclass(frozen=True, kw_only=True)
class EstimatedMemory:
    """Bytes. weights: as stored on disk, which a device may unpack; activations: the most that is alive at a time in
    any function, at its longest input, if nothing is computed in place."""

    weights_bytes: int
    state_bytes: int
    activation_bytes: int


def estimated_memory(path: Path) -> EstimatedMemory:
    """Raises CorruptInputError, UnsafeInputError, RuntimeUnavailableError."""
    package = open_package(path)
    return EstimatedMemory(
        weights_bytes=package.weights_bytes,
        state_bytes=sum(STATE_BYTES * math.prod(shape) for shape in package.states.values()),
        activation_bytes=max(_peak(package, name) for name in package.inputs),
    )


def _peak(package: Package, name: str) -> int:
    """Bytes alive at the fullest moment of a function."""
    function = package.function(name)
    longest = _longest(package)
    sizes: dict[Any, int] = {}
    roots: dict[Any, Any] = {}
    last: dict[Any, int] = {}
    for variable in function.inputs.values():
        sizes[variable] = 0 if variable.name in package.states else _bytes(package, variable, longest)
    operations = [op for op in function.operations if op.op_type != "const" and not op.op_type.startswith("constexpr_")]
    for index, operation in enumerate(operations):
        if operation.op_type in VIEWS:
            first = operation.inputs[FIRST.get(operation.op_type, "x")]
            roots[operation.outputs[0]] = roots.get(first, first)
        else:
            sizes |= {variable: _bytes(package, variable, longest) for variable in operation.outputs}
        for variable in (*_read(operation), *operation.outputs):
            last[roots.get(variable, variable)] = index
    last |= {roots.get(variable, variable): len(operations) for variable in function.outputs}
    return _fullest(operations, sizes, last, set(function.inputs.values()))


def _fullest(operations: list[Any], sizes: dict[Any, int], last: dict[Any, int], inputs: set[Any]) -> int:
    alive = sum(sizes[variable] for variable in inputs)
    peak = alive
    ending: dict[int, int] = {}
    for variable, index in last.items():
        ending[index] = ending.get(index, 0) + sizes.get(variable, 0)
    for index, operation in enumerate(operations):
        alive += sum(sizes.get(variable, 0) for variable in operation.outputs)
        peak = max(peak, alive)
        alive -= ending.get(index, 0)
    return peak


def _read(operation: Any) -> list[Any]:  # noqa: ANN401 - coremltools has no types
    values = [value for value in operation.inputs.values() if value is not None]
    return [item for value in values for item in (value if isinstance(value, (list, tuple)) else (value,))]


def _bytes(package: Package, variable: Any, longest: int | None) -> int:  # noqa: ANN401
    from coremltools.converters.mil.mil import types

    sizes = [_size(package, size, longest) for size in variable.shape]
    bits = 8 if variable.dtype == types.bool else int(variable.dtype.get_bitwidth())
    return math.prod(sizes) * bits // 8


def _size(package: Package, size: Any, longest: int | None) -> int:  # noqa: ANN401 - an int or an expression
    symbols = getattr(size, "free_symbols", ())
    if not symbols:
        return int(size)
    if longest is None:
        raise corrupt(package.path, "an axis is free and has no limit")
    return int(size.subs(dict.fromkeys(symbols, longest)))


def _longest(package: Package) -> int | None:
    """The largest size that the package admits on a free axis of an input, None where there is no limit."""
    import_coremltools()
    described = package.spec.description
    inputs = [*described.input, *(item for function in described.functions for item in function.input)]
    intervals = [interval for item in inputs for interval in item.type.multiArrayType.shapeRange.sizeRanges]
    limits = [int(interval.upperBound) for interval in intervals if interval.upperBound != interval.lowerBound]
    shapes = [shape.shape for item in inputs for shape in item.type.multiArrayType.enumeratedShapes.shapes]
    limits += [int(size) for shape in shapes for size in shape]
    return max(limits, default=None) if min(limits, default=1) > 0 else None
