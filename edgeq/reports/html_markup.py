"""Markup whose text is escaped by construction: the only way for a string into it is through `element`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape

MOST_CHARACTERS = 2000
"""Of one piece of text: a longer one tells nobody more."""
_VOID = frozenset({"meta", "link", "br", "rect", "line", "circle", "polyline", "path"})
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff]")
"""Control characters, and those that turn the direction of what follows them: no page may hold them."""


@dataclass(frozen=True)
class Markup:
    """A piece of a page."""

    text: str


Child = Markup | str | None
NOTHING = Markup("")


def plain(text: str) -> str:
    """Text from outside as a page may show it: no control characters, no lone surrogates, not endless."""
    cut = text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} ..."
    return _UNSEEN.sub("\ufffd", cut.encode("utf-8", "replace").decode("utf-8"))


def element(name: str, attributes: Mapping[str, str | Markup], *children: Child) -> Markup:
    """One element; strings among `children` and attributes are cut and escaped, None is left out."""
    values = {key: value.text if isinstance(value, Markup) else plain(value) for key, value in attributes.items()}
    head = "".join(f' {key}="{escape(value)}"' for key, value in values.items())
    if name in _VOID and not children:
        return Markup(f"<{name}{head}>" if name in ("meta", "link", "br") else f"<{name}{head}/>")
    return Markup(f"<{name}{head}>{joined(children).text}</{name}>")


def joined(children: Iterable[Child]) -> Markup:
    """Pieces after each other."""
    parts = (
        child.text if isinstance(child, Markup) else escape(plain(child), quote=False)
        for child in children
        if child is not None
    )
    return Markup("".join(parts))


def classed(name: str, of_class: str, *children: Child) -> Markup:
    """An element with a class and nothing else."""
    return element(name, {"class": of_class}, *children)
