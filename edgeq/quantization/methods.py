"""The methods by name, as recipes and plans call them."""

from __future__ import annotations

from difflib import get_close_matches

from edgeq.core.scheme import Codebook, Scheme
from edgeq.errors import UnknownNameError, UsageError
from edgeq.quantization.grid import QuantizeFunction
from edgeq.quantization.hqq import half_quadratic
from edgeq.quantization.nf4 import quantize_nf4
from edgeq.quantization.palette import fit_palettes
from edgeq.quantization.rtn import round_to_nearest
from edgeq.quantization.scale_search import search_scales

METHODS: dict[str, QuantizeFunction] = {
    "rtn": round_to_nearest,
    "mse": search_scales,
    "hqq": half_quadratic,
    "nf4": quantize_nf4,
    "kmeans": fit_palettes,
}
CODEBOOKS: dict[str, Codebook] = {"nf4": "nf4", "kmeans": "palette"}
"""The codebook that the schemes of a method must have; the other methods want none."""
AWQ, GPTQ, REFIT = "awq", "gptq", "refit"
RECONSTRUCT, DISTILL = "reconstruct", "distill"
CALIBRATED = (AWQ, GPTQ, REFIT, RECONSTRUCT, DISTILL)
"""Methods that read calibration text: AWQ, which scales columns and rounds; GPTQ; GPTQ and then the best scales and
codes around it; those again, trained together towards the outputs of each block, or towards the answers of the model.
They quantize the linears of the blocks."""
FITTING = (GPTQ, REFIT)
"""Those of them that take schemes with a codebook too."""
SCALING = (AWQ,)
"""Methods before which columns are scaled."""
AUTO = "auto"
DEFAULT_METHOD = "mse"
NO_METHOD = "none"
"""What a plan calls the method of a matrix that becomes float16."""


def resolve_method(name: str) -> str:
    """A key of METHODS, or one of CALIBRATED. `auto` is the best method that knows nothing but the weights; what it
    comes to where there is a model to run is decided by `edgeq.composition`. Raises UnknownNameError."""
    if name == AUTO:
        return DEFAULT_METHOD
    known = [AUTO, *METHODS, *CALIBRATED]
    if name in known:
        return name
    near = get_close_matches(name, known, n=1)
    choices = f"Did you mean {near[0]!r}?" if near else f"Use one of: {', '.join(known)}."
    raise UnknownNameError(f"There is no quantization method {name!r}.", remedy=choices)


def plain_method(scheme: Scheme) -> str:
    """The best method for quantized weights of a scheme that needs no calibration."""
    makers = {codebook: method for method, codebook in CODEBOOKS.items()}
    return DEFAULT_METHOD if scheme.codebook is None else makers[scheme.codebook]


def function_for(method: str, scheme: Scheme) -> QuantizeFunction:
    """The function of a method that `resolve_method` gave; what a calibrated method begins with. Raises UsageError
    where it does not make such schemes."""
    codebook = CODEBOOKS.get(method)
    if codebook == scheme.codebook or method in FITTING:
        return METHODS[plain_method(scheme) if method in CALIBRATED else method]
    if scheme.codebook is None:
        remedy = f'Give the scheme codebook="{codebook}", or take the method "{DEFAULT_METHOD}".'
    else:
        remedy = f'Take the method "{plain_method(scheme)}".'
    raise UsageError(f"The method {method!r} does not make {scheme.label()} weights.", remedy=remedy)
