"""onnxruntime-web in headless Chromium and in Node: right numbers, honest failures, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from onnx import TensorProto

from edgeq.core.artifact import Interface
from edgeq.core.target import ExecutionProvider
from edgeq.errors import CorruptInputError, RuntimeUnavailableError
from edgeq.runtimes import browser
from edgeq.runtimes.browser import host, programs
from edgeq.runtimes.generation import Opening
from edgeq.validation.meter import process_sample
from runtime_tests import tiny_onnx
from runtime_tests.browser_models import (
    HALF_SIZE,
    half_table,
    quantized,
    save_encoder,
    save_greedy,
    save_half,
    save_language_model,
)
from runtime_tests.browser_page import require_browser
from runtime_tests.tiny_onnx import ENCODER, LANGUAGE, VOCABULARY

HALF_INTERFACE = replace(LANGUAGE, vocabulary=HALF_SIZE, cache=((1, HALF_SIZE),))
HOSTS: list[tuple[str, ExecutionProvider, int]] = [
    ("Chromium", "wasm", 1),
    ("Chromium", "wasm", 2),
    ("Chromium", "webgpu", 1),
    ("Node", "wasm", 1),
    ("Node", "wasm", 2),
]
Floats = tiny_onnx.Floats


@pytest.fixture(autouse=True)
def _installed() -> None:
    require_browser()


@pytest.fixture
def dequantized() -> dict[str, Floats]:
    return {name: tensor.dequantize() for name, tensor in quantized().items()}


@contextmanager
def on(monkeypatch: pytest.MonkeyPatch, where: str) -> Iterator[None]:
    with monkeypatch.context() as patch:
        if where == "Node":
            patch.setenv(programs.VARIABLE, "")
        yield


def living(text: str) -> list[int]:
    """Processes that have `text` in their command line; a zombie has none."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and any(text in part for part in process.cmdline()):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def gone(pids: tuple[int, ...], directory: str, *, seconds: float = 15.0) -> bool:
    """Whether processes, whatever else names their directory, and the directory are gone soon."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(map(is_alive, pids)) and not living(directory) and not Path(directory).exists():
            return True
        time.sleep(0.05)
    return False


def is_alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def directory_of(pid: int) -> str:
    """The temporary directory that the program which started the page's process was given."""
    for process in (psutil.Process(pid), *psutil.Process(pid).parents()):
        try:
            place: str = process.environ().get("TMPDIR", "")
        except psutil.Error:
            continue
        if "edgeq-browser-" in place:
            return place
    raise AssertionError("no parent was given a directory")


@pytest.mark.parametrize("where", HOSTS, ids=str)
def test_language_model_says_what_numpy_says(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dequantized: dict[str, Floats],
    where: tuple[str, ExecutionProvider, int],
) -> None:
    program, provider, threads = where
    ids = [int(token) for token in np.random.default_rng(0).integers(2, VOCABULARY, 24)]
    expected = tiny_onnx.language_logits(dequantized, ids)
    path = save_language_model(tmp_path / "bundle")
    opening = Opening(threads=threads, execution_provider=provider)
    with on(monkeypatch, program), closing(browser.open_generator(path, LANGUAGE, opening)) as generator:
        started, loaded = time.perf_counter(), generator.seconds()
        whole = generator.prefill(ids, keep=0)
        np.testing.assert_allclose(whole, expected, atol=1e-4)
        pieces = [generator.prefill(ids[:5], keep=0), generator.forward(ids[5:20], keep=0)]
        pieces += [generator.step(token)[None] for token in ids[20:]]
        np.testing.assert_allclose(np.concatenate(pieces), expected, atol=1e-4)
        np.testing.assert_allclose(generator.prefill(ids, keep=3), expected[-3:], atol=1e-4)
        assert whole.dtype == np.float32
        assert 0 < generator.seconds() - loaded < time.perf_counter() - started
        facts = generator.facts()
    assert facts["host"].startswith(program)
    assert facts["threads"] == str(threads)
    if provider == "webgpu":
        assert (facts["adapter"], facts["shader_f16"]) == ("google/swiftshader", "no")
        assert facts["fallback_nodes"] == "Attention x1, Neg x1, Reshape x1"
        assert int(facts["webgpu_nodes"]) >= 7
    else:
        assert set(facts) == {"host", "threads"}


