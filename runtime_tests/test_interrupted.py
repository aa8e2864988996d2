"""Exports that are cut short by a full disk, a kill or Ctrl-C, and that the same command gives the same bytes."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest

from edgeq import cli, lowering, pipeline
from edgeq.models.reference import ReferenceRequest
from edgeq.store.layout import BLOCKS, DOCUMENT, PARTIAL
from runtime_tests.commands import assert_one_line, contents, edgeq, environment, mount_prefix, start
from tests.tiny_models import tiny_llama

KB = 1024
ROUNDED = ("--method", "mse")
QUICK = ("--no-validate", "--json", *ROUNDED)
SLOW_LAYERS = 32


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a long licence, so that the disk can fill up while the bundle is gathered."""
    directory = tiny_llama(tmp_path_factory.mktemp("tiny") / "model")
    (directory / "LICENSE").write_text("Do as you like.\n" * (512 * KB // 16))
    return directory


@pytest.fixture(scope="module")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose blocks take long enough to quantize that a kill can come between two of them."""
    return tiny_llama(
        tmp_path_factory.mktemp("slow") / "model", dtype="bfloat16", hidden=256, intermediate=1280, layers=SLOW_LAYERS
    )


@pytest.fixture(scope="module")
def bundle(model: Path) -> Path:
    """What an export gives that nothing interrupts."""
    assert cli.run(["export", str(model), "--output", str(model.parent / "bundle"), "--json", *ROUNDED]) == 0
    return model.parent / "bundle"


@pytest.fixture
def place(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the model in it."""
    (tmp_path / "model").symlink_to(model)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def assert_same_bundle(one: Path, other: Path) -> None:
    """Equal but for the report, which holds times, and what the manifest says of it."""
    first, second = contents(one), contents(other)
    for name in ("report.json", "report.md", "report.html", "edgeq.json"):
        assert first.pop(name)
        assert second.pop(name)
    assert first == second
    manifests = [json.loads((path / "edgeq.json").read_text()) for path in (one, other)]
    for manifest in manifests:
        assert manifest.pop("report")
        assert manifest.pop("seal")
    assert json.dumps(manifests[0]) == json.dumps(manifests[1])


# -- the disk is full


@pytest.mark.parametrize(
    ("size", "where"),
    [("64k", ".bundle.work/store"), ("720k", "model.onnx_data"), ("1150k", "disk/bundle could")],
    ids=["quantizing", "data", "staging"],
)
@pytest.mark.skipif(mount_prefix("true") is None, reason="no mounts here: the limit below fills the same places")
def test_a_full_disk_is_one_line_and_leaves_nothing(place: Path, size: str, where: str) -> None:
    disk = place / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size={size} edgeq '{disk}' && cd '{disk}'"
    listing = ("sh", "-c", '"$@"; code=$?; ls -A > ../left; exit $code', "sh")
    prefix = (*(mount_prefix(mount) or ()), *listing)
    ended = edgeq("export", place / "model", "--output", "bundle", *QUICK, cwd=place, prefix=prefix)
    assert_one_line(ended.stderr, "The disk is full", where, "Free some space")
    assert ended.returncode == 2
    assert (place / "left").read_text() == ""


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The system refuses larger files to this process and its children."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def limit_from(function: str, size: int) -> Callable[[pytest.MonkeyPatch], None]:
    """From the pipeline's call of `function` on, no file may be larger than `size` bytes."""

    def prepare(monkeypatch: pytest.MonkeyPatch) -> None:
        original = getattr(pipeline, function)

        def limited(*arguments: object, **more: object) -> object:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
            return original(*arguments, **more)

        monkeypatch.setattr(pipeline, function, limited)

    return prepare


LIMITS = {
    "quantizing": (limit_from("quantize_model", 8 * KB), ".bundle.work/store"),
    "data": (limit_from("lower_to", 64 * KB), "model.onnx_data"),
    "references": (limit_from("run_reference", 64 * KB), "float/0000.npy"),
    "staging": (limit_from("stage", 0), "bundle could"),
    "sealing": (limit_from("seal", 0), "bundle could"),
}


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_on_files_is_a_full_disk(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    limit, where = LIMITS[name]
    limit(monkeypatch)
    quick = ROUNDED if name == "references" else QUICK
    with files_of_at_most(resource.getrlimit(resource.RLIMIT_FSIZE)[0]):
        assert cli.run(["export", "model", "--output", "new/bundle", *quick]) == 2
    assert_one_line(capsys.readouterr().err, "The disk is full", where, "Free some space")
    assert [path.name for path in place.iterdir()] == ["model"]


def test_no_room_for_the_answers_is_not_the_bundles_fault(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(bundle)
    with files_of_at_most(64 * KB):
        assert cli.run(["validate", str(bundle)]) == 2
    assert_one_line(capsys.readouterr().err, "The disk is full", "the bundle's answers", "TMPDIR")
    assert contents(bundle) == before


# -- killed


def finished_blocks(store: Path) -> dict[str, tuple[int, int]]:
    """The path of each block that a killed run has finished, with its file's number and time."""
    record = store / PARTIAL
    lines = record.read_text().split("\n")[1:-1] if record.exists() else []
    paths = [store / json.loads(line)["file"]["path"] for line in lines]
    return {path.name: identity(path) for path in paths}


def identity(path: Path) -> tuple[int, int]:
    """Another one tells that the file was written again."""
    return path.stat().st_ino, path.stat().st_mtime_ns


def stop_within_quantizing(process: subprocess.Popen[str], store: Path, number: int) -> None:
    """Send a signal as soon as a block is finished; some are not."""
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline and not finished_blocks(store):
        time.sleep(0.001)
    os.killpg(process.pid, number)


def wait_for_stage(process: subprocess.Popen[str], stage: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(stage):
            return
    raise AssertionError(f"the process ended before {stage}")


def test_a_killed_export_goes_on_where_it_was(
    slow_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ("export", str(slow_model), "--output", "bundle", *QUICK)
    store = tmp_path / ".bundle.work" / "store"
    killed = start(*command, cwd=tmp_path)
    stop_within_quantizing(killed, store, signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    finished = finished_blocks(store)
    assert 1 <= len(finished) < SLOW_LAYERS + 2
    assert not (store / DOCUMENT).exists()

    blocks: dict[str, tuple[int, int]] = {}
    lower_to: Callable[..., object] = lowering.lower

    def look_first(*arguments: object) -> object:
        blocks.update({path.name: identity(path) for path in (store / BLOCKS).iterdir()})
        return lower_to(*arguments)

    monkeypatch.setattr(pipeline, "lower_to", look_first)
    assert cli.run(command) == 0
    assert len(blocks) == SLOW_LAYERS + 2
    assert {name: blocks[name] for name in finished} == finished
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]

    monkeypatch.undo()
    assert cli.run(["export", str(slow_model), "--output", str(tmp_path / "whole"), *QUICK]) == 0
    assert_same_bundle(tmp_path / "whole", tmp_path / "bundle")


def test_an_export_killed_within_validation_leaves_nothing_to_the_next(
    place: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = place / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    killed = start("export", "model", "--output", "bundle", *ROUNDED, cwd=place)
    wait_for_stage(killed, "running the bundle")
    while not any(temporary.iterdir()):
        time.sleep(0.001)
    killed.kill()
    killed.communicate()
    left = {path.name for path in place.iterdir()}
    assert left == {"model", "temporary", ".bundle.work", f".bundle.{killed.pid}.tmp"}

    assert cli.run(["export", "model", "--output", "bundle", "--json", *ROUNDED]) == 0
    assert {path.name for path in place.iterdir()} == {"model", "temporary", "bundle"}
    assert list(temporary.iterdir()) == []
    assert_same_bundle(place / "bundle", bundle)


def test_the_reference_process_ends_with_its_parent(model: Path, tmp_path: Path) -> None:
    request = ReferenceRequest(
        source=str(model), store=None, task="text-generation", sequences=((1, 2, 3),), output=str(tmp_path / "output")
    )
    (tmp_path / "request.json").write_text(json.dumps(asdict(request)))
    command = [sys.executable, "-m", "edgeq.models.reference", str(tmp_path / "request.json")]
    # Nothing holds the other end of its standard input, as when an export was killed.
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env=environment(), check=False)
    assert ended.returncode != 0
    assert not (tmp_path / "output" / "float").exists()


# -- Ctrl-C


def test_ctrl_c_is_exit_130_and_keeps_the_finished_blocks(slow_model: Path, tmp_path: Path) -> None:
    interrupted = start("export", slow_model, "--output", "bundle", *QUICK, cwd=tmp_path)
    work = tmp_path / ".bundle.work"
    stop_within_quantizing(interrupted, work / "store", signal.SIGINT)
    _, stderr = interrupted.communicate()
    assert interrupted.returncode == 130
    assert_one_line(stderr, "Interrupted.")
    assert [path.name for path in tmp_path.iterdir()] == [".bundle.work"]
    assert [path.name for path in work.iterdir()] == ["store"]
    assert finished_blocks(work / "store")


@pytest.mark.parametrize("function", ["lower_to", "run_reference", "stage", "seal"])
def test_ctrl_c_later_keeps_only_the_store(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], function: str
) -> None:
    def interrupt(*_arguments: object, **_more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, function, interrupt)
    quick = ROUNDED if function == "run_reference" else QUICK
    assert cli.run(["export", "model", "--output", "bundle", *quick]) == 130
    assert_one_line(capfd.readouterr().err, "Interrupted.")
    assert {path.name for path in place.iterdir()} == {"model", ".bundle.work"}
    assert [path.name for path in (place / ".bundle.work").iterdir()] == ["store"]


# -- the same bytes, and a bundle that does not fit


def test_nothing_around_an_export_changes_its_bytes(model: Path, bundle: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(model, elsewhere / "model", copy_function=shutil.copyfile)
    ended = edgeq(
        *("export", "elsewhere/model", "--output", "another-name", *ROUNDED),
        cwd=tmp_path,
        prefix=("sh", "-c", 'umask 077 && exec "$@"', "sh"),
        variables={"PYTHONHASHSEED": "7", "TZ": "Asia/Kathmandu", "LC_ALL": "C"},
    )
    assert ended.returncode == 0, ended.stderr
    assert_same_bundle(bundle, tmp_path / "another-name")


def test_a_bundle_that_does_not_fit_is_exit_1_and_untouched(bundle: Path, tmp_path: Path) -> None:
    before = contents(bundle)
    ended = edgeq("validate", bundle, "--memory-limit", "20MB", cwd=tmp_path)
    assert ended.returncode == 1
    assert "killed at the limit" in ended.stdout
    assert all(line.endswith(" ...") for line in ended.stderr.splitlines())
    assert contents(bundle) == before
    assert list(bundle.parent.glob(".*")) == []


def test_a_verdict_that_is_required_and_missing_is_exit_3(place: Path) -> None:
    assert cli.run(["export", "model", "--output", "bundle", *QUICK]) == 0
    ended = edgeq("validate", "bundle", "--require", cwd=place)
    assert ended.returncode == 3
    assert_one_line(ended.stderr, "could not be validated", "edgeq doctor")
