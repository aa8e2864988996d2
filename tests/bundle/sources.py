"""Texts of a surface, and what every generated source must be."""

from __future__ import annotations

import re
from pathlib import Path

BRACKETS = {")": "(", "]": "[", "}": "{"}


def texts_in(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}


def check_source(text: str) -> None:
    """Nothing left to fill in, no line too long, every bracket closed outside of strings and comments."""
    assert not re.search(r"@[A-Z_]+@", text)
    assert max(map(len, text.splitlines())) <= 120
    assert text.endswith("\n")
    open_brackets: list[str] = []
    for character in _code(text):
        if character in BRACKETS.values():
            open_brackets.append(character)
        elif character in BRACKETS:
            assert open_brackets.pop() == BRACKETS[character]
    assert open_brackets == []


def _code(text: str) -> str:
    """Kotlin or Swift without comments, and without strings but for what `${...}` and `\\(...)` compute in them."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    lines = [re.sub(r'"(?:\\[^(]|[^"\\]|\\\([^()]*\))*"', '""', line) for line in text.splitlines()]
    return "\n".join(line.partition("//")[0] for line in lines)
