"""Debian packages without root: where this machine's apt gets them, and what is in one."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import tarfile
import urllib.request
from pathlib import Path, PurePosixPath

from edgeq.errors import CorruptInputError
from edgeq.files import contained

APT_SECONDS = 60.0
_ARCHIVE = re.compile(r"^'(https?://\S+?/)dists/", re.MULTILINE)
"""In what apt would fetch. A mirror can have any name: another archive just does not have what is asked of it."""
_AR_MAGIC, _AR_HEADER, _AR_NAME, _AR_SIZE = b"!<arch>\n", 60, slice(0, 16), slice(48, 58)


def configured_archives() -> tuple[str, ...]:
    """Those that apt is set up with, each with a slash at its end; none where there is no apt."""
    # With print-uris apt only says what it would do: it needs no index, no network and no root.
    listed = _said(("apt-get", "update", "--print-uris"))
    return tuple(dict.fromkeys(_ARCHIVE.findall(listed)))


def configured_proxies() -> dict[str, str]:
    """The environment's proxies by scheme, and apt's for http where it has one of its own."""
    apt = _said(("apt-config", "dump", "--format", "%v", "Acquire::http::Proxy")).strip()
    return urllib.request.getproxies() | ({"http": apt} if apt.startswith("http") else {})


def unpack(package: Path, into: Path, members: tuple[str, ...]) -> None:
    """Write those files and folders of a package below `into`, all that lies in `/lib` into `usr/lib`.

    Links out of the package are left out. Raises CorruptInputError, UnsafeInputError, OSError.
    """
    with tarfile.open(fileobj=io.BytesIO(_data(package))) as archive:
        for member in archive:
            path = str(PurePosixPath(member.name))
            if any(path == one or path.startswith(f"{one}/") for one in members):
                target = contained(into, f"usr/{path}" if path.startswith("lib/") else path)
                _write(archive, member, target)


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    if member.isdir():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if member.issym():
        if not member.linkname.startswith("/"):
            target.symlink_to(member.linkname)
        return
    stream = archive.extractfile(member)
    if stream is not None:
        with stream, target.open("wb") as copy:
            shutil.copyfileobj(stream, copy)
        target.chmod(0o755 if member.mode & 0o100 else 0o644)


def _data(package: Path) -> bytes:
    """The compressed tar of a package's files: the member of an ar archive that is called data.tar.*."""
    content = package.read_bytes()
    start = len(_AR_MAGIC)
    if content[:start] == _AR_MAGIC:
        while len(header := content[start : start + _AR_HEADER]) == _AR_HEADER:
            size = int(header[_AR_SIZE])
            start += _AR_HEADER
            if header[_AR_NAME].startswith(b"data.tar"):
                return content[start : start + size]
            start += size + size % 2
    raise CorruptInputError(f"{package.name} is no Debian package.", remedy=f"Remove {package}, then ask again.")


def _said(command: tuple[str, ...]) -> str:
    """What a program of apt prints; "" where there is none or it fails."""
    program = shutil.which(command[0])
    if program is None:
        return ""
    try:
        done = subprocess.run([program, *command[1:]], capture_output=True, text=True, timeout=APT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
