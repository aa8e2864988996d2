"""A MIL function made ready to run: a list of steps over numbered slots, each freed after its last use."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edgeq.errors import UnsupportedModelError
from edgeq.runtimes.coreml.neural import State
from edgeq.runtimes.coreml.operator import Operator
from edgeq.runtimes.coreml.operators import OPERATORS
from edgeq.runtimes.coreml.package import corrupt
from edgeq.runtimes.generation import first_line

Array = npt.NDArray[Any]
Slots = tuple[int | tuple[int, ...], ...]
ABSENT = 0
"""The slot of an operand that is not given."""
SHARED = 1024
"""Bytes of a constant that is worth looking for in other functions."""
DTYPES = {
    "fp16": torch.float32,
    "fp32": torch.float32,
    "int8": torch.int8,
    "int16": torch.int16,
    "int32": torch.int32,
    "int64": torch.int64,
    "uint8": torch.uint8,
    "uint16": torch.int32,
    "uint32": torch.int64,
    "bool": torch.bool,
}
_CONSTEXPR = "constexpr_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Where a result goes and what it must be; `halve`: round it to float16, as the program stores it."""

    slot: int
    dtype: torch.dtype
    shape: tuple[int, ...] | None
    halve: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One operation. `settings` are known before, `late` ones come from slots; `dead` slots are not read again."""

    kind: str
    name: str
    operator: Operator
    operands: Slots
    settings: dict[str, Any]
    late: tuple[tuple[str, int], ...]
    outputs: tuple[Output, ...]
    dead: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """A function: its steps, its slots with the constants in them, and the slots of inputs, states and outputs."""

    path: Path
    steps: tuple[Step, ...]
    slots: list[Any]
    inputs: dict[str, tuple[int, torch.dtype]]
    states: dict[str, int]
    outputs: dict[str, int]

    def run(self, inputs: Mapping[str, Array], states: Mapping[str, State]) -> dict[str, torch.Tensor]:
        """Outputs by name; `states` are changed. Raises CorruptInputError where an operation does not run."""
        slots = self.slots.copy()
        if missing := sorted(self.inputs.keys() - inputs.keys()):
            raise corrupt(self.path, f"it takes {', '.join(missing)}, which nobody gives it")
        for name, (slot, dtype) in self.inputs.items():
            slots[slot] = torch.from_numpy(np.ascontiguousarray(inputs[name])).to(dtype)
        for name, slot in self.states.items():
            slots[slot] = states[name]
        with torch.inference_mode():
            for step in self.steps:
                try:
                    _run_step(step, slots)
                except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
                    reason = f"{step.kind} {step.name!r} does not run: {first_line(error)}"
                    raise corrupt(self.path, reason) from error
        return {name: slots[slot] for name, slot in self.outputs.items()}


def _run_step(step: Step, slots: list[Any]) -> None:
    operands = [slots[item] if isinstance(item, int) else [slots[slot] for slot in item] for item in step.operands]
    settings = step.settings
    if step.late:
        settings = settings | {name: slots[slot].tolist() for name, slot in step.late}
    result = step.operator.run(*operands, **settings)
    results = result if isinstance(result, tuple) else (result,)
    for output, value in zip(step.outputs, results, strict=True):
        slots[output.slot] = _checked(value, output)
    for slot in step.dead:
        slots[slot] = None


def _checked(value: torch.Tensor, output: Output) -> torch.Tensor:
    if value.dtype is not output.dtype:
        value = value.to(output.dtype)
    if output.shape is not None and value.shape != output.shape:
        msg = f"it gives {tuple(value.shape)} where the program says {output.shape}"
        raise ValueError(msg)
    return value.half().float() if output.halve else value


class Compiler:
    """Makes functions ready. Constants of equal bytes, and weights decompressed from them, are held once for all."""

    def __init__(self, path: Path, *, round_halves: bool) -> None:
        self._path = path
        self._round_halves = round_halves
        self._shared: dict[bytes, torch.Tensor] = {}

    def compile(self, function: Any) -> Compiled:  # noqa: ANN401 - coremltools has no types
        """Raises UnsupportedModelError where an operation is not known, CorruptInputError."""
        _refuse_unknown(function)
        builder = _Builder(self._path, self._shared, round_halves=self._round_halves)
        return builder.build(function)


class _Builder:
    def __init__(self, path: Path, shared: dict[bytes, torch.Tensor], *, round_halves: bool) -> None:
        self._path = path
        self._shared = shared
        self._round_halves = round_halves
        self._slots: list[Any] = [None]
        self._places: dict[Any, int] = {}
        self._digests: dict[int, bytes] = {}
        self._constant: set[int] = {ABSENT}

    def build(self, function: Any) -> Compiled:  # noqa: ANN401
        inputs: dict[str, tuple[int, torch.dtype]] = {}
        states: dict[str, int] = {}
        for name, variable in function.inputs.items():
            if variable.op is None and _is_state(variable):
                states[name] = self._new(variable)
            else:
                inputs[name] = (self._new(variable), _dtype(variable))
        steps = [step for operation in function.operations if (step := self._step(operation)) is not None]
        outputs = {variable.name: self._place(variable) for variable in function.outputs}
        read = {slot for step in steps for slot in _slots_read(step)} | set(outputs.values())
        for slot in self._constant - read:  # codes and scales, once the weight is made of them
            self._slots[slot] = None
        return Compiled(
            path=self._path,
            steps=_with_deaths(steps, self._constant | set(outputs.values())),
            slots=self._slots,
            inputs=inputs,
            states=states,
            outputs=outputs,
        )

    def _step(self, operation: Any) -> Step | None:  # noqa: ANN401
        """None for what is known now: constants, and weights made of constants."""
        kind = str(operation.op_type)
        if kind == "const":
            return None
        operator = OPERATORS[kind]
        given = {name: value for name, value in operation.inputs.items() if value is not None}
        operands = tuple(self._operand(given.pop(name, None)) for name in operator.operands)
        settings = {name: _plain(value.val) for name, value in given.items() if _is_const(value)}
        step = Step(
            kind=kind,
            name=str(operation.name),
            operator=operator,
            operands=operands,
            settings=settings,
            late=tuple((name, self._place(value)) for name, value in given.items() if not _is_const(value)),
            outputs=tuple(self._output(variable, kind) for variable in operation.outputs),
            dead=(),
        )
        if kind.startswith(_CONSTEXPR):
            self._decompress(step)
            return None
        return step

    def _decompress(self, step: Step) -> None:
        """Fill the slot of a weight now, with what another function has made of the same bytes, if there is one."""
        digest = hashlib.sha256(f"{step.kind} {sorted(step.settings.items())}".encode())
        for slot in step.operands:
            digest.update(self._digests[slot] if isinstance(slot, int) and slot else b"absent")
        (output,) = step.outputs
        key = digest.digest()
        if key not in self._shared:
            try:
                with torch.inference_mode():
                    _run_step(step, self._slots)
            except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
                raise corrupt(self._path, f"{step.kind} {step.name!r}: {first_line(error)}") from error
            self._shared[key] = self._slots[output.slot]
        self._slots[output.slot] = self._shared[key]
        self._digests[output.slot] = key
        self._constant.add(output.slot)

    def _operand(self, value: Any) -> int | tuple[int, ...]:  # noqa: ANN401
        if value is None:
            return ABSENT
        return tuple(self._place(item) for item in value) if isinstance(value, (list, tuple)) else self._place(value)

    def _place(self, variable: Any) -> int:  # noqa: ANN401
        if variable not in self._places:
            slot = self._new(variable)
            array = np.asarray(variable.val)
            digest = hashlib.sha256(f"{array.dtype} {array.shape}".encode() + array.tobytes()).digest()
            self._digests[slot] = digest
            self._slots[slot] = self._shared.get(digest)
            if self._slots[slot] is None:
                self._slots[slot] = _tensor(array)
                if array.nbytes >= SHARED and array.dtype.kind == "f":
                    self._shared[digest] = self._slots[slot]
            self._constant.add(slot)
        return self._places[variable]

    def _new(self, variable: Any) -> int:  # noqa: ANN401
        self._slots.append(None)
        self._places[variable] = len(self._slots) - 1
        return self._places[variable]

    def _output(self, variable: Any, kind: str) -> Output:  # noqa: ANN401
        static = all(isinstance(size, (int, np.integer)) for size in variable.shape)
        half = _type_name(variable) == "fp16"
        return Output(
            slot=self._new(variable),
            dtype=_dtype(variable),
            shape=tuple(int(size) for size in variable.shape) if static else None,
            halve=half and (self._round_halves or kind.startswith(_CONSTEXPR)),
        )


def _refuse_unknown(function: Any) -> None:  # noqa: ANN401
    unknown = sorted({str(op.op_type) for op in function.operations if op.op_type != "const"} - OPERATORS.keys())
    if unknown:
        raise UnsupportedModelError(
            f"The reference interpreter lacks the Core ML operation{'s' if len(unknown) > 1 else ''} "
            f"{', '.join(unknown)}.",
            remedy="Check this package on a Mac, where Core ML itself runs it.",
        )


def _with_deaths(steps: list[Step], kept: set[int]) -> tuple[Step, ...]:
    last: dict[int, int] = {}
    for index, step in enumerate(steps):
        for slot in (*_slots_read(step), *(output.slot for output in step.outputs)):
            last[slot] = index
    dead: dict[int, list[int]] = {}
    for slot, index in last.items():
        if slot not in kept:
            dead.setdefault(index, []).append(slot)
    return tuple(replace(step, dead=tuple(dead.get(index, ()))) for index, step in enumerate(steps))


def _slots_read(step: Step) -> list[int]:
    operands = [slot for item in step.operands for slot in ([item] if isinstance(item, int) else item)]
    return operands + [slot for _, slot in step.late]


def _is_state(variable: Any) -> bool:  # noqa: ANN401
    from coremltools.converters.mil.mil import types

    return bool(types.is_state(variable.sym_type))


def _is_const(variable: Any) -> bool:  # noqa: ANN401
    return not isinstance(variable, (list, tuple)) and variable.op is not None and variable.op.op_type == "const"


def _type_name(variable: Any) -> str:  # noqa: ANN401
    from coremltools.converters.mil.mil import types

    return str(types.builtin_to_string(variable.dtype))


def _dtype(variable: Any) -> torch.dtype:  # noqa: ANN401
    name = _type_name(variable)
    if name not in DTYPES:
        raise UnsupportedModelError(
            f"The reference interpreter has no numbers of type {name}.",
            remedy="Check this package on a Mac, where Core ML itself runs it.",
        )
    return DTYPES[name]


def _plain(value: Any) -> Any:  # noqa: ANN401 - a number, a string, or lists of them
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def _tensor(array: Array) -> torch.Tensor:
    """A constant: floats as float32, integers of any width as they are."""
    if array.dtype.kind == "f":
        return torch.from_numpy(array.astype(np.float32))
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    # Numbers of 4 bits and fewer come as bytes whose dtype says so in its metadata, which torch does not know.
    return torch.from_numpy(np.array(array, dtype=np.dtype(array.dtype.str)))
