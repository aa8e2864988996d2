"""The npm packages that run a browser bundle: pinned by a lock file, installed on request only, and found again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from edgeq.errors import RuntimeUnavailableError
from edgeq.progress import Progress
from edgeq.runtimes.browser.programs import npm_command

HERE = Path(__file__).parent
PACKAGE, LOCK = HERE / "package.json", HERE / "package-lock.json"
LICENCE = HERE / "onnxruntime-web.LICENSE"
"""Its npm package carries none."""
REMEDY = "Install them: edgeq doctor --install-browser."
INSTALL_SECONDS = 1200.0
# Scripts of packages would download more: nothing here needs them.
NPM_CI = ("ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
WHAT_NPM_SAID = 600
VENDORED = {
    "transformers.min.js": "@huggingface/transformers/dist/transformers.min.js",
    "ort-wasm-simd-threaded.asyncify.mjs": "onnxruntime-web/dist/ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm": "onnxruntime-web/dist/ort-wasm-simd-threaded.asyncify.wasm",
    "transformers.LICENSE": "@huggingface/transformers/LICENSE",
    "jinja.LICENSE": "@huggingface/jinja/LICENSE",
    "tokenizers.LICENSE": "@huggingface/tokenizers/LICENSE",
}
"""Name in a bundle's `vendor/` and path in `node_modules`. transformers.min.js imports nothing: jinja, tokenizers and
onnxruntime-web's module are within it, so that a page needs no import map and a worker can load it."""


def cache_directory() -> Path:
    """Where the packages of this version's lock file lie once they are installed."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "edgeq" / f"browser-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:16]}"


def is_installed() -> bool:
    """Whether the packages of this version's lock file are here."""
    return (cache_directory() / "node_modules").is_dir()


def package_directory() -> Path:
    """`node_modules` with the pinned packages. Raises RuntimeUnavailableError where they are not installed."""
    if not is_installed():
        raise RuntimeUnavailableError("The npm packages that run browser bundles are not installed.", remedy=REMEDY)
    return cache_directory() / "node_modules"


def package_version(name: str) -> str:
    """Of an installed package. Raises RuntimeUnavailableError."""
    try:
        found = json.loads((package_directory() / name / "package.json").read_bytes())["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RuntimeUnavailableError(
            f"The npm package {name} is incomplete.", remedy=f"Remove {cache_directory()}. {REMEDY}"
        ) from error
    return str(found)


def vendored_files() -> dict[str, Path]:
    """What a bundle carries so that its page needs no other server: name in `vendor/` and file.

    Raises RuntimeUnavailableError where the packages are not installed or a file of them is gone.
    """
    directory = package_directory()
    files = {name: directory / path for name, path in VENDORED.items()} | {LICENCE.name: LICENCE}
    for path in files.values():
        if not path.is_file():
            raise RuntimeUnavailableError(
                f"{path.name} is missing from the npm packages.", remedy=f"Remove {cache_directory()}. {REMEDY}"
            )
    return files


def install(progress: Progress) -> Path:
    """Fetch the packages of the lock file unless they are there; npm checks each against its hash. Returns
    `node_modules`, which is complete or absent.

    Raises RuntimeUnavailableError where npm is missing, Node too old, or npm fails.
    """
    final = cache_directory()
    if is_installed():
        return package_directory()
    npm = npm_command()
    progress.stage("installing npm packages")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=final.parent, prefix=f".{final.name}.", suffix=".tmp") as temporary:
            staged = Path(temporary) / "packages"
            staged.mkdir()
            for path in (PACKAGE, LOCK):
                shutil.copyfile(path, staged / path.name)
            _run_npm(npm, staged)
            _publish(staged, final)
    except OSError as error:
        raise RuntimeUnavailableError(
            f"The npm packages could not be written to {final.parent} ({error.strerror}).",
            remedy="Free some space, or set XDG_CACHE_HOME to a directory that can be written.",
        ) from error
    return package_directory()


def _run_npm(npm: tuple[str, ...], directory: Path) -> None:
    try:
        done = subprocess.run(
            [*npm, *NPM_CI], cwd=directory, capture_output=True, timeout=INSTALL_SECONDS, check=False, text=True
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeUnavailableError(
            f"npm did not end within {INSTALL_SECONDS:.0f} s.", remedy="Look at the network, then ask again."
        ) from error
    if done.returncode or not (directory / "node_modules").is_dir():
        said = " ".join((done.stderr or done.stdout).split())[:WHAT_NPM_SAID]
        raise RuntimeUnavailableError(f"npm failed: {said}", remedy="Look at npm's settings, then ask again.")


def _publish(staged: Path, final: Path) -> None:
    try:
        staged.rename(final)
    except OSError:
        # Whoever came first was right, too: the packages are the same.
        if not (final / "node_modules").is_dir():
            raise
