"""What is installed to run arm64 programs: each file by version, size and sha256, read from `packages.toml`."""

from __future__ import annotations

import hashlib
import os
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from edgeq.core.records import from_plain

LOCK = Path(__file__).with_name("packages.toml")
VARIABLE = "EDGEQ_ARM64"
"""Names the directory to install into, in the place of the user's cache."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """A Debian package. path: below an archive's root. members: the files and folders in it that are wanted."""

    name: str
    version: str
    path: str
    bytes: int
    sha256: str
    into: Literal["emulator", "sysroot"]
    members: tuple[str, ...]

    @property
    def file(self) -> str:
        return self.path.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A Python package for arm64, by the name of its file."""

    name: str
    version: str
    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Lock:
    """python: of the arm64 interpreter, major and minor. archive: a URL below which every package's path is found."""

    python: str
    archive: str
    packages: tuple[Package, ...]
    wheels: tuple[Wheel, ...]

    @property
    def bytes(self) -> int:
        """Of everything that is downloaded."""
        return sum(one.bytes for one in self.packages) + sum(one.bytes for one in self.wheels)


@cache
def read_lock() -> Lock:
    """This version's."""
    return from_plain(Lock, tomllib.loads(LOCK.read_text(encoding="utf-8")), LOCK.name)


def cache_directory() -> Path:
    """Where everything is kept that belongs to arm64, downloads included."""
    named = os.environ.get(VARIABLE)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named).absolute() if named else Path(base) / "edgeq" / "arm64"


def installed_directory() -> Path:
    """Where what this version's lock names is once it is installed; complete or absent."""
    return cache_directory() / hashlib.sha256(LOCK.read_bytes()).hexdigest()[:16]
