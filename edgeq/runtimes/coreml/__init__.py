"""Core ML packages, run by Core ML on a Mac and by a reference interpreter elsewhere."""

import dataclasses
import platform
from pathlib import Path

from edgeq.core.artifact import Interface
from edgeq.runtimes.coreml.drivers import Encoder, TextGenerator
from edgeq.runtimes.coreml.memory import EstimatedMemory, estimated_memory
from edgeq.runtimes.coreml.package import import_coremltools
from edgeq.runtimes.generation import Opening

__all__ = [
    "Encoder",
    "EstimatedMemory",
    "TextGenerator",
    "estimated_memory",
    "import_coremltools",
    "memory_by_part",
    "name",
    "open_encoder",
    "open_generator",
    "version",
]


def name() -> str:
    return f"Core ML of macOS {platform.mac_ver()[0]}, coremltools"


def version() -> str:
    """Of coremltools. Raises RuntimeUnavailableError where it is not installed."""
    return str(import_coremltools().__version__)


def memory_by_part(path: Path) -> dict[str, int]:
    """`estimated_memory` by name. Raises as it does."""
    return dataclasses.asdict(estimated_memory(path))


def open_generator(path: Path, interface: Interface, opening: Opening) -> TextGenerator:
    return TextGenerator(
        path,
        interface,
        compute_unit=opening.compute_unit,
        tokenizer_path=opening.tokenizer_path,
        threads=opening.threads,
    )


def open_encoder(path: Path, interface: Interface, opening: Opening) -> Encoder:
    return Encoder(
        path,
        interface,
        compute_unit=opening.compute_unit,
        tokenizer_path=opening.tokenizer_path,
        threads=opening.threads,
    )
