"""Edge: the whole bundle on a small Linux board, with a script that runs it and a service with the profile's limits."""

from __future__ import annotations

from pathlib import Path

from edgeq.bundle.manifest import Manifest
from edgeq.bundle.text import fill, installed_version, template
from edgeq.runtimes.extensions import PACKAGE as EXTENSIONS

ROOT = "."
_REQUIREMENTS = ("numpy", "onnxruntime", "tokenizers")
_PILLOW = "pillow>=11\n"
"""What reads image files. edgeq itself never does, so no version of it was tried."""


def write(manifest: Manifest, directory: Path) -> None:
    """Write `run.py`, `requirements.txt` and `edgeq.service` into the staged bundle."""
    profile = manifest.profile
    service = fill(
        "edgeq.service",
        {
            "NAME": manifest.name,
            "HIGH": f"{profile.memory_limit_mib - profile.memory_reserve_mib}M",
            "MAX": f"{profile.memory_limit_mib}M",
            "TARGET": manifest.target,
        },
    )
    packages = _REQUIREMENTS if manifest.text is None else (*_REQUIREMENTS, EXTENSIONS)
    pinned = "".join(f"{package}=={installed_version(package)}\n" for package in packages)
    if manifest.interface.image is not None:
        pinned += _PILLOW
    script = "run_module.py" if manifest.interface.task == "module" else "run.py"
    (directory / "run.py").write_text(template(script), encoding="utf-8")
    (directory / "requirements.txt").write_text(pinned, encoding="utf-8")
    (directory / "edgeq.service").write_text(service, encoding="utf-8")
