"""Which model this is: a revision that changes when the weights do, and the licence that its card names."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from edgeq.models.architecture import CONFIG_FILE
from edgeq.models.checkpoint import hub_commit, inside
from edgeq.models.preprocessing import preprocessor_files
from edgeq.models.sentence_modules import pooling_files

CHUNK = 2**20
HASHED_WHOLE = 2**30
SAMPLES = 256
CARD = "README.md"
LARGEST_CARD = 2**20


def revision(directory: Path, weight_files: Iterable[Path]) -> str:
    """The hub commit of a snapshot; else the sha256 in hex over the configuration and, for each weight file, its name,
    size and bytes. Of files that are larger than 1 GiB together, 256 evenly spaced pieces of 1 MiB each stand for the
    bytes; the first holds the header."""
    commit = hub_commit(directory)
    if commit is not None:
        return commit
    files = sorted(weight_files)
    whole = sum(path.stat().st_size for path in files) <= HASHED_WHOLE
    digest = hashlib.sha256()
    for name in (CONFIG_FILE, *pooling_files(directory), *preprocessor_files(directory)):
        digest.update(inside(directory, name).read_bytes())
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        for piece in _pieces(path, size, whole=whole):
            digest.update(piece)
    return digest.hexdigest()


def _pieces(path: Path, size: int, *, whole: bool) -> Iterator[bytes]:
    count = -(-size // CHUNK)
    step = 1 if whole else max(1, count // SAMPLES)
    with path.open("rb") as stream:
        for index in range(0, count, step):
            stream.seek(index * CHUNK)
            yield stream.read(CHUNK)
        if step > 1:
            stream.seek(-CHUNK, 2)
            yield stream.read(CHUNK)


def licence(directory: Path) -> str | None:
    """`license:` in the model card's front matter (`license_name:` where that says other), else the name of a licence
    file, else None."""
    card = directory / CARD
    if card.is_file() and card.stat().st_size <= LARGEST_CARD:
        text = inside(directory, CARD).read_text(encoding="utf-8", errors="replace")
        front = re.match(r"---\s*\n(.*?)\n---", text, flags=re.DOTALL)
        entry = re.compile(r"^(license|license_name):[ \t]*['\"]?([^\s'\"]+)", re.MULTILINE)
        named: dict[str, str] = dict(entry.findall(front[1] if front else ""))
        if named.get("license") == "other":
            return named.get("license_name", "other")
        if "license" in named:
            return named["license"]
    files = sorted(path.name for path in directory.iterdir() if path.name.upper().startswith(("LICENSE", "LICENCE")))
    return files[0] if files else None
