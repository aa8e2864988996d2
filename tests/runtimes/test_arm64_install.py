"""Installing arm64: pinned, continued, whole or absent, without root. Mirror, emulator and packages are played here."""

from __future__ import annotations

import hashlib
import io
import os
import platform
import random
import re
import stat
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from edgeq import doctor
from edgeq.errors import CorruptInputError, EdgeqError, RuntimeUnavailableError, UnsafeInputError
from edgeq.progress import SilentProgress
from edgeq.runtimes.arm64 import emulator, install
from edgeq.runtimes.arm64.debian import configured_archives, configured_proxies, unpack
from edgeq.runtimes.arm64.emulator import Emulator, find_emulator, host_architecture
from edgeq.runtimes.arm64.lock import LOCK, VARIABLE, Lock, Package, Wheel, installed_directory, read_lock
from tests.readme import REPOSITORY
from tests.runtimes.mirror import Mirror, serving

CONTENT = random.Random(0).randbytes(200_000)
QEMU = f'#!/bin/sh\nshift 5\nexec {sys.executable} "$@"\n'
"""Drops its own options and the interpreter of the sysroot."""


def test_everything_in_the_lock_is_pinned() -> None:
    lock = read_lock()
    pinned: list[Package | Wheel] = [*lock.packages, *lock.wheels]
    for one in pinned:
        assert re.fullmatch(r"[0-9a-f]{64}", one.sha256)
        assert one.bytes > 10_000
        assert one.version.partition(":")[2] in one.file
    assert {one.into for one in lock.packages} == {"emulator", "sysroot"}
    assert all(one.file.endswith("_arm64.deb") == (one.into == "sysroot") for one in lock.packages)
    assert all("aarch64" in one.file and one.file.endswith(".whl") for one in lock.wheels)
    assert 100e6 < lock.bytes < 120e6
    assert "index" not in tomllib.loads(LOCK.read_text())


def test_the_lock_has_the_versions_of_the_checks() -> None:
    """Else arm64 would be compared with another runtime's x86-64."""
    constraints = (REPOSITORY / "constraints.txt").read_text().splitlines()
    assert {f"{wheel.name}=={wheel.version}" for wheel in read_lock().wheels} <= set(constraints)


