"""One pinned file from the first place that has it; what a broken connection left is gone on with."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edgeq.errors import RuntimeUnavailableError
from edgeq.files import sha256_file

TIMEOUT_SECONDS = 60.0
ATTEMPTS = 3
"""For each place: a connection that broke is taken up where it ended."""
REFUSALS = dict.fromkeys((401, 403), "it refuses") | dict.fromkeys((404, 410), "it does not have that version")
CHUNK = 1 << 17
LATER = "Look at the network, then ask again: what has arrived is kept."


class _AbsentError(Exception):
    """That place does not have the file, and asking again will not help."""


def fetch(
    urls: Sequence[str],
    target: Path,
    *,
    size: int,
    sha256: str,
    arrived: Callable[[int], None],
    proxies: Mapping[str, str] | None = None,
) -> None:
    """Write `target`, whose bytes are known, from the first of `urls` that has them; nothing where it is there.

    arrived: told how many bytes of it are here. proxies: by scheme, by default the environment's.
    Raises RuntimeUnavailableError where no place has the file, OSError where it cannot be written.
    """
    if target.is_file() and sha256_file(target) == sha256:
        return
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(None if proxies is None else dict(proxies)))
    part = target.with_name(f"{target.name}.part")
    reasons = []
    for url in urls:
        reason = _from(url, part, opener, size=size, sha256=sha256, arrived=arrived)
        if not reason:
            part.replace(target)
            return
        reasons.append(f"{urllib.parse.urlsplit(url).hostname}: {reason}")
    raise RuntimeUnavailableError(f"{target.name} cannot be fetched ({'; '.join(reasons)}).", remedy=LATER)


def _from(
    url: str,
    part: Path,
    opener: urllib.request.OpenerDirector,
    *,
    size: int,
    sha256: str,
    arrived: Callable[[int], None],
) -> str:
    """Complete `part` from one place. Why it could not be, "" where it is whole."""
    reason = ""
    for _ in range(ATTEMPTS):
        try:
            _continue(url, part, opener, size=size, arrived=arrived)
        except _AbsentError as error:
            return str(error)
        except (ConnectionError, TimeoutError, urllib.error.URLError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", "") or error) or type(error).__name__
            continue
        if sha256_file(part) == sha256:
            return ""
        part.unlink()
        reason = "its bytes are not those that were pinned"
    return reason


def _continue(
    url: str, part: Path, opener: urllib.request.OpenerDirector, *, size: int, arrived: Callable[[int], None]
) -> None:
    held = part.stat().st_size if part.exists() else 0
    if held > size:
        held = 0
    if held == size:
        return
    request = urllib.request.Request(url, headers={"Range": f"bytes={held}-"} if held else {})  # noqa: S310
    try:
        response = opener.open(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code in REFUSALS:
            raise _AbsentError(REFUSALS[error.code]) from error
        raise
    with response:
        is_rest = held > 0 and response.status == http.client.PARTIAL_CONTENT
        held = held if is_rest else 0
        with part.open("ab" if is_rest else "wb") as stream:
            while held < size and (chunk := _read(response)):
                stream.write(chunk)
                held += len(chunk)
                arrived(held)
    if held < size:
        raise ConnectionError(f"the connection ended after {held:,} of {size:,} bytes")


def _read(response: http.client.HTTPResponse) -> bytes:
    """What has come. Its errors are the network's: those of the disk come from elsewhere."""
    try:
        return response.read(CHUNK)
    except OSError as error:
        raise ConnectionError(str(error) or type(error).__name__) from error
