"""One page in headless Chromium, or one Node process, that runs one model; and everything that it takes to be gone."""

from __future__ import annotations

import atexit
import json
import os
import queue
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.core.target import ExecutionProvider
from edgeq.errors import CorruptInputError, RuntimeUnavailableError
from edgeq.runtimes.browser.packages import HERE, package_directory
from edgeq.runtimes.browser.programs import CHROMIUM_REMEDY, find_chromium, find_node
from edgeq.runtimes.browser.server import Served, serve_mounts
from edgeq.runtimes.generation import Floats

FLAGS = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-quic",
    "--disable-sync",
    # The same adapter everywhere, so that drift is the same everywhere.
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
)
# V8's optimizing compiler takes a gigabyte for onnxruntime-web in Node 20, and longer than a model does.
NODE_FLAGS = ("--liftoff-only",)
START_SECONDS = 90.0
CALL_SECONDS = 900.0
"""Longest load, and longest forward pass: a software adapter takes its time."""
POLL_SECONDS = 10.0
END_SECONDS = 10.0
AGAIN = "Export the bundle again."


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What the page answered: a JSON object and numbers, shaped as its `shape` says."""

    head: dict[str, Any]
    numbers: Floats


@dataclass(frozen=True, kw_only=True)
class _Event:
    """What the program around the page says; `gone` where it has ended."""

    event: str
    said: dict[str, Any]


class Host:
    """Starts what runs the model and waits until it is ready for a command. `bundle`: the directory that is served.

    name: what it is, with its version. pids: the processes that hold the model, once it is opened.
    Raises RuntimeUnavailableError.
    """

    def __init__(self, bundle: Path, provider: ExecutionProvider) -> None:
        packages, node, chromium = package_directory(), find_node(), find_chromium()
        if chromium is None and provider == "webgpu":
            raise RuntimeUnavailableError("WebGPU needs a browser, and there is no Chromium.", remedy=CHROMIUM_REMEDY)
        self._is_browser = chromium is not None
        self._commands: queue.Queue[dict[str, object]] = queue.Queue()
        self._heard: queue.Queue[Reply | _Event] = queue.Queue()
        self._resources = ExitStack()
        _OPEN.add(self)
        try:
            prefix = f"/{secrets.token_urlsafe(16)}/"
            mounts = {"bundle/": bundle, "packages/": packages, "page/": HERE / "page"}
            posts = {"exchange": self._exchange}
            self._served = self._resources.enter_context(serve_mounts(mounts, prefix=prefix, posts=posts))
            self._start(node, chromium, packages, self._served)
            self.name, self.pids = self._await_ready(provider)
        except BaseException:
            self.close()
            raise

    def url(self, part: str) -> str:
        """Of something that the page may fetch: `bundle/...` or `packages/...`."""
        return self._served.url + part

    def ask(self, command: Mapping[str, object]) -> Reply:
        """Have the page carry out a command.

        Raises MemoryError where memory was refused or the page's process died, CorruptInputError where onnxruntime-web
        refuses the model, RuntimeUnavailableError where something is not there or does not answer in time.
        """
        self._commands.put(dict(command))
        heard = self._listen(time.monotonic() + CALL_SECONDS)
        if isinstance(heard, _Event):
            raise self._failure(heard)
        error = heard.head.get("error")
        match heard.head.get("kind"):
            case None:
                return heard
            case "memory":
                raise MemoryError(f"{self.name}: {error}")
            case "unavailable":
                raise RuntimeUnavailableError(f"{self.name}: {error}.", remedy="Validate where the device has it.")
            case _:
                raise CorruptInputError(f"onnxruntime-web refuses the model: {error}.", remedy=AGAIN)

    def close(self) -> None:
        """End all that was started; a second call does nothing."""
        _OPEN.discard(self)
        self._commands.put({"operation": "close"})
        self._resources.close()

    def _start(self, node: Path, chromium: Path | None, packages: Path, served: Served) -> None:
        directory = tempfile.mkdtemp(prefix="edgeq-browser-")
        self._resources.callback(shutil.rmtree, directory, ignore_errors=True)
        request: dict[str, object] = {"packages": str(packages), "directory": directory}
        if chromium is None:
            request["exchange"] = f"{served.url}exchange"
        else:
            request |= {"executable": str(chromium), "flags": FLAGS, "page": f"{served.url}page/"}
            request |= {"timeout": 1000 * START_SECONDS, "sandbox": not _is_root()}
        places = ("TMPDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "HOME")
        self._process = subprocess.Popen(
            [node, *NODE_FLAGS, HERE / "node" / "alone.mjs"]
            if chromium is None
            else [node, HERE / "node" / "chromium.mjs"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | dict.fromkeys(places, directory),
            start_new_session=True,
        )
        self._resources.callback(self._end_process)
        threading.Thread(target=self._read_events, args=(self._process,), daemon=True).start()
        _write_line(self._process, request)

    def _read_events(self, process: subprocess.Popen[bytes]) -> None:
        for line in process.stdout or ():
            with suppress(ValueError):
                said = json.loads(line)
                self._heard.put(_Event(event=str(said.get("event")), said=said))
        self._heard.put(_Event(event="gone", said={}))

    def _await_ready(self, provider: ExecutionProvider) -> tuple[str, tuple[int, ...]]:
        """Wait for the page's greeting and for the program's word on what runs it."""
        deadline, greeted = time.monotonic() + START_SECONDS, False
        ready: dict[str, Any] | None = None
        while ready is None or not greeted:
            heard = self._listen(deadline)
            if isinstance(heard, Reply):
                greeted = True
            elif heard.event == "ready":
                ready = heard.said
            else:
                raise RuntimeUnavailableError(
                    f"{'Chromium' if self._is_browser else 'Node'} does not start: {_words(heard)}.",
                    remedy="Start it by hand to see why, or name another with EDGEQ_CHROMIUM.",
                )
        # What WebGPU computes with lies in a process of its own.
        pids = [*ready["model"], *(ready["gpu"] if provider == "webgpu" else ())]
        return str(ready["host"]), tuple(int(pid) for pid in pids)

    def _listen(self, deadline: float) -> Reply | _Event:
        try:
            return self._heard.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return _Event(event="silent", said={})

    def _failure(self, event: _Event) -> Exception:
        if event.event == "silent":
            return RuntimeUnavailableError(
                f"{self.name} did not answer within {CALL_SECONDS:.0f} s.", remedy="Validate on a faster machine."
            )
        # In Node the model's process is the program itself.
        if event.event == "crashed" or not self._is_browser:
            return MemoryError(f"{self.name}: the model's process died")
        return RuntimeUnavailableError(f"{self.name} failed: {_words(event)}.", remedy="Run the command again.")

    def _exchange(self, body: bytes) -> bytes | None:
        """A POST of the page: its answer, if it has one, for the next command, if there is one."""
        if body:
            self._heard.put(read_reply(body))
        try:
            return json.dumps(self._commands.get(timeout=POLL_SECONDS)).encode()
        except queue.Empty:
            return None

    def _end_process(self) -> None:
        """Closing the pipe asks it to end with all that it started; what does not is killed."""
        process = self._process
        if process.stdin is not None:
            with suppress(OSError):
                process.stdin.close()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            _kill_tree(process)
        if process.stdout is not None:
            with suppress(OSError):
                process.stdout.close()


_OPEN: weakref.WeakSet[Host] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for host in tuple(_OPEN):
        host.close()


def read_reply(body: bytes) -> Reply:
    """A reply from its bytes: the length of its JSON head (uint32, little endian), the head, float32 numbers."""
    start = 4 + int.from_bytes(body[:4], "little")
    head = json.loads(body[4:start])
    # A copy, as the head's length aligns nothing.
    numbers = np.frombuffer(body[start:], dtype="<f4").astype(np.float32, copy=False)
    return Reply(head=head, numbers=numbers.reshape(head.get("shape", -1)))


def _write_line(process: subprocess.Popen[bytes], request: Mapping[str, object]) -> None:
    if process.stdin is not None:
        with suppress(OSError):  # its end is heard of elsewhere
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()


def _words(event: _Event) -> str:
    """The first line of what a program says of its failure."""
    if event.event == "silent":
        return f"it says nothing for {START_SECONDS:.0f} s"
    lines = str(event.said.get("what", "")).strip().splitlines()
    return lines[0][:300].rstrip(".") if lines else "it has ended"


def _is_root() -> bool:
    """Chromium's sandbox refuses to be started by root."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


def _kill_tree(process: subprocess.Popen[bytes]) -> None:
    import psutil

    with suppress(psutil.Error):
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.Error):
                child.kill()
    with suppress(OSError):
        os.kill(process.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    process.wait()
