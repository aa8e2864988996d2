"""What an app asks the system for before it loads a bundle's model."""

from __future__ import annotations

from typing import assert_never

from edgeq.bundle.browser import belongs_to
from edgeq.bundle.manifest import Manifest
from edgeq.core.artifact import Interface
from edgeq.core.target import Format

RUNTIME_BYTES = 64 * 2**20
"""Twice what validation charges for a runtime: an app asks before it loads, and should rather ask for too much."""


def required_bytes(manifest: Manifest) -> int:
    """The model's files once (kernels may copy weights into their own layout), what the runtime unpacks of them, the
    key-value cache at full context as the format holds it, and the runtime itself. Of several variants one is loaded:
    the largest counts."""
    unpacked = sum(location.unpacked_bytes for location in manifest.weights.values())
    cache = cache_bytes(manifest.interface, manifest.format)
    return model_bytes(manifest) + unpacked + cache + RUNTIME_BYTES


def model_bytes(manifest: Manifest) -> int:
    """Bytes of the model's files; of the largest variant's, where there are several."""
    if manifest.variants:
        return max(
            sum(entry.bytes for entry in manifest.files if belongs_to(entry.path, variant))
            for variant in manifest.variants
        )
    prefix = "" if manifest.root == "." else f"{manifest.root}/"
    return sum(entry.bytes for entry in manifest.files if entry.path.startswith(f"{prefix}model/"))


def cache_bytes(interface: Interface, format: Format) -> int:
    """Bytes of the key-value cache at the full context length; 0 for encoders."""
    return bytes_per_token(interface.cache, format) * interface.context_length


def bytes_per_token(cache: tuple[tuple[int, int], ...], format: Format) -> int:
    """What one more token adds to the cache; cache: `(key-value heads, head size)` per layer."""
    return sum(2 * _element_bytes(format) * heads * size for heads, size in cache)


def _element_bytes(format: Format) -> int:
    match format:
        case "onnx" | "executorch" | "transformersjs":  # the last in float32 at most
            return 4
        case "coreml":  # states are float16, whatever the model computes in
            return 2
    assert_never(format)
