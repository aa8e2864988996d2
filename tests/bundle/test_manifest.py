"""A bundle verifies only as it was sealed: any byte, file, path or link that differs is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.bundle.manifest import MANIFEST, Manifest, file_entry, manifest_bytes, read_manifest, verify
from edgeq.core.artifact import FileEntry
from edgeq.core.report import Verdict
from edgeq.errors import BadInputError, CorruptInputError, UnsafeInputError, UsageError
from tests.bundle.samples import generator_interface, profile, sealed_bundle
from tests.reports.samples import DIGEST


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("finished")
    return sealed_bundle(work, work / "bundle")


@pytest.fixture
def bundle(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "bundle"))


def reseal(bundle: Path, **changes: object) -> None:
    """Write a manifest that says something else, and is itself consistent."""
    manifest = dataclasses.replace(read_manifest(bundle), **changes)  # type: ignore[arg-type]
    (bundle / MANIFEST).write_bytes(manifest_bytes(manifest))


def test_verify_returns_the_manifest(bundle: Path) -> None:
    manifest = verify(bundle)
    assert (manifest.name, manifest.target, manifest.surface, manifest.format) == (
        "my-model",
        "test",
        "android",
        "onnx",
    )
    assert manifest.root == "assets/edgeq/my-model"
    assert manifest.model == "assets/edgeq/my-model/model/model.onnx"
    assert manifest.interface == generator_interface()
    assert manifest.profile == profile()
    assert manifest.weights_digest == DIGEST
    assert manifest.weights["table"].shape == (8, 8)
    assert manifest.report.verdict is Verdict.PASSED
    assert [entry.path for entry in manifest.report.files] == ["report.html", "report.json", "report.md"]


def test_manifest_lists_every_file(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    listed = {entry.path for entry in (*manifest.files, *manifest.report.files)}
    found = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert listed == found - {MANIFEST}


def test_manifest_is_sorted_and_has_no_machine_in_it(bundle: Path) -> None:
    text = (bundle / MANIFEST).read_text()
    plain = json.loads(text)
    assert list(plain) == sorted(plain)
    assert "/tmp" not in text  # noqa: S108
    assert "models/My Model" not in text


@given(position=st.integers(min_value=0), bit=st.integers(min_value=0, max_value=7), pick=st.integers(min_value=0))
@settings(max_examples=150, deadline=None)
def test_any_flipped_bit_anywhere_is_refused(finished: Path, position: int, bit: int, pick: int) -> None:
    paths = sorted(path for path in finished.rglob("*") if path.is_file() and path.stat().st_size)
    path = paths[pick % len(paths)]
    original = path.read_bytes()
    changed = bytearray(original)
    changed[position % len(changed)] ^= 1 << bit
    path.write_bytes(changed)
    try:
        with pytest.raises(BadInputError) as refusal:
            verify(finished)
        assert refusal.value.exit_code == 4
    finally:
        path.write_bytes(original)
    verify(finished)


def test_missing_truncated_longer_and_extra_files_are_refused(bundle: Path) -> None:
    data = bundle / "assets/edgeq/my-model/model/model.onnx_data"
    original = data.read_bytes()
    cases: list[tuple[Callable[[], object], str]] = [
        (data.unlink, "is missing"),
        (lambda: data.write_bytes(original[:-1]), "255 bytes"),
        (lambda: data.write_bytes(original + b"x"), "257 bytes"),
        (lambda: (bundle / "virus").write_text("x"), "virus is not part of the bundle"),
    ]
    for damage, message in cases:
        damage()
        with pytest.raises(CorruptInputError, match=message):
            verify(bundle)
        data.write_bytes(original)
    (bundle / "virus").unlink()
    verify(bundle)


def test_swapped_tokenizer_of_the_same_size_is_refused(bundle: Path) -> None:
    path = bundle / "assets/edgeq/my-model/tokenizer/tokenizer.json"
    path.write_text(path.read_text().replace("once", "upon", 1))
    with pytest.raises(CorruptInputError, match=r"tokenizer\.json was changed"):
        verify(bundle)


def test_unfinished_and_absent_bundles_are_told_apart(bundle: Path, tmp_path: Path) -> None:
    (bundle / MANIFEST).unlink()
    with pytest.raises(CorruptInputError, match="no finished bundle"):
        verify(bundle)
    with pytest.raises(UsageError, match="There is no bundle"):
        verify(tmp_path / "nowhere")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"5", b"\xff", b'{"seal": "x"}', b"[" * 100_000])
def test_garbage_for_a_manifest_is_refused(bundle: Path, data: bytes) -> None:
    (bundle / MANIFEST).write_bytes(data)
    with pytest.raises(CorruptInputError):
        read_manifest(bundle)


def test_huge_manifest_is_refused_unread(bundle: Path) -> None:
    with (bundle / MANIFEST).open("r+b") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(CorruptInputError, match="too large"):
        read_manifest(bundle)


def test_other_schema_is_refused_by_name(bundle: Path) -> None:
    reseal(bundle, schema=7)
    with pytest.raises(CorruptInputError, match="of schema 7"):
        verify(bundle)


def test_reformatted_manifest_is_refused(bundle: Path) -> None:
    plain = json.loads((bundle / MANIFEST).read_text())
    (bundle / MANIFEST).write_text(json.dumps(plain))
    with pytest.raises(CorruptInputError, match="was changed"):
        verify(bundle)


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "a/../../b", "C:/x", "a\\..\\..\\b"])
def test_paths_that_leave_are_refused(bundle: Path, path: str) -> None:
    manifest = read_manifest(bundle)
    reseal(bundle, files=(*manifest.files, FileEntry(path=path, bytes=1, sha256="0")))
    with pytest.raises(UnsafeInputError):
        verify(bundle)


@pytest.mark.parametrize("path", ["./README.md", "android//README.md", "edgeq.json", "a\\b"])
def test_paths_in_disguise_are_refused(bundle: Path, path: str) -> None:
    manifest = read_manifest(bundle)
    reseal(bundle, files=(*manifest.files, FileEntry(path=path, bytes=1, sha256="0")))
    with pytest.raises(UnsafeInputError, match="not a plain path"):
        verify(bundle)


def test_file_listed_twice_is_refused(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    reseal(bundle, files=(*manifest.files, manifest.files[0]))
    with pytest.raises(CorruptInputError, match="twice"):
        verify(bundle)


def test_links_are_refused_even_where_the_bytes_agree(bundle: Path, tmp_path: Path) -> None:
    readme = bundle / "README.md"
    moved = tmp_path / "elsewhere"
    readme.rename(moved)
    readme.symlink_to(moved)
    with pytest.raises(UnsafeInputError, match="link"):
        verify(bundle)


def test_linked_directories_and_pipes_are_refused(bundle: Path, tmp_path: Path) -> None:
    (bundle / "extra").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(UnsafeInputError, match="link"):
        verify(bundle)
    (bundle / "extra").unlink()
    os.mkfifo(bundle / "pipe")
    with pytest.raises(UnsafeInputError, match="special file"):
        verify(bundle)


def test_file_entry_refuses_paths_outside(tmp_path: Path) -> None:
    with pytest.raises(UnsafeInputError):
        file_entry(tmp_path, "../x")


def test_manifest_survives_its_own_bytes(bundle: Path) -> None:
    manifest: Manifest = read_manifest(bundle)
    assert manifest_bytes(manifest) == (bundle / MANIFEST).read_bytes()
