"""What this machine offers: Python, runtimes, memory limits; and a remedy for each thing that is missing."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib import metadata

REQUIREMENTS = (
    ("torch", "capture and the float reference"),
    ("transformers", "reading a model's architecture"),
    ("tokenizers", "text in and out"),
    ("onnx-ir", "writing ONNX"),
    ("onnxruntime", "running ONNX bundles"),
)
"""Distribution and what it is needed for."""


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A package; `version` is None where it is not installed."""

    name: str
    version: str | None
    needed_for: str


@dataclass(frozen=True, kw_only=True)
class MemoryLimit:
    """A way to hold a process to a device's memory, the preferred one first; `detail` says why it is not usable."""

    name: str
    usable: bool
    detail: str


@dataclass(frozen=True, kw_only=True)
class Missing:
    name: str
    remedy: str


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """`missing` is empty where every verdict can be had on this machine."""

    edgeq_version: str
    python: str
    platform: str
    tools: tuple[Tool, ...]
    memory_limits: tuple[MemoryLimit, ...]
    missing: tuple[Missing, ...]


def examine() -> Diagnosis:
    """Look at this machine. ONNX Runtime is really loaded: one that is installed but does not load is missing."""
    from edgeq import __version__
    from edgeq.validation.memory import available_backends

    tools = tuple(Tool(name=name, version=_version(name), needed_for=purpose) for name, purpose in REQUIREMENTS)
    limits = tuple(MemoryLimit(name=name, usable=usable, detail=why) for name, usable, why in available_backends())
    missing = [Missing(name=tool.name, remedy=f"pip install {tool.name}") for tool in tools if tool.version is None]
    if not missing and (reason := _onnxruntime_problem()):
        missing.append(Missing(name="onnxruntime", remedy=f"It does not load ({reason}): install it again."))
    if not any(limit.usable for limit in limits):
        missing.append(Missing(name="memory limit", remedy="Validate on Linux, or inside a Linux container."))
    return Diagnosis(
        edgeq_version=__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        tools=tools,
        memory_limits=limits,
        missing=tuple(missing),
    )


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _onnxruntime_problem() -> str:
    """Why the runtime does not load; empty where it does."""
    from edgeq.errors import RuntimeUnavailableError
    from edgeq.runtimes.onnxruntime import import_onnxruntime

    try:
        import_onnxruntime()
    except RuntimeUnavailableError as error:
        return error.what
    return ""
