"""Torch operators that the Core ML lowering converts itself. They have shapes but no implementation.

Quantized weights are named by their place in a list, so that no float copy of them exists while torch traces.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.library import Library, impl

NAMESPACE = "edgeq_coreml"
_LIBRARY: Any = Library(NAMESPACE, "DEF")  # type: ignore[no-untyped-call]
_LIBRARY.define("linear(Tensor x, int weight, int outputs, Tensor? bias) -> Tensor")
_LIBRARY.define("embedding(Tensor ids, int weight, int width) -> Tensor")
_LIBRARY.define("rms_norm(Tensor x, Tensor weight, float eps) -> Tensor")
_LIBRARY.define("update_cache(Tensor cache, Tensor new, Tensor position) -> Tensor")


@impl(_LIBRARY, "linear", "Meta")
def _linear(x: torch.Tensor, _weight: int, outputs: int, _bias: torch.Tensor | None) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], outputs))


@impl(_LIBRARY, "embedding", "Meta")
def _embedding(ids: torch.Tensor, _weight: int, width: int) -> torch.Tensor:
    return ids.new_empty((*ids.shape, width), dtype=torch.float32)


@impl(_LIBRARY, "rms_norm", "Meta")
def _rms_norm(x: torch.Tensor, _weight: torch.Tensor, _eps: float) -> torch.Tensor:
    return torch.empty_like(x)


@impl(_LIBRARY, "update_cache", "Meta")
def _update_cache(cache: torch.Tensor, _new: torch.Tensor, _position: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(cache)


linear = torch.ops.edgeq_coreml.linear.default
embedding = torch.ops.edgeq_coreml.embedding.default
rms_norm = torch.ops.edgeq_coreml.rms_norm.default
update_cache = torch.ops.edgeq_coreml.update_cache.default