@pytest.mark.parametrize(("where", "provider"), [("Chromium", "wasm"), ("Chromium", "webgpu"), ("Node", "wasm")])
def test_encoder_says_what_numpy_says(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dequantized: dict[str, Floats],
    where: str,
    provider: ExecutionProvider,
) -> None:
    batch = [[4, 5, 6, 7, 8], [9, 10], [11]]
    path = save_encoder(tmp_path / "a bundle")
    opening = Opening(threads=1, execution_provider=provider)
    with on(monkeypatch, where), closing(browser.open_encoder(path, ENCODER, opening)) as encoder:
        answers = encoder.forward(batch)
    expected = np.stack([tiny_onnx.embedding_of(dequantized, ids) for ids in batch])
    np.testing.assert_allclose(answers, expected, atol=1e-4)


@pytest.mark.parametrize("where", ["Chromium", "Node"])
@pytest.mark.parametrize("logits_type", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_half_precision_keeps_a_half_precision_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, logits_type: int
) -> None:
    path = save_half(tmp_path, logits_type=logits_type)
    with on(monkeypatch, where), closing(browser.open_generator(path, HALF_INTERFACE, Opening(threads=1))) as model:
        np.testing.assert_array_equal(model.prefill([0])[0], half_table()[0].astype(np.float32))
        model.prefill([3, 1])
        mean = half_table()[[3, 1, 2]].astype(np.float32).mean(axis=0)
        np.testing.assert_allclose(model.step(2), mean, rtol=2e-3, atol=0.1)


def test_half_precision_needs_an_adapter_that_has_it(tmp_path: Path) -> None:
    path = save_half(tmp_path)
    with pytest.raises(RuntimeUnavailableError, match="has no shader-f16"):
        browser.open_generator(path, HALF_INTERFACE, Opening(threads=1, execution_provider="webgpu"))


def test_no_adapter_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "FLAGS", (*host.FLAGS[:-2], "--disable-features=WebGPU"))
    with pytest.raises(RuntimeUnavailableError, match="no WebGPU adapter"):
        browser.open_generator(save_language_model(tmp_path), LANGUAGE, Opening(threads=1, execution_provider="webgpu"))


@pytest.mark.parametrize(
    ("where", "provider", "count"), [("Chromium", "wasm", 1), ("Chromium", "webgpu", 2), ("Node", "wasm", 1)]
)
def test_judged_processes_are_named_before_they_hold_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, provider: ExecutionProvider, count: int
) -> None:
    started: list[tuple[int, ...]] = []
    before: list[int] = []

    def on_start(pids: tuple[int, ...]) -> None:
        started.append(pids)
        before.append(dirty(pids[0]))

    path = save_language_model(tmp_path)
    opening = Opening(threads=1, execution_provider=provider, on_start=on_start)
    with on(monkeypatch, where), closing(browser.open_generator(path, LANGUAGE, opening)):
        (pids,) = started
        assert len(pids) == count
        assert all(map(is_alive, pids))
        # The runtime alone takes more.
        assert dirty(pids[0]) > before[0] + (8 << 20)
        directory = directory_of(pids[0])
    assert gone(pids, directory)


def dirty(pid: int) -> int:
    sample = process_sample(pid)
    assert sample is not None
    return sample.dirty


def test_closing_twice_is_closing(tmp_path: Path) -> None:
    generator = browser.open_generator(save_language_model(tmp_path), LANGUAGE, Opening(threads=1))
    generator.close()
    generator.close()


@pytest.mark.parametrize("where", ["Chromium", "Node"])
def test_failure_on_the_way_ends_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    seen: list[tuple[tuple[int, ...], str]] = []

    def on_start(pids: tuple[int, ...]) -> None:
        seen.append((pids, directory_of(pids[0])))
        raise KeyboardInterrupt

    path = save_language_model(tmp_path)
    with on(monkeypatch, where), pytest.raises(KeyboardInterrupt):
        browser.open_generator(path, LANGUAGE, Opening(threads=1, on_start=on_start))
    assert gone(*seen[0])


