"""`edgeq doctor --install arm64`: fetch what the lock names, check each file, unpack all of it, try it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree

from edgeq.errors import RuntimeUnavailableError
from edgeq.files import sha256_file
from edgeq.progress import Progress
from edgeq.runtimes.arm64.debian import configured_archives, configured_proxies, unpack
from edgeq.runtimes.arm64.emulator import Emulator, check_host, host_architecture
from edgeq.runtimes.arm64.fetching import LATER, fetch
from edgeq.runtimes.arm64.lock import VARIABLE, Lock, Wheel, cache_directory, installed_directory, read_lock

PIP_SECONDS = 1200.0
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")
TRIED_ON = "cortex-a76"
WHAT_PIP_SAID = 300


def install(progress: Progress) -> None:
    """Make this machine able to run arm64's kernels; nothing where it is able. A second call goes on with what an
    interrupted one left.

    Raises RuntimeUnavailableError where that cannot be, a file is not to be had, or the cache cannot be written.
    """
    if host_architecture() == "arm64":
        progress.note("this machine is arm64: its own kernels run, and nothing has to be installed")
        return
    check_host()
    final = installed_directory()
    if final.is_dir():
        return
    downloads = cache_directory() / "downloads"
    try:
        downloads.mkdir(parents=True, exist_ok=True)
        with _alone(downloads):
            if not final.is_dir():  # another process may have been faster
                lock = read_lock()
                _download(lock, downloads, progress)
                _unpack(lock, downloads, final, progress)
    except OSError as error:
        raise RuntimeUnavailableError(
            f"What arm64 needs could not be written to {cache_directory()} ({error.strerror}).",
            remedy=f"Free some space, or set {VARIABLE} to a directory that can be written.",
        ) from error
    rmtree(downloads, ignore_errors=True)


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Two installations into one directory would write the same files: the second one waits."""
    import fcntl

    with (directory / "lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _download(lock: Lock, downloads: Path, progress: Progress) -> None:
    """Every file, each checked; those that are there already are not asked for again."""
    progress.stage(f"downloading {lock.bytes / 1e6:.0f} MB for arm64")
    archives, proxies = (*configured_archives(), lock.archive), configured_proxies()
    before = 0

    def told(name: str) -> Callable[[int], None]:
        return lambda arrived: progress.advance(before + arrived, lock.bytes, name)

    for package in lock.packages:
        told(package.name)(0)
        fetch(
            [archive + package.path for archive in archives],
            downloads / package.file,
            size=package.bytes,
            sha256=package.sha256,
            arrived=told(package.name),
            proxies=proxies,
        )
        before += package.bytes
    for wheel in lock.wheels:
        told(wheel.name)(0)
        _fetch_wheel(wheel, lock.python, downloads)
        before += wheel.bytes


def _fetch_wheel(wheel: Wheel, python: str, downloads: Path) -> None:
    """With pip, which knows this machine's package index and keeps to the hash."""
    target = downloads / wheel.file
    if target.is_file() and sha256_file(target) == wheel.sha256:
        return
    wanted = downloads / "wanted.txt"
    wanted.write_text(f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
    tag = f"cp{python.replace('.', '')}"
    # No build, no dependency: what is wanted is in the lock, and nothing of it may run here.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--only-binary=:all:", "--no-deps", "--require-hashes", "--python-version", python]
    command += ["--implementation", "cp", "--abi", tag, "--abi", "abi3"]
    command += [part for name in PLATFORMS for part in ("--platform", name)]
    command += ["--dest", str(downloads), "--requirement", str(wanted)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise RuntimeUnavailableError(f"pip did not end within {PIP_SECONDS:.0f} s.", remedy=LATER) from error
    if done.returncode or not target.is_file():
        said = " ".join((done.stderr or done.stdout).split())[-WHAT_PIP_SAID:]
        remedy = "Install pip: python -m ensurepip." if "No module named pip" in said else LATER
        raise RuntimeUnavailableError(f"pip cannot fetch {wheel.name} {wheel.version}: {said}", remedy=remedy)


def _unpack(lock: Lock, downloads: Path, final: Path, progress: Progress) -> None:
    """Into a directory that is renamed when it is complete; it stays if arm64's runtime can be loaded from it."""
    progress.stage("unpacking and trying it")
    staged = Emulator(directory=downloads / "staged")
    rmtree(staged.directory, ignore_errors=True)  # of a call that was killed
    (staged.sysroot / "usr" / "lib").mkdir(parents=True)
    (staged.sysroot / "lib").symlink_to("usr/lib")
    for package in lock.packages:
        unpack(downloads / package.file, staged.directory / package.into, package.members)
    for wheel in lock.wheels:
        with zipfile.ZipFile(downloads / wheel.file) as archive:
            archive.extractall(staged.site)
    staged.directory.rename(final)
    try:
        Emulator(directory=final).probe(TRIED_ON)
    except RuntimeUnavailableError:
        rmtree(final, ignore_errors=True)
        raise
