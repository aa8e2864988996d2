"""Quantize: from float weights to codes and scales on disk. One paper, one file, one line in METHODS."""

from __future__ import annotations

from edgeq.quantization.allocate import allocate
from edgeq.quantization.methods import METHODS
from edgeq.quantization.stage import FloatModel, quantize

__all__ = ["METHODS", "FloatModel", "allocate", "quantize"]
