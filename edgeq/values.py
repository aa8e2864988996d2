"""Values that a user writes: sizes with units, and names with a suggestion where they are unknown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Literal

from edgeq.errors import UnknownNameError, UsageError

_UNITS = {"": 1, "B": 1}
for _power, _letter in enumerate("KMGT", start=1):
    _UNITS[f"{_letter}B"] = 1000**_power
    _UNITS[f"{_letter}IB"] = 1024**_power
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def parse_size(text: str) -> int:
    """Bytes of `20MB`, `1.5GiB` or `4096`: MB counts in thousands, MiB in 1024. Raises UsageError."""
    match = _SIZE.fullmatch(text)
    unit = None if match is None else _UNITS.get(match[2].upper())
    if match is None or unit is None:
        raise UsageError(f"{text!r} is not a size.", remedy="Write it as 20MB, 1.5GiB or a number of bytes.")
    size = int(float(match[1]) * unit)
    if size == 0:
        raise UsageError(f"A size of {text!r} leaves nothing.", remedy="Write it as 20MB, 1.5GiB or a number of bytes.")
    return size


def parse_bits(text: str) -> int | Literal["auto"]:
    """A number of bits, or "auto". Raises UsageError."""
    if text == "auto":
        return "auto"
    if not re.fullmatch(r"\d{1,2}", text):
        raise UsageError(f"{text!r} is no value of --bits.", remedy="Use 2, 3, 4, 8, 16 or auto.")
    return int(text)


def one_of(value: str, choices: Sequence[str], *, option: str) -> str:
    """`value`, where it is one of `choices`. Raises UnknownNameError with the nearest one."""
    if value in choices:
        return value
    close = get_close_matches(value, choices, n=1)
    remedy = f"Did you mean {close[0]!r}?" if close else f"Choose from {', '.join(choices)}."
    raise UnknownNameError(f"{option} has no value {value!r}.", remedy=remedy)


def mebibytes(size: int | None) -> int | None:
    """So many MiB in bytes."""
    return None if size is None else size * 2**20
