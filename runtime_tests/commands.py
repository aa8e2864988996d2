"""The real command line, run here or as a process, and what every refusal has in common."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

EDGEQ = (sys.executable, "-m", "edgeq")
PROGRESS = " ..."
"""How the lines end that say which stage has begun."""


def environment(**changes: str) -> dict[str, str]:
    """This environment for a child: one thread for torch, edgeq found from any working directory."""
    root = str(Path(__file__).parents[1])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **changes}


def edgeq(
    *arguments: str | Path, cwd: Path, prefix: tuple[str, ...] = (), variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`python -m edgeq` in `cwd`, to its end."""
    command = [*prefix, *EDGEQ, *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env=environment(**(variables or {})), capture_output=True, text=True, check=False, timeout=120
    )


def start(*arguments: str | Path, cwd: Path) -> subprocess.Popen[str]:
    """The same, running, in a group of its own as a terminal would put it."""
    return subprocess.Popen(
        [*EDGEQ, *map(str, arguments)],
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_heed_ctrl_c,  # noqa: PLW1509 - no threads are about
    )


def _heed_ctrl_c() -> None:
    """Whoever runs the tests in the background has them, and their children, ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def assert_one_line(stderr: str, *words: str) -> None:
    """Progress, then exactly one line from edgeq with all `words` in it; no traceback, no warning."""
    *before, last = stderr.splitlines()
    assert all(line.endswith(PROGRESS) for line in before), stderr
    assert last.startswith("edgeq: "), stderr
    for word in words:
        assert word in last, last


def contents(directory: Path) -> dict[str, str]:
    """The relative path of everything below `directory`; of files also the sha256 of their bytes."""
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(directory.rglob("*"))
    }


def mount_prefix(mount: str) -> tuple[str, ...] | None:
    """What runs a command after the shell line `mount` in mounts of its own, or None where the system forbids it."""
    for namespace in (("--mount",), ("--user", "--map-root-user", "--mount")):
        unshare = (shutil.which("unshare") or "", *namespace)
        probe = "mount -t tmpfs probe /mnt"
        if (
            unshare[0]
            and subprocess.run([*unshare, "sh", "-c", probe], capture_output=True, check=False).returncode == 0
        ):
            return (*unshare, "sh", "-c", f'{mount} && exec "$@"', "sh")
    return None
