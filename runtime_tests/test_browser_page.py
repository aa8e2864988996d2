"""The page of a browser bundle in Chromium, with transformers.js as it comes: typed into, clicked, read."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from edgeq.core.artifact import Interface
from edgeq.runtimes.browser.server import serve
from runtime_tests.browser_page import PHONE_WIDTH, Page, browser_page
from tests.bundle.samples import bigram_table, encoder_interface, generator_interface, sealed_bundle

DATA = "onnx/model_q4.onnx_data"
WEIGHTS = ("onnx/model_q4.onnx", DATA, "vendor/ort-wasm-simd-threaded.asyncify.wasm")


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with browser_page(width=PHONE_WIDTH) as page:
        yield page


def make(work: Path, interface: Interface) -> Path:
    return sealed_bundle(
        work / "work", work / "bundle", surface="browser", format="transformersjs", interface=interface
    )


@pytest.fixture(scope="module")
def generator(page: Page, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("generator"), generator_interface())


@pytest.fixture(scope="module")
def encoder(page: Page, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("encoder"), encoder_interface())


@pytest.fixture(scope="module")
def endless(page: Page, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose text never ends by itself."""
    interface = dataclasses.replace(generator_interface(), end_of_text_ids=(), context_length=100_000)
    return make(tmp_path_factory.mktemp("endless"), interface)


def write(page: Page, prompt: str, *, tokens: int = 20, temperature: float = 0) -> str:
    """Type a prompt and have it continued: the page's last words on it."""
    page.type("#prompt", prompt)
    page.type("#tokens", str(tokens))
    page.type("#temperature", str(temperature))
    return page.press("#write", "#write-status")


def test_page_loads_checks_and_writes(page: Page, generator: Path) -> None:
    with serve(generator) as served:
        page.open(served.url)
        assert page.text("h1") == "my-model"
        assert page.evaluate("[...document.querySelectorAll('#dtype option')].map((one) => one.value)") == [
            "auto",
            "q4",
            "q4f16",
        ]
        page.requests()
        threads = min(2, page.evaluate("navigator.hardwareConcurrency"))
        assert f"q4 on {threads} CPU thread" in page.load()
        assert "Every file is as edgeq.json says." in page.text("#load-status")
        fetched = page.requests()
        assert [path for path in WEIGHTS if fetched.count(path) != 1] == []
        assert "onnx/model_q4f16.onnx_data" not in fetched
        assert write(page, "once upon").startswith("Done: 4 tokens in ")
        assert page.text("#text") == "once upon a time there was"
        assert write(page, "once", tokens=2).startswith("Done: 2 tokens in ")
        assert page.text("#text") == "once upon a"
        assert page.press("#check-button", "#load-status") == "All 4 golden outputs come out the same on this device."
        assert page.error() is None


def test_variant_and_device_can_be_chosen(page: Page, generator: Path) -> None:
    with serve(generator) as served:
        page.open(served.url)
        page.choose("#dtype", "q4f16")
        page.choose("#device", "wasm")
        assert "q4f16 on " in page.load()
        page.choose("#device", "webgpu")
        assert page.load() == "Not loaded."
        assert page.error() == "This browser has no WebGPU, or no GPU for it. Choose WASM."


def test_software_gpu_is_used_when_it_is_chosen(generator: Path) -> None:
    with browser_page(webgpu=True) as page, serve(generator) as served:
        page.open(served.url)
        assert " CPU thread" in page.load()
        page.choose("#device", "webgpu")
        assert "q4 on the GPU." in page.load()
        write(page, "once upon")
        assert page.text("#text") == "once upon a time there was"
        page.choose("#dtype", "q4f16")
        assert page.load() == "Not loaded."
        message = "This GPU does not compute in float16, as q4f16 does. Choose another variant, or WASM."
        assert page.error() == message


class StaticHandler(http.server.SimpleHTTPRequestHandler):
    """A file server that knows nothing of bundles; lets pages of other places read its files."""

    def end_headers(self) -> None:
        self.send_header("Access-Control-Allow-Origin", "*")
        super().end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextmanager
