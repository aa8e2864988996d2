"""Quantize: from float weights to codes and scales on disk. One paper, one file, one line in METHODS."""

from __future__ import annotations

from edgeq.quantize.allocate import allocate
from edgeq.quantize.methods import METHODS
from edgeq.quantize.stage import FloatModel, quantize

__all__ = ["METHODS", "FloatModel", "allocate", "quantize"]
