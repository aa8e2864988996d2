"""The edge surface: run.py really runs, from the bundle alone, and the service has the profile's limits."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgeq.bundle.text import installed_version
from tests.bundle.samples import bigram_table, encoder_interface, sealed_bundle


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("generator")
    return sealed_bundle(work, work / "bundle", surface="edge")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("encoder")
    return sealed_bundle(work, work / "bundle", surface="edge", interface=encoder_interface())


def run(bundle: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", str(bundle / "run.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd="/")


def test_requirements_are_pinned_to_what_was_validated(generator: Path) -> None:
    lines = (generator / "requirements.txt").read_text().splitlines()
    assert lines == [f"{name}=={installed_version(name)}" for name in ("numpy", "onnxruntime", "tokenizers")]


def test_run_imports_nothing_but_its_requirements(generator: Path) -> None:
    text = (generator / "run.py").read_text()
    assert "edgeq." not in text.replace("edgeq.json", "")
    assert "torch" not in text


def test_run_continues_a_prompt_until_the_end_of_text(generator: Path) -> None:
    result = run(generator, "once", "upon")
    assert (result.returncode, result.stdout) == (0, "once upon a time there was\n"), result.stderr


def test_run_stops_after_the_tokens_it_was_allowed(generator: Path) -> None:
    assert run(generator, "once", "--max-new-tokens", "2").stdout == "once upon a\n"


def test_run_samples_reproducibly(generator: Path) -> None:
    first = run(generator, "once", "--temperature", "5", "--seed", "1", "--max-new-tokens", "20")
    again = run(generator, "once", "--temperature", "5", "--seed", "1", "--max-new-tokens", "20")
    other = run(generator, "once", "--temperature", "5", "--seed", "2", "--max-new-tokens", "20")
    assert first.stdout == again.stdout != other.stdout


def test_run_refuses_prompts_that_fill_the_context(generator: Path) -> None:
    result = run(generator, " ".join(["once"] * 64))
    assert result.returncode == 1
    assert result.stderr == "the prompt has 64 tokens, the context 64\n"


def test_run_without_anything_to_do_says_what_it_wants(generator: Path) -> None:
    result = run(generator)
    assert result.returncode == 2
    assert "give a text, --check or --serve PORT" in result.stderr


@pytest.mark.parametrize("kind", ["generator", "encoder"])
def test_check_passes(kind: str, request: pytest.FixtureRequest) -> None:
    result = run(request.getfixturevalue(kind), "--check")
    assert (result.returncode, result.stdout) == (0, "all is well\n"), result.stderr


@pytest.mark.parametrize("kind", ["generator", "encoder"])
def test_check_finds_other_weights(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(request.getfixturevalue(kind), tmp_path / "bundle"))
    table = np.random.default_rng(1).normal(size=(8, 8)).astype(np.float32)
    (bundle / "model" / "model.onnx_data").write_bytes(table.tobytes())
    result = run(bundle, "--check")
    assert result.returncode == 1
    assert "model/model.onnx_data is missing or was changed" in result.stdout
    assert "golden case 0: off by" in result.stdout


def test_check_without_golden_cases_is_no_pass(generator: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(generator, tmp_path / "bundle"))
    (bundle / "golden" / "golden.json").write_text('{"cases": [], "tolerance": 0}')
    result = run(bundle, "--check")
    assert result.returncode == 1
    assert "no golden cases" in result.stdout


def test_run_compares_sentences(encoder: Path) -> None:
    result = run(encoder, "once upon", "once upon", "was")
    rows = [line.split()[:3] for line in result.stdout.splitlines()]
    table = bigram_table()
    a, b = table[[2, 3]].mean(axis=0), table[7]
    cosine = float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    np.testing.assert_allclose(
        np.array(rows, dtype=float), [[1, 1, cosine], [1, 1, cosine], [cosine, cosine, 1]], atol=1e-3
    )


@pytest.fixture
def server(generator: Path) -> Iterator[str]:
    command = [sys.executable, "-I", str(generator / "run.py"), "--serve", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def post(url: str, data: bytes) -> tuple[int, dict[str, object]]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=30) as answer:  # noqa: S310
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def announce(url: str, length: str) -> int:
    """The answer to a request of that Content-Length whose body never comes."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    connection.putrequest("POST", "/")
    connection.putheader("Content-Length", length)
    connection.endheaders()
    with contextlib.closing(connection):
        return connection.getresponse().status


def test_service_answers_on_the_loopback(server: str) -> None:
    assert server.startswith("http://127.0.0.1:")
    assert post(server, b'{"prompt": "once upon", "max_new_tokens": 3}') == (
        200,
        {"text": " a time there", "tokens": 3},
    )
    for bad in (b"{", b"[]", b'{"text": "x"}', b'{"prompt": "once", "max_new_tokens": "many"}'):
        status, answer = post(server, bad)
        assert status == 400
        assert "error" in answer
    for length, status in (("1048577", 413), ("-5", 413), ("many", 400)):
        assert announce(server, length) == status
    assert post(server, b'{"prompt": "once"}')[0] == 200


def test_service_has_the_profile_s_limits(generator: Path) -> None:
    unit = (generator / "edgeq.service").read_text()
    assert "MemoryHigh=768M\nMemoryMax=1024M\nMemorySwapMax=0\n" in unit
    assert "ExecStart=/opt/edgeq-my-model/.venv/bin/python run.py --serve 8321" in unit
    assert "@" not in unit


def test_readme_tells_how_to_run(generator: Path, encoder: Path) -> None:
    assert 'run.py "Once upon a time"' in (generator / "README.md").read_text()
    assert 'run.py "A cat sleeps." "A kitten naps."' in (encoder / "README.md").read_text()
