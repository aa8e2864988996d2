"""Codes to bytes and back, as `com.microsoft.MatMulNBits` and `GatherBlockQuantized` store them.

Little end first along the input axis: with 4 bits, even inputs sit in the low nibble. Where bits do not divide a byte
there are no gaps either: eight codes of 3 bits are three bytes.
Every group starts on a byte and a short last group is padded to full length.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]


def pack_rows(codes: Bytes, bits: int) -> Bytes:
    """`[rows, n]` codes to `[rows, ceil(n * bits / 8)]` bytes; the last byte of a row is padded with zero bits."""
    if bits == 8:
        return np.ascontiguousarray(codes)
    rows, n = codes.shape
    padding = -n % (2 if bits == 4 else 8)
    padded = np.pad(codes, ((0, 0), (0, padding))) if padding else codes
    if bits == 4:
        pairs = np.ascontiguousarray(padded).view("<u2")  # low byte: even input, high byte: odd input
        packed: Bytes = (pairs | pairs >> 4).astype(np.uint8)
        return packed
    fields = padded.reshape(rows, -1, 8)
    words = fields[:, :, 0].astype("<u8")  # eight codes fill `bits` bytes, whatever the bits
    for position in range(1, 8):
        words |= fields[:, :, position].astype("<u8") << (bits * position)
    whole = words[:, :, None].view(np.uint8)[:, :, :bits].reshape(rows, -1)
    return np.ascontiguousarray(whole[:, : -(-n * bits // 8)])


def unpack_rows(packed: Bytes, bits: int, n: int) -> Bytes:
    """The inverse of `pack_rows`: `[rows, n]` codes."""
    if bits == 8:
        return packed[:, :n]
    mask = (1 << bits) - 1
    if 8 % bits == 0:
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        fields = (packed[:, :, None] >> shifts) & mask
        return fields.reshape(packed.shape[0], -1)[:, :n].astype(np.uint8)
    rows, width = packed.shape
    padded = np.pad(packed, ((0, 0), (0, -width % bits))).reshape(rows, -1, bits)
    words = np.pad(padded, ((0, 0), (0, 0), (0, 8 - bits))).view("<u8")
    codes = np.empty((*words.shape[:2], 8), np.uint8)
    for position in range(8):
        codes[:, :, position] = (words[:, :, 0] >> np.uint64(bits * position)) & np.uint64(mask)
    return codes.reshape(rows, -1)[:, :n]


def pack_groups(codes: Bytes, bits: int, group_size: int) -> Bytes:
    """`[out, in]` codes to MatMulNBits' `[out, groups, group_size * bits / 8]`; padding codes are zero."""
    outputs, inputs = codes.shape
    padding = -inputs % group_size
    padded = np.pad(codes, ((0, 0), (0, padding))) if padding else codes
    return pack_rows(padded, bits).reshape(outputs, (inputs + padding) // group_size, group_size * bits // 8)


def unpack_groups(packed: Bytes, bits: int, inputs: int) -> Bytes:
    """The inverse of `pack_groups`: `[out, inputs]` codes."""
    outputs = packed.shape[0]
    return unpack_rows(packed.reshape(outputs, -1), bits, inputs)
