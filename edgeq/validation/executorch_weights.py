"""The weights digest of a `.pte`, from the bytes that XNNPACK and the embedding kernels read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.core.artifact import TABLE_SUFFIX, WeightLocation
from edgeq.core.digest import tensor_digest, weights_digest
from edgeq.core.packing import unpack_rows
from edgeq.core.scheme import Scheme
from edgeq.core.tensor import QuantizedTensor
from edgeq.errors import CorruptInputError, EdgeqError, RuntimeUnavailableError
from edgeq.validation.onnx_weights import read_entries

Array = npt.NDArray[Any]
NAMED, CONSTANT = "named", "constant"
ALIGNMENT = 16
"""Of constants in the file, in bytes."""


def read_program(model_path: Path) -> Any:  # noqa: ANN401 - executorch has no types
    """A `.pte` as ExecuTorch reads it. Raises CorruptInputError for what is none, RuntimeUnavailableError without the
    package."""
    try:
        from executorch.exir._serialize._program import deserialize_pte_binary
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"ExecuTorch cannot be imported ({error}).", remedy="Install it: pip install 'edgeq[executorch]'."
        ) from error
    try:
        return deserialize_pte_binary(model_path.read_bytes())
    except Exception as error:  # flatbuffers raises whatever its bytes lead it to
        raise _corrupt("it is not an ExecuTorch program") from error


class ExecuTorchWeights:
    """The buffers of a `.pte` by their places. Raises what `read_program` raises."""

    def __init__(self, model_path: Path) -> None:
        file = read_program(model_path)
        self._constants = file.program.constant_buffer or []
        self._named = file.named_data

    def tensor(self, location: WeightLocation) -> QuantizedTensor:
        """One weight as the store holds it."""
        try:
            scheme = Scheme(
                bits=location.bits,
                group_size=location.group_size,
                symmetric=location.symmetric,
                scale_dtype=location.scale_dtype,
            )
            if location.container_bits is None:
                return self._decode(location, scheme)
            folded = not location.symmetric and location.zero_points is None
            symmetric = location.symmetric or folded
            held = self._decode(location, replace(scheme, bits=location.container_bits, symmetric=symmetric))
            return _unfolded(held, scheme) if folded else held.narrowed(scheme.bits)
        except (ValueError, IndexError, KeyError, AttributeError, EdgeqError) as error:
            raise _corrupt(f"{location.codes} does not hold a weight of {location.shape}") from error

    def _decode(self, location: WeightLocation, scheme: Scheme) -> QuantizedTensor:
        outputs, inputs = location.shape
        if location.rows != (0, outputs):
            raise ValueError
        shape = (outputs, scheme.groups(inputs))
        is_table = location.codes.startswith(CONSTANT)
        full = shape[1] * (scheme.group_size or inputs)  # products have a full last group
        stored = self._bytes(location.codes, outputs * full * scheme.bits // 8)
        codes = _codes(stored, scheme, is_table=is_table).reshape(outputs, full)[:, :inputs]
        if scheme.bits == 4 and not is_table:
            halves = np.frombuffer(self._bytes(location.scales, 2 * shape[0] * shape[1]), np.uint16)
            scales = (halves.astype(np.uint32) << 16).view(np.float32).reshape(shape)
        else:
            scales = self._floats(location.scales, shape)
        zero_points = None
        if location.zero_points is not None:
            stored_zeros = self._floats(location.zero_points, shape)
            zero_points = _zero_points(stored_zeros if is_table else _corrected_zeros(stored_zeros, scales), scheme)
        return QuantizedTensor(scheme=scheme, codes=np.ascontiguousarray(codes), scales=scales, zero_points=zero_points)

    def _floats(self, place: str, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
        return np.frombuffer(self._bytes(place, 4 * shape[0] * shape[1]), np.float32).reshape(shape)

    def _bytes(self, place: str, size: int) -> bytes:
        """The `size` bytes at `place`; constants may be followed by what aligns the next one."""
        kind, _, name = place.partition(":")
        if kind == NAMED:
            stored, padding = bytes(self._named.buffers[self._named.pte_data[name].buffer_index]), 0
        elif kind == CONSTANT and name.isdecimal():
            stored, padding = bytes(self._constants[int(name)].storage), -size % ALIGNMENT
        else:
            raise _corrupt(f"it has no place {place!r}")
        if len(stored) not in {size, size + padding}:
            raise ValueError
        return stored[:size]


def artifact_digest(model_path: Path, weights: Mapping[str, Any]) -> str:
    """The weights digest of what the file holds. A second copy of a weight must be equal to the first.

    Raises CorruptInputError, RuntimeUnavailableError.
    """
    source = ExecuTorchWeights(model_path)
    digests = {
        name: tensor_digest(name.removesuffix(TABLE_SUFFIX), source.tensor(entry))
        for name, entry in read_entries(weights).items()
    }
    for name, digest in digests.items():
        if digest != digests.get(name.removesuffix(TABLE_SUFFIX)):
            raise _corrupt(f"the two copies of {name.removesuffix(TABLE_SUFFIX)} differ")
    return weights_digest((name, digest) for name, digest in digests.items() if not name.endswith(TABLE_SUFFIX))


def _codes(stored: bytes, scheme: Scheme, *, is_table: bool) -> npt.NDArray[np.uint8]:
    """XNNPACK keeps the first of two codes in a byte's lower half, the embedding kernel in the upper one; of four 2-bit
    codes the first is the lowest."""
    packed = np.frombuffer(stored, np.uint8)
    if scheme.bits == 2 and is_table:
        return unpack_rows(packed[None], 2, 4 * len(packed))
    if scheme.bits not in {4, 8}:
        raise ValueError
    if scheme.bits == 8:
        return (packed.view(np.int8).astype(np.int16) + scheme.default_zero_point).astype(np.uint8)
    halves = (packed >> 4, packed & 15) if is_table else (packed & 15, packed >> 4)
    return np.stack(halves, axis=-1)


def _unfolded(held: QuantizedTensor, scheme: Scheme) -> QuantizedTensor:
    """Codes and zero points whose differences are the integers of `held`: the least zero points that do. Raises
    ValueError where a group spans more than the scheme's levels."""
    integers = held.integers()
    inputs, size = integers.shape[1], scheme.group_size or integers.shape[1]
    starts = np.arange(0, inputs, size)
    zeros = np.maximum(-np.minimum.reduceat(integers, starts, axis=1), 0)
    codes = integers + np.repeat(zeros, size, axis=1)[:, :inputs]
    if max(codes.max(initial=0), zeros.max(initial=0)) >= scheme.levels:
        raise ValueError
    return QuantizedTensor(
        scheme=scheme, codes=codes.astype(np.uint8), scales=held.scales, zero_points=zeros.astype(np.uint8)
    )


def _zero_points(signed: npt.NDArray[np.float32], scheme: Scheme) -> npt.NDArray[np.uint8]:
    """Stored zero points count from the middle of the codes; they must be whole, and codes themselves."""
    whole = np.rint(signed)
    zeros = whole + np.float32(scheme.default_zero_point)
    if not np.array_equal(whole, signed) or not ((zeros >= 0) & (zeros < scheme.levels)).all():
        raise ValueError
    return zeros.astype(np.uint8)


def _corrected_zeros(correction: npt.NDArray[np.float32], scales: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Zero points from `-(scale * zero)`, which must be what whole ones make."""
    zeros: npt.NDArray[np.float32] = np.rint(-correction / scales)
    if not np.array_equal(-(scales * zeros), correction):
        raise ValueError
    return zeros


def _corrupt(problem: str) -> CorruptInputError:
    return CorruptInputError(f"The weights of model.pte cannot be read: {problem}.", remedy="Export the bundle again.")