def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, script: str) -> None:
    """A program of that name, before all others."""
    programs = tmp_path / "bin"
    programs.mkdir(exist_ok=True)
    (programs / name).write_text(f"#!/bin/sh\n{script}\n")
    (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")


def test_the_archives_are_those_that_apt_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [
        "'http://mirror.example/debian/dists/bookworm/InRelease' mirror_InRelease 0",
        "'http://mirror.example/debian/dists/bookworm-updates/InRelease' mirror_updates 0",
        "'http://mirror.example/debian-security/dists/bookworm-security/InRelease' security 0",
        "'https://packages.example/node_20.x/dists/nodistro/InRelease' node 0",
        "'https://second.example/pub/debian/dists/sid/InRelease' second 0",
        "'cdrom://disc/debian/dists/bookworm/InRelease' disc 0",
    ]
    echo = "\n".join(f'echo "{line}"' for line in listed)
    play(tmp_path, monkeypatch, "apt-get", f'test "$*" = "update --print-uris" || exit 1\n{echo}')
    assert configured_archives() == (
        "http://mirror.example/debian/",
        "http://mirror.example/debian-security/",
        "https://packages.example/node_20.x/",
        "https://second.example/pub/debian/",
    )
    play(tmp_path, monkeypatch, "apt-get", f"{echo}\nexit 100")
    assert configured_archives() == ()
    monkeypatch.setenv("PATH", "")
    assert configured_archives() == ()


def test_apt_s_proxy_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://environment.example:1")
    monkeypatch.setenv("https_proxy", "http://environment.example:2")
    for said, used in (
        ("http://apt.example:3142/", "http://apt.example:3142/"),
        ("DIRECT", "http://environment.example:1"),
    ):
        play(tmp_path, monkeypatch, "apt-config", f"echo {said}")
        proxies = configured_proxies()
        assert (proxies["http"], proxies["https"]) == (used, "http://environment.example:2")


def tar_of(members: dict[str, bytes | str]) -> bytes:
    """A tar.xz: bytes are a file, executable where it begins as a script; text is a link's target."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:xz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                archive.addfile(member)
            else:
                member.size, member.mode = len(content), 0o755 if content.startswith(b"#!") else 0o600
                archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def deb_of(members: dict[str, bytes | str]) -> bytes:
    """A Debian package, as deb(5) describes it."""
    parts = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": tar_of(members)}
    package = b"!<arch>\n"
    for name, content in parts.items():
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n"
        package += header.encode() + content + b"\n" * (len(content) % 2)
    return package


def test_a_package_is_unpacked_where_it_belongs(tmp_path: Path) -> None:
    package = tmp_path / "x.deb"
    members: dict[str, bytes | str] = {
        "./usr/bin/tool": b"#!/bin/sh\n",
        "./usr/share/doc/x": b"words",
        "./lib/aarch64/libx.so.1.2": b"library",
        "./lib/aarch64/libx.so.1": "libx.so.1.2",
        "./usr/lib/site.py": "/etc/site.py",
        "./usr/library/x": b"another",
    }
    package.write_bytes(deb_of(members))
    unpack(package, tmp_path / "root", ("lib", "usr/bin", "usr/lib"))
    found = sorted(path.relative_to(tmp_path / "root").as_posix() for path in (tmp_path / "root").rglob("*.*"))
    assert found == ["usr/lib/aarch64/libx.so.1", "usr/lib/aarch64/libx.so.1.2"]
    assert (tmp_path / "root/usr/lib/aarch64/libx.so.1").read_bytes() == b"library"
    assert stat.S_IMODE((tmp_path / "root/usr/bin/tool").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "root/usr/lib/aarch64/libx.so.1.2").stat().st_mode) == 0o644


@pytest.mark.parametrize("content", [b"", b"!<arch>\n", b"no package at all", deb_of({})[:100]])
def test_what_is_no_package_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.deb").write_bytes(content)
    with pytest.raises(CorruptInputError, match="is no Debian package"):
        unpack(tmp_path / "x.deb", tmp_path / "root", ("usr",))


def test_a_path_that_climbs_out_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.deb").write_bytes(deb_of({"usr/bin/../../../x": b"out"}))
    with pytest.raises(UnsafeInputError):
        unpack(tmp_path / "x.deb", tmp_path / "root", ("usr",))
    assert not (tmp_path / "x").exists()


@dataclass
class Played:
    """A machine with a mirror, a package index and an emulator that runs this very Python."""

    mirror: Mirror
    wheels: Path
    lock: Lock
    directory: Path


def wheel_of(directory: Path, name: str, modules: dict[str, str]) -> Wheel:
    """A wheel for arm64 that pip takes."""
    path = directory / f"{name}-1.0-cp311-cp311-manylinux_2_28_aarch64.whl"
    info = f"{name}-1.0.dist-info"
    tag = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: false\nTag: cp311-cp311-manylinux_2_28_aarch64\n"
    with zipfile.ZipFile(path, "w") as archive:
        for module, text in modules.items():
            archive.writestr(f"{module}.py", text)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", tag)
        archive.writestr(f"{info}/RECORD", "")
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    return Wheel(name=name, version="1.0", file=path.name, bytes=len(data), sha256=digest)


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Played]:
    package = deb_of({"./usr/bin/qemu-aarch64": QEMU.encode(), "./usr/bin/qemu-arm": b"another"})
    python = deb_of({"./usr/bin/python3.11": b"for arm64", "./lib/aarch64/libc.so": CONTENT})
    parts: list[tuple[str, bytes, Literal["emulator", "sysroot"]]] = [
        ("qemu", package, "emulator"),
        ("python", python, "sysroot"),
    ]
    pinned = [
        Package(
            name=name,
            version="1:2.0+1",
            path=f"pool/{name}.deb",
            bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            into=into,
            members=("usr/bin/qemu-aarch64",) if into == "emulator" else ("lib", "usr/bin"),
        )
        for name, data, into in parts
    ]
    wheels = tmp_path / "index"
    wheels.mkdir()
    modules = {"numpy": "", "psutil": "", "onnxruntime": "__version__ = '9.9'"}
    files = {"/debian/pool/qemu.deb": package, "/debian/pool/python.deb": python}
    with serving(Mirror(files=files)) as mirror:
        lock = Lock(
            python="3.11",
            archive=f"{mirror.url}/archive/",
            packages=tuple(pinned),
            wheels=(wheel_of(wheels, "runtime", modules),),
        )
        for module in (install, emulator):
            monkeypatch.setattr(module, "read_lock", lambda: lock)
        monkeypatch.setattr(install, "configured_archives", lambda: (f"{mirror.url}/debian/",))
        monkeypatch.setattr(install, "configured_proxies", dict)
        monkeypatch.setattr(platform, "machine", lambda: "x86_64")
        monkeypatch.setenv(VARIABLE, str(tmp_path / "arm64"))
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
        yield Played(mirror=mirror, wheels=wheels, lock=lock, directory=tmp_path / "arm64")


def test_install_puts_everything_in_place_once(played: Played) -> None:
    with pytest.raises(RuntimeUnavailableError, match="Install it: edgeq doctor --install arm64"):
        find_emulator()
    doctor.install_arm64(SilentProgress())
    found = find_emulator()
    assert found.directory.parent == played.directory
    assert found.probe("cortex-a76") == "9.9"
    assert found.version() == "2.0"
    assert (found.sysroot / "lib/aarch64/libc.so").read_bytes() == CONTENT
    assert not (found.qemu.parent / "qemu-arm").exists()
    assert list(played.directory.iterdir()) == [found.directory]
    asked = len(played.mirror.asked)
    doctor.install_arm64(SilentProgress())
    assert len(played.mirror.asked) == asked


def test_an_interrupted_install_goes_on(played: Played) -> None:
    """The mirror breaks off within the second package; then it is the index that has nothing; then all is well."""
    played.mirror.cut = 10_000
    with pytest.raises(RuntimeUnavailableError):
        install.install(SilentProgress())
    assert not installed_directory().exists()
    played.mirror.cut = None
    (wheel,) = played.wheels.iterdir()
    hidden = wheel.rename(played.wheels.parent / wheel.name)
    with pytest.raises(RuntimeUnavailableError, match=r"pip cannot fetch runtime 1\.0"):
        install.install(SilentProgress())
    wanted = dict(played.mirror.asked)
    assert wanted["/debian/pool/qemu.deb"] is None
    assert str(wanted["/debian/pool/python.deb"]).startswith("bytes=")
    asked = len(played.mirror.asked)
    hidden.rename(wheel)
    (played.directory / "downloads" / "staged" / "sysroot" / "lib").mkdir(parents=True)  # as a kill leaves it
    install.install(SilentProgress())
    assert len(played.mirror.asked) == asked
    assert find_emulator().probe("cortex-a53") == "9.9"


def test_the_archive_has_what_the_mirror_no_longer_has(played: Played) -> None:
    for path in list(played.mirror.files):
        played.mirror.files[path.replace("/debian/", "/archive/")] = played.mirror.files.pop(path)
    install.install(SilentProgress())
    assert find_emulator().probe("cortex-a76") == "9.9"


def test_a_wheel_with_other_bytes_is_refused(played: Played) -> None:
    (wheel,) = played.wheels.iterdir()
    wheel_of(played.wheels, "runtime", {"onnxruntime": "__version__ = 'changed'"})
    assert wheel.is_file()
    with pytest.raises(RuntimeUnavailableError, match=r"pip cannot fetch runtime 1\.0: .*Expected sha256"):
        install.install(SilentProgress())
    assert not installed_directory().exists()


def test_python_without_pip_has_a_remedy(played: Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play(tmp_path, monkeypatch, "bare", 'echo "$0: No module named pip" >&2; exit 1')
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "bare"))
    with pytest.raises(RuntimeUnavailableError, match="Install pip: python -m ensurepip"):
        install.install(SilentProgress())


def test_what_does_not_run_is_not_left_behind(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulator, "PROBE", "raise SystemExit('no such instruction')")
    with pytest.raises(RuntimeUnavailableError, match=r"does not run \(no such instruction\)"):
        install.install(SilentProgress())
    assert not installed_directory().exists()


def test_a_cache_that_cannot_be_written_has_a_remedy(
    played: Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file"))
    with pytest.raises(RuntimeUnavailableError, match=r"could not be written .*set EDGEQ_ARM64 to a directory"):
        install.install(SilentProgress())


@pytest.mark.parametrize(
    ("machine", "architecture"),
    [("x86_64", "x86_64"), ("AMD64", "x86_64"), ("aarch64", "arm64"), ("arm64", "arm64"), ("riscv64", None)],
)
def test_the_host_is_known_by_its_names(
    monkeypatch: pytest.MonkeyPatch, machine: str, architecture: str | None
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert host_architecture() == architecture


def test_an_arm64_machine_needs_nothing(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    install.install(SilentProgress())
    assert played.mirror.asked == []
    assert not played.directory.exists()


@pytest.mark.parametrize(("system", "machine"), [("win32", "AMD64"), ("darwin", "x86_64"), ("linux", "riscv64")])
def test_elsewhere_one_line_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, system: str, machine: str) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    with pytest.raises(RuntimeUnavailableError, match="arm64 is emulated on Linux on x86-64 only") as refusal:
        install.install(SilentProgress())
    assert "in a virtual machine or a container" in refusal.value.remedy
    assert isinstance(refusal.value, EdgeqError)


def test_the_emulated_python_has_nothing_of_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "QEMU_CPU"):
        monkeypatch.setenv(name, "ours")
    monkeypatch.setenv("TMPDIR", "kept")
    one = Emulator(directory=tmp_path)
    environment = one.environment("/edgeq")
    assert "ours" not in environment.values()
    assert environment["TMPDIR"] == "kept"
    assert environment["PYTHONPATH"].split(os.pathsep) == [str(tmp_path / "site"), "/edgeq"]
    command = one.interpreter("cortex-a53")
    assert command[1:4] == ("-cpu", "cortex-a53", "-L")
    assert Path(command[-1]) == tmp_path / "sysroot" / "usr" / "bin" / "python3.11"


def test_directory_is_named_by_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert installed_directory().parent == tmp_path / "edgeq" / "arm64"
    first = installed_directory().name
    other = tmp_path / "other.toml"
    other.write_text("")
    monkeypatch.setattr("edgeq.runtimes.arm64.lock.LOCK", other)
    assert installed_directory().name != first
