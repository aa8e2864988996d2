"""Browsers: onnxruntime-web in headless Chromium, or in Node where there is none."""

from __future__ import annotations

from pathlib import Path

from edgeq.core.artifact import Interface
from edgeq.runtimes.browser.drivers import Encoder, TextGenerator
from edgeq.runtimes.browser.packages import package_version
from edgeq.runtimes.browser.programs import find_node
from edgeq.runtimes.generation import Opening


def name() -> str:
    return "onnxruntime-web"


def version() -> str:
    """Of onnxruntime-web. Raises RuntimeUnavailableError where it or Node is not installed."""
    found = package_version("onnxruntime-web")
    find_node()
    return found


def memory_by_part(path: Path) -> dict[str, int]:
    """Nothing: onnxruntime-web plans its memory as it runs."""
    return {}


def open_generator(path: Path, interface: Interface, opening: Opening) -> TextGenerator:
    return TextGenerator(path, interface, opening)


def open_encoder(path: Path, interface: Interface, opening: Opening) -> Encoder:
    return Encoder(path, interface, opening)
