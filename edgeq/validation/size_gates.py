"""Gates on files and tensors by size: what a browser fetches, and takes whole into a buffer, has limits of its own."""

from __future__ import annotations

from edgeq.core.report import Gate
from edgeq.validation.gates import at_most, mebibytes
from edgeq.validation.onnx_weights import OnnxWeights
from edgeq.validation.subject import Subject


def size_gates(subject: Subject) -> tuple[Gate, ...]:
    """The largest file and the largest tensor against the profile's limits; empty where it has none.

    Raises CorruptInputError where a model cannot be read.
    """
    gates: tuple[Gate, ...] = ()
    if subject.file_limit_bytes is not None:
        largest = max(subject.files, key=lambda entry: entry.bytes)
        gates += (_gate("largest_file_bytes", largest.path, largest.bytes, subject.file_limit_bytes),)
    if subject.buffer_limit_bytes is not None:
        sizes = {name: size for model in subject.models().values() for name, size in OnnxWeights(model).sizes().items()}
        name = max(sizes, key=lambda name: sizes[name])
        gates += (_gate("largest_tensor_bytes", name, sizes[name], subject.buffer_limit_bytes),)
    return gates


def _gate(name: str, what: str, size: int, limit: int) -> Gate:
    return at_most(name, size, limit, f"{what} takes {mebibytes(size)}, above {mebibytes(limit)}")
