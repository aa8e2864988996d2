"""edgeq: quantize a model, lower it for a device, and prove the bundle in its real runtime."""

__version__ = "0.1.0"
