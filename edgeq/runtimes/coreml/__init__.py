"""Core ML packages, run by Core ML on a Mac and by a reference interpreter elsewhere."""

from edgeq.runtimes.coreml.drivers import Encoder, TextGenerator
from edgeq.runtimes.coreml.memory import EstimatedMemory, estimated_memory
from edgeq.runtimes.coreml.package import import_coremltools

__all__ = ["Encoder", "EstimatedMemory", "TextGenerator", "estimated_memory", "import_coremltools"]
