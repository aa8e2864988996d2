"""What the browser runtime finds, reads and refuses before a browser is started."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from edgeq.core.artifact import Interface
from edgeq.errors import CorruptInputError, RuntimeUnavailableError
from edgeq.runtimes import browser
from edgeq.runtimes.browser import packages, placement, programs
from edgeq.runtimes.browser.drivers import chunk_files
from edgeq.runtimes.browser.host import read_reply
from edgeq.runtimes.generation import Opening

INTERFACE = Interface(task="text-generation", inputs=(), outputs=("logits",), vocabulary=9, context_length=8)


def program(directory: Path, name: str, says: str = "") -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


@pytest.fixture(autouse=True)
def no_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without programs; what a test adds to the directory is all that there is."""
    directory = tmp_path / "bin"
    monkeypatch.setenv("PATH", str(directory))
    monkeypatch.delenv(programs.VARIABLE, raising=False)
    monkeypatch.setattr(programs, "PLACES", ())
    monkeypatch.setattr(programs, "NODE_PACKAGE", "no_such_package")
    return directory


def test_chromium_is_found_by_its_names(no_programs: Path) -> None:
    assert programs.find_chromium() is None
    chrome = program(no_programs, "google-chrome")
    assert programs.find_chromium() == chrome
    chromium = program(no_programs, "chromium")
    assert programs.find_chromium() == chromium