CHILD = """
import os, sys, time
from pathlib import Path
from edgeq.runtimes import browser
from edgeq.runtimes.generation import Opening
from runtime_tests.test_browser_runtime import LANGUAGE, directory_of

told = []
generator = browser.open_generator(Path(sys.argv[1]), LANGUAGE, Opening(threads=1, on_start=told.extend))
print(*told, directory_of(told[0]), flush=True)
if sys.argv[2] == "wait":
    time.sleep(600)
"""


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM, None])
@pytest.mark.parametrize("where", ["Chromium", "Node"])
def test_nothing_outlives_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, ending: signal.Signals | None
) -> None:
    """None: it ends by itself and never closes what it opened."""
    path = save_language_model(tmp_path)
    command = [sys.executable, "-c", textwrap.dedent(CHILD), str(path), "wait" if ending else "end"]
    with on(monkeypatch, where), subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        *pids, directory = child.stdout.readline().split()
        if ending:
            child.send_signal(ending)
        assert child.wait(30) == (-ending if ending else 0)
    assert gone(tuple(map(int, pids)), directory)


@pytest.mark.parametrize("where", ["Chromium", "Node"])
def test_death_of_the_models_process_is_refused_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    told: list[int] = []
    opening = Opening(threads=1, on_start=told.extend)
    path = save_language_model(tmp_path)
    with on(monkeypatch, where), closing(browser.open_generator(path, LANGUAGE, opening)) as generator:
        generator.prefill([2, 3])
        os.kill(told[0], signal.SIGKILL)
        with pytest.raises(MemoryError, match="the model's process died"):
            generator.step(4)


@pytest.mark.parametrize("where", ["Chromium", "Node"])
def test_refused_memory_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """WebAssembly addresses 4 GiB: more than 1073 million floats are not even asked for."""
    interface = Interface(
        task="feature-extraction",
        inputs=("input_ids",),
        outputs=("sentence_embedding",),
        vocabulary=2000,
        context_length=8,
    )
    path = save_greedy(tmp_path)
    with on(monkeypatch, where), closing(browser.open_encoder(path, interface, Opening(threads=1))) as encoder:
        np.testing.assert_array_equal(encoder.forward([[1]]), [[0.0]])
        with pytest.raises(MemoryError):
            encoder.forward([[1060]])


def test_garbage_is_refused(tmp_path: Path) -> None:
    path = save_language_model(tmp_path)
    path.write_bytes(b"no model" * 100)
    with pytest.raises(CorruptInputError, match="onnxruntime-web refuses the model"):
        browser.open_generator(path, LANGUAGE, Opening(threads=1))


def test_cut_data_is_refused(tmp_path: Path) -> None:
    path = save_language_model(tmp_path)
    data = path.parent / f"{path.name}_data"
    data.write_bytes(data.read_bytes()[:-2000])
    with pytest.raises(CorruptInputError, match="onnxruntime-web refuses the model"):
        browser.open_generator(path, LANGUAGE, Opening(threads=1))


def test_model_of_another_interface_is_refused(tmp_path: Path) -> None:
    path = save_language_model(tmp_path)
    with pytest.raises(CorruptInputError, match="no output sentence_embedding"):
        browser.open_encoder(path, ENCODER, Opening(threads=1))


def test_chromium_that_does_not_start_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(programs.VARIABLE, "false")
    with pytest.raises(RuntimeUnavailableError, match="Chromium does not start"):
        browser.open_generator(save_language_model(tmp_path), LANGUAGE, Opening(threads=1))


def test_silence_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(browser.open_generator(save_language_model(tmp_path), LANGUAGE, Opening(threads=1))) as generator:
        monkeypatch.setattr(host, "CALL_SECONDS", 0.0)
        with pytest.raises(RuntimeUnavailableError, match="did not answer within 0 s"):
            generator.prefill([2, 3])
