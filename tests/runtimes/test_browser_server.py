"""The loopback server: the headers that browsers ask for, files only, and nothing outside its directories."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeq.errors import UsageError
from edgeq.runtimes.browser.server import Served, serve, serve_mounts

TEXT = "text/javascript; charset=utf-8"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    site = tmp_path / "site"
    (site / "onnx").mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("secret")
    (site / "index.html").write_text("<p>hello")
    (site / "edgeq.mjs").write_text("export {}")
    (site / "onnx" / "model_q4.onnx_data").write_bytes(bytes(range(256)) * 5000)
    (site / "a b.json").write_text("{}")
    (site / "link.txt").symlink_to(tmp_path / "secret.txt")
    with serve(site) as served:
        yield served


def ask(
    served: Served, path: str, *, method: str = "GET", host: str | None = None
) -> tuple[http.client.HTTPResponse, bytes]:
    """`path` goes out as it is: no client tidies it up."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
    try:
        connection.putrequest(method, path, skip_host=True)
        connection.putheader("Host", host or f"127.0.0.1:{served.port}")
        connection.putheader("Content-Length", "0")
        connection.endheaders()
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/index.html?x=1", "text/html; charset=utf-8"),
        ("/edgeq.mjs", TEXT),
        ("/a%20b.json", "application/json"),
        ("/onnx/model_q4.onnx_data", "application/octet-stream"),
    ],
)
def test_files_come_with_their_type_and_isolation(served: Served, path: str, kind: str) -> None:
    response, body = ask(served, path)
    assert (response.status, response.getheader("Content-Type")) == (200, kind)
    assert response.getheader("Content-Length") == str(len(body))
    assert response.getheader("Cross-Origin-Opener-Policy") == "same-origin"
    assert response.getheader("Cross-Origin-Embedder-Policy") == "require-corp"
    assert response.getheader("Cross-Origin-Resource-Policy") == "same-origin"


def test_wasm_has_the_type_that_browsers_compile_while_they_load(tmp_path: Path) -> None:
    (tmp_path / "a.wasm").write_bytes(b"\0asm")
    with serve(tmp_path) as served:
        assert ask(served, "/a.wasm")[0].getheader("Content-Type") == "application/wasm"


def test_bytes_are_the_files(served: Served) -> None:
    assert ask(served, "/onnx/model_q4.onnx_data")[1] == bytes(range(256)) * 5000


def test_head_has_no_body(served: Served) -> None:
    response, body = ask(served, "/onnx/model_q4.onnx_data", method="HEAD")
    assert (response.status, response.getheader("Content-Length"), body) == (200, "1280000", b"")


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/onnx/../../secret.txt",
        "/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        "/..\\secret.txt",
        "//secret.txt",
        "/link.txt",
        "/onnx",
        "/onnx/",
        "/nothing",
        "/%00",
        "relative",
        "/" + "x" * 5000,
    ],
)
def test_nothing_else_is_found(served: Served, path: str) -> None:
    response, body = ask(served, path)
    assert response.status == 404
    assert body == b""


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_reading_is_all_that_is_allowed(served: Served, method: str) -> None:
    assert ask(served, "/index.html", method=method)[0].status in (405, 501)


def test_other_names_for_this_address_are_not_answered(served: Served) -> None:
    assert ask(served, "/index.html", host=f"localhost:{served.port}")[0].status == 200
    assert ask(served, "/index.html", host="evil.example")[0].status == 404


def test_only_what_lies_below_the_prefix_is_served(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.txt").write_text(name)
    mounts = {"a/": tmp_path / "one", "b/": tmp_path / "two"}
    posts = {"say": lambda body: None}
    with serve_mounts(mounts, prefix="/token/", posts=posts) as served:
        assert served.url == f"http://127.0.0.1:{served.port}/token/"
        assert ask(served, "/token/a/x.txt")[1] == b"one"
        assert ask(served, "/token/b/x.txt")[1] == b"two"
        for path in ("/a/x.txt", "/token/x.txt", "/token/c/x.txt", "/token/a/../b/x.txt", "/other/a/x.txt"):
            assert ask(served, path)[0].status == 404
        assert ask(served, "/token/say", method="POST")[0].status == 204
        assert ask(served, "/say", method="POST")[0].status == 405


def test_posts_are_answered(tmp_path: Path) -> None:
    with serve_mounts({}, posts={"say": lambda body: body[::-1]}) as served:
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
        for text in (b"abc", b"defg"):  # over one connection
            connection.request("POST", "/say", body=text)
            assert connection.getresponse().read() == text[::-1]
        connection.close()


def test_taken_port_is_named(served: Served, tmp_path: Path) -> None:
    for port in (served.port, 70000):
        with pytest.raises(UsageError, match=f"Port {port} cannot be used"), serve(tmp_path, port=port):
            pass


def test_it_ends(tmp_path: Path) -> None:
    with serve(tmp_path) as served:
        pass
    with pytest.raises(ConnectionRefusedError):
        ask(served, "/")
