"""The model's licence goes with its weights: the file it came with, or a plain statement of what is known."""

from __future__ import annotations

import shutil
from pathlib import Path

_PATTERNS = ("LICENSE*", "LICENCE*", "COPYING*", "NOTICE*")


def write_licence(source: Path, licence: str | None, name: str, directory: Path) -> None:
    """Copy the licence files at the top of `source` into `directory`, the first one as `LICENSE`.

    Without any, `LICENSE` states the identifier that the model card names (`licence`), or that none was stated.
    """
    found = [path for pattern in _PATTERNS for path in sorted(source.glob(pattern)) if path.is_file()]
    licences = [path for path in found if not path.name.startswith("NOTICE")]
    for path in found:
        shutil.copyfile(path, directory / ("LICENSE" if licences and path == licences[0] else path.name))
    if not licences:
        (directory / "LICENSE").write_text(_statement(licence, name), encoding="utf-8")


def _statement(licence: str | None, name: str) -> str:
    if licence is None:
        return (
            f"The model {name} came without a licence: neither a licence file nor one named in its model card.\n"
            "Ask its authors before you ship it: without a licence nobody may.\n"
        )
    return (
        f"The model {name} is under the licence that its model card names: {licence}\n"
        "It came without the licence's text. Add it here if the licence asks you to pass it on.\n"
    )
