"""How the judged process starts: with this Python, or with arm64's in an emulator. What it then does is the same."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import edgeq
from edgeq.core.target import Cpu
from edgeq.runtimes.arm64.emulator import find_emulator

SINGLE = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""numpy's own thread pools are off: they take memory that no app would have."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """interpreter: the command that is a Python. is_emulated: what it holds and how fast it is are the emulator's."""

    interpreter: tuple[str, ...]
    environment: dict[str, str]
    is_emulated: bool


def native_launch() -> Launch:
    """This Python in this environment, with edgeq itself importable."""
    paths = [path for path in (os.environ.get("PYTHONPATH"), _package_root()) if path]
    return Launch(
        interpreter=(sys.executable,),
        environment=os.environ | SINGLE | {"PYTHONPATH": os.pathsep.join(paths)},
        is_emulated=False,
    )


def emulated_launch(cpu: Cpu) -> Launch:
    """arm64's Python on that CPU. Raises RuntimeUnavailableError where it is not installed."""
    emulator = find_emulator()
    return Launch(
        interpreter=emulator.interpreter(cpu),
        environment=emulator.environment(_package_root()) | SINGLE,
        is_emulated=True,
    )


def _package_root() -> str:
    return str(Path(edgeq.__file__).parent.parent)
