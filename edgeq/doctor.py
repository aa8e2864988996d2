"""What this machine offers: Python, runtimes, memory limits; and a remedy for each thing that is missing."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import get_args

from edgeq.core.target import Format
from edgeq.errors import RuntimeUnavailableError
from edgeq.progress import Progress
from edgeq.targets.formats import FORMATS

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
class FormatSupport:
    """A format that bundles can have; `detail` says what runs it here, or what to install."""

    name: Format
    usable: bool
    detail: str


@dataclass(frozen=True, kw_only=True)
class Part:
    """Something that browser bundles, arm64's kernels or graphs of text are run with; `detail` is what was found, or
    how to get it."""

    name: str
    usable: bool
    detail: str


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
    """`missing` is empty where every verdict can be had on this machine; formats with optional dependencies may do
    without them."""

    edgeq_version: str
    python: str
    platform: str
    tools: tuple[Tool, ...]
    formats: tuple[FormatSupport, ...]
    browser: tuple[Part, ...]
    arm64: tuple[Part, ...]
    text_graphs: tuple[Part, ...]
    memory_limits: tuple[MemoryLimit, ...]
    missing: tuple[Missing, ...]


def examine() -> Diagnosis:
    """Look at this machine. Runtimes are really loaded: one that is installed but does not load is of no use."""
    from edgeq import __version__
    from edgeq.validation.memory import available_backends

    tools = tuple(Tool(name=name, version=_version(name), needed_for=purpose) for name, purpose in REQUIREMENTS)
    limits = tuple(MemoryLimit(name=name, usable=usable, detail=why) for name, usable, why in available_backends())
    missing = [Missing(name=tool.name, remedy=f"pip install {tool.name}") for tool in tools if tool.version is None]
    formats = tuple(_format_support(format) for format in get_args(Format))
    if not missing:
        missing += [Missing(name=broken.name, remedy=broken.detail) for broken in formats if _is_broken(broken)]
    if not any(limit.usable for limit in limits):
        missing.append(Missing(name="memory limit", remedy="Validate on Linux, or inside a Linux container."))
    return Diagnosis(
        edgeq_version=__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        tools=tools,
        formats=formats,
        browser=_parts(_browser_examinations()),
        arm64=_parts({"kernels": _arm64_detail}),
        text_graphs=_parts({"operators": _extensions_detail}),
        memory_limits=limits,
        missing=tuple(missing),
    )


def install_browser(progress: Progress) -> None:
    """Fetch the npm packages that browser bundles are judged with, and that they carry. Nothing else of edgeq uses the
    network for them. Raises RuntimeUnavailableError."""
    from edgeq.runtimes.browser.packages import install

    install(progress)


def install_arm64(progress: Progress) -> None:
    """Fetch what runs arm64's kernels here, unless this machine is arm64. Raises as `edgeq.runtimes.arm64.install`."""
    from edgeq.runtimes.arm64.install import install

    install(progress)


def _arm64_detail() -> str:
    from edgeq.runtimes.arm64.emulator import find_emulator, host_architecture
    from edgeq.runtimes.arm64.install import TRIED_ON

    if host_architecture() == "arm64":
        return "this machine's own"
    emulator = find_emulator()
    version = emulator.probe(TRIED_ON)
    return f"onnxruntime {version} under qemu {emulator.version()} in {emulator.directory}"


def _extensions_detail() -> str:
    from edgeq.runtimes import extensions

    return f"{extensions.PACKAGE} {extensions.version()}"


def _browser_examinations() -> dict[str, Callable[[], str]]:
    from edgeq.runtimes.browser import packages, programs

    def packages_detail() -> str:
        return f"onnxruntime-web {packages.package_version('onnxruntime-web')} in {packages.package_directory()}"

    def node_detail() -> str:
        return programs.program_version(programs.find_node()) or "of no version"

    def chromium_detail() -> str:
        path = programs.find_chromium()
        if path is None:
            what = "There is none: Node runs the models instead, on WASM only."
            raise RuntimeUnavailableError(what, remedy=programs.CHROMIUM_REMEDY)
        return f"{programs.program_version(path) or 'of no version'}, {path}"

    return {"node": node_detail, "npm packages": packages_detail, "chromium": chromium_detail}


def _parts(examined: dict[str, Callable[[], str]]) -> tuple[Part, ...]:
    return tuple(_part(name, examine) for name, examine in examined.items())


def _part(name: str, examine: Callable[[], str]) -> Part:
    try:
        return Part(name=name, usable=True, detail=examine())
    except RuntimeUnavailableError as error:
        return Part(name=name, usable=False, detail=f"{error.what} {error.remedy}")


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _format_support(format: Format) -> FormatSupport:
    from edgeq.runtimes.opening import is_reference_executed, runtime_of

    absent = [name for name in FORMATS[format].distributions if _version(name) is None]
    if absent:
        return FormatSupport(name=format, usable=False, detail=f"pip install 'edgeq[{format}]'")
    runtime = runtime_of(format)
    try:
        version = runtime.version()
    except RuntimeUnavailableError as error:
        return FormatSupport(name=format, usable=False, detail=f"{error.what} {error.remedy}")
    if is_reference_executed(format):
        detail = f"coremltools {version} writes it, the reference interpreter runs it: drift is judged, memory is not"
        return FormatSupport(name=format, usable=True, detail=detail)
    return FormatSupport(name=format, usable=True, detail=f"{runtime.name()} {version}")


def _is_broken(support: FormatSupport) -> bool:
    """Installed, or part of what everybody installs, and yet of no use."""
    if support.name == "transformersjs":
        from edgeq.runtimes.browser.packages import is_installed

        return not support.usable and is_installed()
    return not support.usable and all(_version(name) is not None for name in FORMATS[support.name].distributions)
