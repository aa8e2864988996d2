"""The methods by name, as recipes and plans call them."""

from __future__ import annotations

from difflib import get_close_matches

from edgeq.errors import UnknownNameError
from edgeq.quantization.grid import QuantizeFunction
from edgeq.quantization.rtn import round_to_nearest
from edgeq.quantization.scale_search import search_scales

METHODS: dict[str, QuantizeFunction] = {
    "rtn": round_to_nearest,
    "mse": search_scales,
}
AUTO = "auto"
DEFAULT_METHOD = "mse"
NO_METHOD = "none"
"""What a plan calls the method of a matrix that becomes float16."""


def resolve_method(name: str) -> str:
    """A key of METHODS: `auto` is the best method that needs no calibration. Raises UnknownNameError."""
    if name == AUTO:
        return DEFAULT_METHOD
    if name in METHODS:
        return name
    near = get_close_matches(name, [*METHODS, AUTO], n=1)
    choices = f"Did you mean {near[0]!r}?" if near else f"Use one of: {', '.join([AUTO, *METHODS])}."
    raise UnknownNameError(f"There is no quantization method {name!r}.", remedy=choices)
