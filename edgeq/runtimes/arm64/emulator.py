"""How a Python program starts on arm64: with the installed emulator, interpreter and runtimes."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from edgeq.core.target import Architecture
from edgeq.errors import RuntimeUnavailableError
from edgeq.runtimes.arm64.lock import installed_directory, read_lock

INSTALL = "edgeq doctor --install arm64"
ELSEWHERE = "Validate on Linux, on x86-64 or arm64, in a virtual machine or a container."
PROBE = "import numpy, onnxruntime, psutil; print(onnxruntime.__version__)"
PROBE_SECONDS = 300.0
_OURS = ("LD_", "PYTHON", "QEMU_")
"""Variables by how they begin that mean this machine's programs, not the emulated ones."""
_MACHINES: dict[str, Architecture] = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}


def host_architecture() -> Architecture | None:
    """What this Python runs on; None for what edgeq knows nothing of."""
    return _MACHINES.get(platform.machine().lower())


@dataclass(frozen=True, kw_only=True)
class Emulator:
    """What `edgeq doctor --install arm64` put into `directory`."""

    directory: Path

    @property
    def qemu(self) -> Path:
        return self.directory / "emulator" / "usr" / "bin" / "qemu-aarch64"

    @property
    def sysroot(self) -> Path:
        return self.directory / "sysroot"

    @property
    def site(self) -> Path:
        """Where the wheels were unpacked."""
        return self.directory / "site"

    def interpreter(self, cpu: str) -> tuple[str, ...]:
        """The command that is arm64's Python on that CPU; a program's arguments follow."""
        python = self.sysroot / "usr" / "bin" / f"python{read_lock().python}"
        return (str(self.qemu), "-cpu", cpu, "-L", str(self.sysroot), str(python))

    def environment(self, *paths: str) -> dict[str, str]:
        """For that Python. paths: what it imports from, behind its own packages."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        return kept | {
            "PYTHONPATH": os.pathsep.join((str(self.site), *paths)),
            # Beside what is compiled, as neither edgeq nor the cache need be writable later.
            "PYTHONPYCACHEPREFIX": str(self.directory / "compiled"),
        }

    def version(self) -> str:
        """Of the emulator, as the lock has it: upstream's, without Debian's epoch and revision."""
        pinned = next(one.version for one in read_lock().packages if one.into == "emulator")
        return pinned.partition(":")[2].partition("+")[0]

    def probe(self, cpu: str) -> str:
        """Import the runtime on that CPU: its version. Raises RuntimeUnavailableError where it does not load."""
        command = [*self.interpreter(cpu), "-c", PROBE]
        try:
            done = subprocess.run(
                command, env=self.environment(), capture_output=True, text=True, timeout=PROBE_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _broken(str(error), self.directory) from error
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise _broken(last[:300], self.directory)
        return done.stdout.strip()


def find_emulator() -> Emulator:
    """The installed one. Raises RuntimeUnavailableError, with what to do, where there is none."""
    check_host()
    emulator = Emulator(directory=installed_directory())
    if not emulator.directory.is_dir():
        raise RuntimeUnavailableError("The arm64 emulator is not installed.", remedy=f"Install it: {INSTALL}.")
    return emulator


def check_host() -> None:
    """Raises RuntimeUnavailableError where arm64 cannot be emulated."""
    if sys.platform != "linux" or host_architecture() != "x86_64":
        raise RuntimeUnavailableError(
            f"arm64 is emulated on Linux on x86-64 only, and this is {platform.system()} on {platform.machine()}.",
            remedy=ELSEWHERE,
        )


def _broken(reason: str, directory: Path) -> RuntimeUnavailableError:
    return RuntimeUnavailableError(
        f"What is installed for arm64 does not run ({reason}).", remedy=f"Remove {directory}, then: {INSTALL}."
    )
