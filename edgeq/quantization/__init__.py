"""Quantize: from float weights to codes and scales on disk. One paper, one file, one line in METHODS."""

from __future__ import annotations

from edgeq.quantization.allocate import allocate
from edgeq.quantization.methods import METHODS
from edgeq.quantization.selection import Selected, quantize_selected
from edgeq.quantization.stage import FloatModel, needs_calibration, quantize, trains

__all__ = [
    "METHODS",
    "FloatModel",
    "Selected",
    "allocate",
    "needs_calibration",
    "quantize",
    "quantize_selected",
    "trains",
]
