"""The weights digest: one sha256 for the codes and scales of a model, whatever file format holds them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from edgeq.core.tensor import QuantizedTensor

NATIVE_BITS = 4
"""From here on every format stores zero points beside the codes."""


def tensor_digest(name: str, tensor: QuantizedTensor) -> str:
    """Hex sha256 of one tensor: name and scheme, then codes, scales, zero points and codebook, C order, little endian.

    With fewer than 4 bits codes and zero points count as their differences, as formats may store only those. Without a
    codebook the digest is what it was before there were any.
    """
    scheme = tensor.scheme
    header = f"{name}|{tensor.shape}|{scheme.bits}|{scheme.group_size}|{scheme.symmetric}"
    if scheme.codebook is not None:
        header += f"|{scheme.codebook}|{scheme.palette_rows}"
    digest = hashlib.sha256(f"{header}\n".encode())
    differences = scheme.bits < NATIVE_BITS and tensor.zero_points is not None
    codes = tensor.integers().astype(np.int8) if differences else tensor.codes
    digest.update(np.ascontiguousarray(codes).data)
    digest.update(np.ascontiguousarray(tensor.scales, dtype="<f4").data)
    if tensor.zero_points is not None and not differences:
        digest.update(np.ascontiguousarray(tensor.zero_points).data)
    if tensor.codebook is not None:
        digest.update(np.ascontiguousarray(tensor.codebook, dtype="<f4").data)
    return digest.hexdigest()


def weights_digest(tensor_digests: Iterable[tuple[str, str]]) -> str:
    """Combine `(name, tensor_digest)` pairs, sorted by name, into the model's digest in hex.

    It covers quantized tensors; those that stay float are judged by their drift.
    """
    combined = hashlib.sha256()
    for name, digest in sorted(tensor_digests):
        combined.update(f"{name} {digest}\n".encode())
    return combined.hexdigest()
