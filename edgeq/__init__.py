"""edgeq: quantize a model, lower it for a device, and prove the bundle in its real runtime.

report = edgeq.export("path/to/model", target="android", bits=4)
model = edgeq.load("model-android-4bit")
print(model.generate("Once upon a time"))
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from edgeq.api import export, load
    from edgeq.pipeline import export_formats, lower, quantize, validate

__all__ = ["export", "export_formats", "load", "lower", "quantize", "validate"]


def __getattr__(name: str) -> object:
    """The public functions, imported when they are first used: `import edgeq` alone loads no framework."""
    if name in ("export", "load"):
        from edgeq import api

        return getattr(api, name)
    if name in __all__:
        from edgeq import pipeline

        return getattr(pipeline, name)
    msg = f"module 'edgeq' has no attribute {name!r}"
    raise AttributeError(msg)
