"""Template files of the surfaces, filled with a bundle's real numbers."""

from __future__ import annotations

import re
import textwrap
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edgeq.errors import InternalError, RuntimeUnavailableError

_TEMPLATES = Path(__file__).parent / "templates"
NO_TOKENIZER = (
    "The model came without a `tokenizer.json`, so there is no text in or out: token ids must come from elsewhere."
)
_PLACEHOLDER = re.compile(r"@([A-Z_]+)@")


def template(name: str) -> str:
    """The text of a template file as it is."""
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def fill(name: str, values: dict[str, str]) -> str:
    """The template with every `@PLACEHOLDER@` replaced. Raises InternalError where one has no value or no place."""
    text = template(name)
    placeholders = set(_PLACEHOLDER.findall(text))
    if placeholders != set(values):
        raise InternalError(
            f"The template {name} and its values differ in {sorted(placeholders ^ set(values))}.",
            remedy="Report this: a surface and its template disagree.",
        )
    return _PLACEHOLDER.sub(lambda match: values[match.group(1)], text)


def paragraph(text: str, indent: str = "") -> str:
    """`text` in lines of a template's width; `indent` goes before all but the first."""
    return textwrap.fill(text, width=116, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def installed_version(package: str) -> str:
    """The version that this machine validates with. Raises RuntimeUnavailableError where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        raise RuntimeUnavailableError(
            f"{package} is not installed, so the bundle cannot say which version it was made for.",
            remedy=f"Install edgeq with its dependencies: pip install {package}.",
        ) from None


def size_text(size: int) -> str:
    """Bytes for people: 3.4 MiB."""
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.1f} KiB"
