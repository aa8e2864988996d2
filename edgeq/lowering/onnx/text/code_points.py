"""What a tokenizer does to single characters, asked of the tokenizer itself, whose tables of Unicode are the ones.

Exact where a normalizer looks at one character at a time. The one exception is canonical order, which NFD restores
among combining marks: it is lost between two of the few spacing marks that have a combining class.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

UNICODE = 0x110000
SURROGATES = range(0xD800, 0xE000)
_BLOCK = 0x1000
_SINGLY = 8
_LETTER = "a"
_SPACE = " "
WHITESPACE = {"type": "WhitespaceSplit"}
"""The pre-tokenizer that parts words at what Unicode calls white space."""
_NOTHING = {"type": "WordLevel", "vocab": {}, "unk_token": ""}
Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class CodePoints:
    """Ranges `[first, last]` of characters that are dropped, that part words, and that are words of their own; and the
    other characters that become something else."""

    dropped: Ranges
    spaces: Ranges
    isolated: Ranges
    replaced: dict[str, str]

    def drops(self, character: str) -> bool:
        """Whether nothing is left of a character."""
        return any(first <= ord(character) <= last for first, last in self.dropped)


def code_points(plain: Mapping[str, Any]) -> CodePoints:
    """Ask the normalizer and the pre-tokenizer of a `tokenizer.json` for every character."""
    parts = {key: plain.get(key) for key in ("normalizer", "pre_tokenizer")}
    return _all(json.dumps({"version": "1.0", "added_tokens": [], "model": _NOTHING, **parts}))


@lru_cache(maxsize=4)
def _all(tokenizer_json: str) -> CodePoints:
    """In blocks, where all of a block fare alike."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(tokenizer_json)
    found: dict[int, str] = {}
    for start in range(0, UNICODE, _BLOCK):
        _ask(tokenizer, [code for code in range(start, start + _BLOCK) if code not in SURROGATES], found)
    if _within_a_word(tokenizer, _SPACE) == _SPACE:  # it becomes what it is, and parts words all the same
        found[ord(_SPACE)] = _SPACE
    kinds: dict[str, list[int]] = {"dropped": [], "spaces": [], "isolated": []}
    replaced = {}
    for code, becomes in found.items():
        character = chr(code)
        match becomes:
            case "":
                kinds["dropped"].append(code)
            case _ if becomes == _SPACE:
                kinds["spaces"].append(code)
            case _ if becomes == f" {character} ":
                kinds["isolated"].append(code)
            case _:
                replaced[character] = becomes
    return CodePoints(
        dropped=_ranges(kinds["dropped"]),
        spaces=_ranges(kinds["spaces"]),
        isolated=_ranges(kinds["isolated"]),
        replaced=replaced,
    )


def character_class(ranges: Iterable[tuple[int, int]]) -> str:
    """A regular expression of RE2 for one character out of the ranges."""
    return "[" + "".join(rf"\x{{{first:X}}}-\x{{{last:X}}}" for first, last in ranges) + "]"


def characters(codes: Iterable[str]) -> Ranges:
    """The ranges that the given characters make."""
    return _ranges([ord(code) for code in codes])


def _ask(tokenizer: Tokenizer, codes: list[int], found: dict[int, str]) -> None:
    """Note what each of the characters becomes, where that is not itself."""
    if not codes:
        return
    text = "".join(map(chr, codes))
    if len(codes) > _SINGLY:
        normal = _normalized(tokenizer, text)
        if normal == "":
            found.update(dict.fromkeys(codes, ""))
        elif normal != text or _within_a_word(tokenizer, text) != text:
            middle = len(codes) // 2
            _ask(tokenizer, codes[:middle], found)
            _ask(tokenizer, codes[middle:], found)
        return
    for code in codes:
        normal = _normalized(tokenizer, chr(code))
        becomes = _within_a_word(tokenizer, normal) if normal else ""
        if becomes != chr(code):
            found[code] = becomes


def _normalized(tokenizer: Tokenizer, text: str) -> str:
    return text if tokenizer.normalizer is None else tokenizer.normalizer.normalize_str(text)


def _within_a_word(tokenizer: Tokenizer, normal: str) -> str:
    """What stands between two letters once the text is in words, these parted by single spaces."""
    words = tokenizer.pre_tokenizer.pre_tokenize_str(f"{_LETTER}{normal}{_LETTER}")
    return " ".join(word for word, _ in words)[len(_LETTER) : -len(_LETTER)]


def _ranges(codes: list[int]) -> Ranges:
    """Sorted codes as ranges, both ends included."""
    found: list[tuple[int, int]] = []
    for code in sorted(codes):
        if found and found[-1][1] == code - 1:
            found[-1] = (found[-1][0], code)
        else:
            found.append((code, code))
    return tuple(found)
