"""A loopback HTTP server for bundles: files only, with the headers that give a page threads in WebAssembly."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from edgeq.errors import UnsafeInputError, UsageError
from edgeq.files import contained

HOST = "127.0.0.1"
INDEX = "index.html"
MIME_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".md": "text/plain; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
}
HEADERS = {
    # Both, or the page has no SharedArrayBuffer and WebAssembly no threads.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
LONGEST_BODY = 1 << 31

Answer = Callable[[bytes], bytes | None]
"""What a POST is answered with; None for nothing, status 204."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """`url` ends in a slash: paths are relative to it."""

    url: str
    port: int


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, mounts: Mapping[str, Path], prefix: str, port: int, posts: Mapping[str, Answer]) -> None:
        self.mounts, self.prefix, self.posts = mounts, prefix, posts
        super().__init__((HOST, port), _Handler)
        self.hosts = {f"{host}:{self.server_address[1]}" for host in (HOST, "localhost")}

    def server_bind(self) -> None:
        """Without the base's look-up of a domain name, which may ask the network."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """Browsers hang up as they like; nobody is to be told."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    # An answer goes out as one packet as soon as it is there.
    disable_nagle_algorithm = True
    server_version = "edgeq"
    sys_version = ""

    def do_GET(self) -> None:
        self._send_file(with_body=True)

    def do_HEAD(self) -> None:
        self._send_file(with_body=False)

    def do_POST(self) -> None:
        answer = self.server.posts.get(self._relative() or "")
        length = self.headers.get("Content-Length", "")
        if answer is None or not length.isdecimal() or int(length) > LONGEST_BODY:
            self._refuse()
            return
        reply = answer(self.rfile.read(int(length)))
        if reply is None:
            self._start(HTTPStatus.NO_CONTENT, "application/json", 0)
        else:
            self._start(HTTPStatus.OK, "application/json", len(reply))
            self.wfile.write(reply)

    def _refuse(self) -> None:
        self.close_connection = True
        self._start(HTTPStatus.METHOD_NOT_ALLOWED, "text/plain", 0)

    def _send_file(self, *, with_body: bool) -> None:
        path = self._file()
        if path is None:
            self._start(HTTPStatus.NOT_FOUND, "text/plain", 0)
            return
        with path.open("rb") as file:
            kind = MIME_TYPES.get(path.suffix, "application/octet-stream")
            self._start(HTTPStatus.OK, kind, path.stat().st_size)
            if with_body:
                self.wfile.flush()
                self.connection.sendfile(file)

    def _start(self, status: HTTPStatus, kind: str, length: int) -> None:
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
            self.send_header("Connection", "close")
        self.send_header("Content-Type", kind)
        if status is not HTTPStatus.NO_CONTENT:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def _relative(self) -> str | None:
        """The path after the server's prefix; None for one of elsewhere, or for a name that only points here."""
        path = unquote(urlsplit(self.path).path)
        # A page of another site can give its own name this address: its requests carry the name.
        if self.headers.get("Host") not in self.server.hosts or not path.startswith(self.server.prefix):
            return None
        return path[len(self.server.prefix) :]

    def _file(self) -> Path | None:
        relative = self._relative()
        if relative is None:
            return None
        for mount, directory in self.server.mounts.items():
            if relative.startswith(mount):
                rest = relative[len(mount) :]
                try:
                    path = contained(directory, rest if rest and not rest.endswith("/") else rest + INDEX)
                    return path if path.is_file() else None
                except (UnsafeInputError, OSError, ValueError):
                    return None
        return None

    def log_message(self, format: str, *arguments: object) -> None:
        """The library never prints."""


@contextmanager
def serve_mounts(
    mounts: Mapping[str, Path], *, prefix: str = "/", port: int = 0, posts: Mapping[str, Answer] | None = None
) -> Iterator[Served]:
    """Serve directories on loopback until the block ends. mounts: directory by path below `prefix`, the longer first.

    prefix: begins and ends with a slash; nothing outside it is answered. posts: what takes POSTs, by path below it.
    Raises UsageError where the port is taken.
    """
    try:
        server = _Server(mounts, prefix, port, posts or {})
    except (OSError, OverflowError) as error:
        raise UsageError(f"Port {port} cannot be used ({error}).", remedy="Name another --port, or none.") from error
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield Served(url=f"http://{HOST}:{server.server_port}{prefix}", port=server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def serve(directory: Path, *, port: int = 0) -> Iterator[Served]:
    """Serve the files of a directory on loopback until the block ends; port 0: a free one. GET and HEAD only, no
    listings, no links that leave the directory.

    Raises UsageError where the port is taken.
    """
    with serve_mounts({"": directory}, port=port) as served:
        yield served
