"""The store: a quantized model as a directory, written block by block and read tensor by tensor."""

from __future__ import annotations

from edgeq.store.encode import EncodedTensor, encode_float, encode_quantized
from edgeq.store.layout import DRAFT, TRAINING
from edgeq.store.model import QuantizedModel, ResolvedRecipe
from edgeq.store.writer import StoreWriter, store_key

__all__ = [
    "DRAFT",
    "TRAINING",
    "EncodedTensor",
    "QuantizedModel",
    "ResolvedRecipe",
    "StoreWriter",
    "encode_float",
    "encode_quantized",
    "store_key",
]