def test_the_variable_has_the_last_word(no_programs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program(no_programs, "chromium")
    mine = program(tmp_path / "mine", "browser")
    monkeypatch.setenv(programs.VARIABLE, str(mine))
    assert programs.find_chromium() == mine
    monkeypatch.setenv(programs.VARIABLE, "")
    assert programs.find_chromium() is None
    monkeypatch.setenv(programs.VARIABLE, str(tmp_path / "nothing"))
    with pytest.raises(RuntimeUnavailableError, match="nothing is no program"):
        programs.find_chromium()


def test_applications_of_macos_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place = program(tmp_path / "Applications", "Google Chrome")
    monkeypatch.setattr(programs, "PLACES", (tmp_path / "none", place))
    assert programs.find_chromium() == place


@pytest.mark.parametrize("says", ["v18.1.0", "", "nonsense"])
def test_old_node_is_refused(no_programs: Path, says: str) -> None:
    with pytest.raises(RuntimeUnavailableError, match="There is no Node"):
        programs.find_node()
    program(no_programs, "node", says)
    with pytest.raises(RuntimeUnavailableError, match="Node 20 or later"):
        programs.find_node()


def test_new_node_is_found(no_programs: Path) -> None:
    node = program(no_programs, "node", "v22.3.1")
    assert programs.find_node() == node
    assert programs.program_version(no_programs / "none") is None


def test_node_as_a_python_package_comes_first(
    no_programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its npm runs in its Node, whatever the PATH has."""
    program(no_programs, "node", "v20.3.1")
    program(no_programs, "npm")
    assert programs.npm_command() == (str(no_programs / "npm"),)
    package = tmp_path / "python" / "a_node_package"
    node = program(package / "bin", "node", "v24.1.0")
    script = package / "lib/node_modules/npm/bin/npm-cli.js"
    script.parent.mkdir(parents=True)
    script.touch()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setattr(programs, "NODE_PACKAGE", "a_node_package")
    assert programs.find_node() == node
    assert programs.npm_command() == (str(node), str(script))


def test_webgpu_needs_a_browser(no_programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(no_programs, "node", "v22.3.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = stage(tmp_path / "bundle", chunks=0)
    with pytest.raises(RuntimeUnavailableError, match="edgeq doctor --install-browser"):
        browser.open_generator(model, INTERFACE, Opening())
    (packages.cache_directory() / "node_modules").mkdir(parents=True)
    with pytest.raises(RuntimeUnavailableError, match="WebGPU needs a browser"):
        browser.open_encoder(model, INTERFACE, Opening(execution_provider="webgpu"))


def test_version_needs_packages_and_node(no_programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(RuntimeUnavailableError, match="edgeq doctor --install-browser"):
        browser.version()
    package = packages.cache_directory() / "node_modules" / "onnxruntime-web" / "package.json"
    package.parent.mkdir(parents=True)
    package.write_text('{"version": "1.2.3"}')
    with pytest.raises(RuntimeUnavailableError, match="There is no Node"):
        browser.version()
    program(no_programs, "node", "v20.1.0")
    assert f"{browser.name()} {browser.version()}" == "onnxruntime-web 1.2.3"


def stage(bundle: Path, *, chunks: int, written: int | None = None) -> Path:
    """A bundle of empty files; `written` of its `chunks` are there."""
    onnx = bundle / "onnx"
    onnx.mkdir(parents=True)
    (onnx / "model_q4.onnx").touch()
    for index in range(chunks if written is None else written):
        (onnx / f"model_q4.onnx_data{f'_{index}' if index else ''}").touch()
    counts = {"model_q4.onnx": chunks} if chunks else {}
    (bundle / "config.json").write_text(json.dumps({"transformers.js_config": {"use_external_data_format": counts}}))
    return onnx / "model_q4.onnx"


@pytest.mark.parametrize("chunks", [0, 1, 3])
def test_chunks_are_those_that_the_configuration_counts(tmp_path: Path, chunks: int) -> None:
    names = ["model_q4.onnx_data", "model_q4.onnx_data_1", "model_q4.onnx_data_2"]
    assert [path.name for path in chunk_files(stage(tmp_path, chunks=chunks))] == names[:chunks]


def test_missing_chunk_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorruptInputError, match=r"model_q4\.onnx_data_1 is missing"):
        chunk_files(stage(tmp_path, chunks=2, written=1))


def test_missing_model_is_named(tmp_path: Path) -> None:
    model = stage(tmp_path, chunks=1)
    model.unlink()
    with pytest.raises(CorruptInputError, match=r"model_q4\.onnx is missing"):
        chunk_files(model)


@pytest.mark.parametrize("chunks", [-1, 101])
def test_impossible_count_is_refused(tmp_path: Path, chunks: int) -> None:
    with pytest.raises(CorruptInputError, match=f"{chunks} files of data"):
        chunk_files(stage(tmp_path, chunks=chunks, written=0))


@pytest.mark.parametrize("text", ["", "[]", "null", '{"transformers.js_config": {"use_external_data_format": 3}}'])
def test_unreadable_configuration_is_refused(tmp_path: Path, text: str) -> None:
    model = stage(tmp_path, chunks=1)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CorruptInputError, match=r"config\.json is missing or unreadable"):
        chunk_files(model)


def test_reply_is_head_and_numbers() -> None:
    numbers = np.arange(6, dtype=np.float32)
    head = json.dumps({"shape": [2, 3], "seconds": 0.5}).encode()
    reply = read_reply(struct.pack("<I", len(head)) + head + numbers.tobytes())
    assert reply.head["seconds"] == 0.5
    np.testing.assert_array_equal(reply.numbers, numbers.reshape(2, 3))
    assert reply.numbers.dtype == np.float32
    assert read_reply(b"\x02\0\0\0{}").numbers.shape == (0,)


PREFIX = "2026-11-24 20:48:10.9 [V:onnxruntime:, session_state.cc:1383 VerifyEachNodeIsAssignedToAnEp] "


def test_placement_counts_what_fell_back() -> None:
    lines = [
        f"{PREFIX}Node placements",
        f"{PREFIX} Node(s) placed on [CPUExecutionProvider]. Number of nodes: 3",
        *(f"{PREFIX}  {kind} ()" for kind in ("Range", "Neg", "Range")),
        f"{PREFIX} Node(s) placed on [WebGpuExecutionProvider]. Number of nodes: 3",
        f"{PREFIX}  MatMulNBits (/layers.0/q)",
        f"{PREFIX}  Add ()",
        f"{PREFIX}  MemcpyToHost (Memcpy_token_0)",
        "something else (of no interest)",
    ]
    facts = {"webgpu_nodes": "2", "copy_nodes": "1", "fallback_nodes": "Neg x1, Range x2"}
    assert placement.describe(lines) == facts


def test_placement_on_one_side_only() -> None:
    all_there = [f"{PREFIX} All nodes placed on [WebGpuExecutionProvider]. Number of nodes: 12"]
    assert placement.describe(all_there) == {"webgpu_nodes": "12", "copy_nodes": "0", "fallback_nodes": "none"}
    assert placement.describe([]) == {}