def static_server(directory: Path) -> Iterator[int]:
    """The port of a plain file server."""
    handler = functools.partial(StaticHandler, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_plain_file_server_without_https_will_do(page: Page, generator: Path) -> None:
    with static_server(generator.parent) as port:
        page.open(f"http://edgeq.test:{port}/{generator.name}/")
        lacking = "[isSecureContext, crossOriginIsolated, 'caches' in self, 'subtle' in crypto]"
        assert page.evaluate(lacking) == [False] * 4
        assert "q4 on 1 CPU thread. Every file is as edgeq.json says." in page.load()
        write(page, "once upon")
        assert page.text("#text") == "once upon a time there was"


def test_bundle_of_another_place_is_imported(page: Page, generator: Path, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<!doctype html><title>mine</title>")
    script = """(async () => {
      const { loadBundle } = await import("%s");
      const bundle = await loadBundle();
      return (await bundle.generate("once")).text;
    })()"""
    with static_server(tmp_path) as mine, static_server(generator) as other:
        page.do("open", url=f"http://127.0.0.1:{mine}/")
        assert page.evaluate(script % f"http://127.0.0.1:{other}/edgeq.mjs") == " upon a time there was"


def test_chat_model_answers_messages(page: Page, tmp_path: Path) -> None:
    (tmp_path / "work" / "source").mkdir(parents=True)
    template = "{% for message in messages %}once {{ message['content'] }}{% endfor %}"
    (tmp_path / "work" / "source" / "chat_template.jinja").write_text(template)
    with serve(make(tmp_path, generator_interface())) as served:
        page.open(served.url)
        page.load()
        assert not page.evaluate("document.getElementById('chat-choice').hidden")
        write(page, "upon")
        assert page.text("#text") == " a time there was"
        page.click("#chat")
        write(page, "there")
        assert page.text("#text") == "there was"


def test_second_visit_fetches_no_weights(page: Page, generator: Path) -> None:
    with serve(generator) as served:
        page.open(served.url)
        page.load()
        page.open(served.url)
        page.requests()
        assert "Loaded in" in page.load()
        assert set(page.requests()).isdisjoint(WEIGHTS)
        assert write(page, "a time").startswith("Done: 2 tokens")


def test_stop_ends_a_long_text(page: Page, endless: Path) -> None:
    with serve(endless) as served:
        page.open(served.url)
        page.load()
        page.type("#prompt", "once")
        page.type("#tokens", "4096")
        page.type("#temperature", "0")
        page.click("#write")
        page.wait("document.getElementById('text').textContent.length > 100")
        page.click("#stop")
        page.wait("!document.getElementById('write').disabled")
        assert page.text("#write-status").startswith("Stopped: ")
        assert page.evaluate("document.getElementById('stop').disabled")
        assert write(page, "once upon", tokens=3).startswith("Done: 3 tokens")


def test_prompt_that_fills_the_context_is_refused(page: Page, generator: Path) -> None:
    with serve(generator) as served:
        page.open(served.url)
        page.load()
        write(page, " ".join(["once"] * 64))
        assert page.error() == "The prompt has 64 tokens, the model's context 64."
        write(page, "   ")
        assert page.error() == "Give it a few words to begin with."


def test_encoder_shows_similarities(page: Page, encoder: Path) -> None:
    sentences = ("once upon a time", "upon a time", "there was")
    ids = ([2, 3, 4, 5], [3, 4, 5], [6, 7])
    vectors = np.array([bigram_table()[sentence].mean(axis=0) for sentence in ids])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with serve(encoder) as served:
        page.open(served.url)
        page.load()
        page.type("#sentences", "\n".join(sentences))
        assert page.press("#compare-button", "#compare-status").startswith("3 sentences in ")
        shown = page.evaluate("[...document.querySelectorAll('td')].map((cell) => cell.textContent)")
        np.testing.assert_allclose([float(value) for value in shown], (vectors @ vectors.T).ravel(), atol=0.006)
        assert page.press("#check-button", "#load-status").startswith("All 4 golden outputs come out the same")


def damaged(bundle: Path, work: Path, path: str, data: bytes | None) -> Path:
    """A copy of a bundle with other contents in one file, or without it."""
    copy = work / "damaged"
    shutil.copytree(bundle, copy)
    if data is None:
        (copy / path).unlink()
    else:
        (copy / path).write_bytes(data)
    return copy


@pytest.mark.parametrize("kind", ["cut", "longer", "changed", "missing"])
@pytest.mark.parametrize("path", [DATA, "tokenizer.json", "vendor/transformers.min.js"])
def test_damaged_file_is_refused_by_name(page: Page, generator: Path, tmp_path: Path, path: str, kind: str) -> None:
    whole = (generator / path).read_bytes()
    other = {
        "cut": (whole[:-100], f"{path} is cut: {len(whole) - 100} of its {len(whole)} bytes came."),
        "longer": (whole + b"!", f"{path} has more than the {len(whole)} bytes that edgeq.json says."),
        "changed": (whole[:9] + bytes([whole[9] ^ 1]) + whole[10:], f"{path} was changed: its sha256 is not the one"),
        "missing": (None, f"{path} is missing from the bundle on the server."),
    }
    data, message = other[kind]
    with serve(damaged(generator, tmp_path, path, data)) as served:
        page.open(served.url)
        assert page.load() == "Not loaded."
        assert (page.error() or "").startswith(message)
        assert page.evaluate("document.getElementById('generator').hidden")


def test_changed_manifest_is_refused(page: Page, generator: Path, tmp_path: Path) -> None:
    manifest = json.loads((generator / "edgeq.json").read_bytes())
    data = (generator / DATA).read_bytes()[::-1]
    for entry in manifest["files"]:
        if entry["path"] == DATA:
            entry["sha256"] = hashlib.sha256(data).hexdigest()
    changed = (json.dumps(manifest, indent=2, sort_keys=True) + "\n").encode()
    for number, text in enumerate([changed, changed[:-50], b"null"]):
        copy = damaged(generator, tmp_path / str(number), DATA, data)
        (copy / "edgeq.json").write_bytes(text)
        with serve(copy) as served:
            page.open(served.url)
            assert (page.error() or "").startswith("edgeq.json was changed after it was written, or is cut.")
            assert page.evaluate("document.getElementById('load-button').disabled")


@pytest.mark.parametrize("name", ["edgeq.mjs", "edgeq-files.mjs"])
def test_damaged_module_is_said(page: Page, generator: Path, tmp_path: Path, name: str) -> None:
    for number, data in enumerate([None, (generator / name).read_bytes()[:-300]]):
        with serve(damaged(generator, tmp_path / str(number), name, data)) as served:
            page.open(served.url)
            assert (page.error() or "").startswith("edgeq.mjs is missing, cut or changed.")


def test_damaged_worker_is_said(page: Page, generator: Path, tmp_path: Path) -> None:
    for number, data in enumerate([None, b"import './edgeq-"]):
        with serve(damaged(generator, tmp_path / str(number), "edgeq-worker.mjs", data)) as served:
            page.open(served.url)
            assert page.load() == "Not loaded."
            assert (page.error() or "").startswith("edgeq-worker.mjs does not run: ")


def test_kept_file_that_is_no_longer_whole_is_fetched_again(page: Page, generator: Path) -> None:
    spoil = """(async () => {
      const store = await caches.open("edgeq");
      for (const { url } of await store.keys()) await store.put(url, new Response("spoilt"));
    })()"""
    with serve(generator) as served:
        page.open(served.url)
        page.load()
        page.evaluate(spoil)
        page.requests()
        assert "Every file is as edgeq.json says." in page.load()
        assert set(WEIGHTS) <= set(page.requests())


def test_phone_needs_no_sideways_scrolling(page: Page, encoder: Path, generator: Path) -> None:
    for bundle in (encoder, generator):
        with serve(bundle) as served:
            page.open(served.url)
            page.load()
            assert page.evaluate("document.documentElement.scrollWidth") <= PHONE_WIDTH


def test_every_control_has_a_label(page: Page, generator: Path) -> None:
    unnamed = """[...document.querySelectorAll("input, select, textarea, progress, button")]
      .filter((one) => !one.labels?.length && !one.ariaLabel && !one.textContent.trim()).map((one) => one.id)"""
    with serve(generator) as served:
        page.open(served.url)
        assert page.evaluate(unnamed) == []


MODULE = """(async () => {
  const { loadBundle, similarity, BundleError } = await import("./below/it/edgeq.mjs");
  const stages = [];
  const bundle = await loadBundle(undefined, { onProgress: ({ stage }) => stages.push(stage), threads: 1 });
  const pieces = [];
  const stopped = new AbortController();
  stopped.abort();
  const refused = async (work) => await work.then(() => null, (error) => [error instanceof BundleError, error.message]);
  const result = await bundle.generate("once upon", { maxNewTokens: 3, onText: (text) => pieces.push(text) });
  const answers = {
    text: result.text, pieces: pieces.join(""), tokens: result.tokens, prompt: result.promptTokens,
    threads: bundle.threads, dtype: bundle.dtype, device: bundle.device, hasChat: bundle.hasChat,
    name: bundle.manifest.name, first: stages[0], last: stages.at(-1), similar: similarity([1, 0], [2, 0]),
    embed: await refused(bundle.embed(["a"])),
    messages: await refused(bundle.generate([{ role: "user", content: "a" }])),
    aborted: await refused(bundle.generate("a", { signal: stopped.signal })),
    dtypes: await refused(loadBundle(undefined, { dtype: "q9" })),
    nowhere: await refused(loadBundle("./nowhere")),
  };
  const running = refused(bundle.generate("once", {}));
  bundle.close();
  return { ...answers, running: await running, closed: await refused(bundle.generate("a")) };
})()"""


def test_module_runs_in_a_page_of_ones_own(page: Page, generator: Path, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<!doctype html><title>mine</title>")
    (tmp_path / "below").mkdir()
    shutil.copytree(generator, tmp_path / "below" / "it")
    with serve(tmp_path) as served:
        page.do("open", url=served.url)
        assert page.evaluate(MODULE) == {
            "text": " a time there",
            "pieces": " a time there",
            "tokens": 3,
            "prompt": 2,
            "threads": 1,
            "dtype": "q4",
            "device": "wasm",
            "hasChat": False,
            "name": "my-model",
            "first": "fetching",
            "last": "starting",
            "similar": 1,
            "embed": [True, "This model is for text-generation."],
            "messages": [True, "This model answers no messages: give it a text to continue."],
            "aborted": [True, "It was stopped before it began."],
            "dtypes": [True, "There is no q9 here: q4, q4f16."],
            "nowhere": [True, "edgeq.json is missing from the bundle on the server."],
            "running": [True, "The bundle was closed."],
            "closed": [True, "The bundle is closed."],
        }
