"""Fetching a pinned file: whole, once, and from where a broken connection left it."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeq.errors import RuntimeUnavailableError
from edgeq.runtimes.arm64.fetching import ATTEMPTS, fetch
from tests.runtimes.mirror import Mirror, serving

CONTENT = random.Random(0).randbytes(200_000)


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with serving(Mirror(files={"/debian/a": CONTENT})) as one:
        yield one


def get(mirror: Mirror, target: Path, *, content: bytes = CONTENT, before: tuple[str, ...] = ()) -> list[int]:
    """Fetch `/debian/a`; how many bytes were said to be here, in order."""
    told: list[int] = []
    sha256 = hashlib.sha256(content).hexdigest()
    urls = [*before, f"{mirror.url}/debian/a"]
    fetch(urls, target, size=len(content), sha256=sha256, arrived=told.append, proxies={})
    return told


def test_a_file_arrives_whole_and_once(mirror: Mirror, tmp_path: Path) -> None:
    told = get(mirror, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert told == sorted(told)
    assert told[-1] == len(CONTENT)
    assert get(mirror, tmp_path / "a") == []
    assert mirror.asked == [("/debian/a", None)]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_broken_connection_is_taken_up_where_it_ended(mirror: Mirror, tmp_path: Path) -> None:
    mirror.cut = len(CONTENT) // 3 + 1
    get(mirror, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert [wanted for _, wanted in mirror.asked] == [None, f"bytes={mirror.cut}-", f"bytes={2 * mirror.cut}-"]


def test_what_an_interrupted_call_left_is_kept_for_the_next(mirror: Mirror, tmp_path: Path) -> None:
    mirror.cut = 1000
    with pytest.raises(RuntimeUnavailableError, match=r"a cannot be fetched \(127.0.0.1: the connection ended after"):
        get(mirror, tmp_path / "a")
    held = ATTEMPTS * mirror.cut
    assert (tmp_path / "a.part").read_bytes() == CONTENT[:held]
    mirror.cut = None
    get(mirror, tmp_path / "a")
    assert mirror.asked[-1] == ("/debian/a", f"bytes={held}-")
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_a_server_without_ranges_sends_it_all_again(mirror: Mirror, tmp_path: Path) -> None:
    mirror.honours_ranges = False
    (tmp_path / "a.part").write_bytes(CONTENT[:500])
    get(mirror, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT


@pytest.mark.parametrize("left", [b"x" * len(CONTENT), b"x" * (len(CONTENT) + 1), b"x" * 7])
def test_wrong_bytes_are_not_built_upon(mirror: Mirror, tmp_path: Path, left: bytes) -> None:
    (tmp_path / "a.part").write_bytes(left)
    get(mirror, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_a_changed_file_is_refused(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files["/debian/a"] = CONTENT[:-1] + b"x"
    with pytest.raises(RuntimeUnavailableError, match="its bytes are not those that were pinned"):
        get(mirror, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_the_next_place_has_what_the_first_has_not(mirror: Mirror, tmp_path: Path) -> None:
    get(mirror, tmp_path / "a", before=(f"{mirror.url}/gone", "http://127.0.0.1:1/a"))
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert [path for path, _ in mirror.asked] == ["/gone", "/debian/a"]


def test_a_version_that_is_gone_is_said_to_be(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files.clear()
    with pytest.raises(RuntimeUnavailableError, match=r"127\.0\.0\.1: it does not have that version"):
        get(mirror, tmp_path / "a")
    assert len(mirror.asked) == 1


def test_a_place_that_cannot_be_written_is_not_the_network_s_fault(mirror: Mirror, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        get(mirror, tmp_path / "absent" / "a")
    assert len(mirror.asked) == 1
