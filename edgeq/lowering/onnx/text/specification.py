"""What a `tokenizer.json` asks of a graph: its model, the ids around a text, the tokens that are looked for first."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from edgeq.errors import CorruptInputError, UnsupportedModelError
from edgeq.models.tokens import TOKENIZER_FILE
from edgeq.runtimes.generation import load_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Kind = Literal["WordPiece", "BPE", "Unigram"]
_CHARACTERWISE = ("BertNormalizer", "NFD", "NFKD", "Lowercase", "StripAccents")
_WORDWISE = ("BertPreTokenizer", "WhitespaceSplit")
NUL = "\0"
_OTHERWISE = "Leave out --tokenizer graph: the bundle then holds tokenizer.json, for the app to read."


@dataclass(frozen=True, kw_only=True)
class Specification:
    """A tokenizer: `plain` is its JSON, `prefix` and `suffix` the ids around every text, `special` the tokens that are
    found in a text before all else, the longest first, with their ids; those in `strips_left` and `strips_right` take
    the spaces before and after them along."""

    kind: Kind
    plain: dict[str, Any]
    tokenizer: Tokenizer
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    special: tuple[tuple[str, int], ...]
    strips_left: tuple[int, ...]
    strips_right: tuple[int, ...]

    @property
    def model(self) -> dict[str, Any]:
        """The part that knows the vocabulary."""
        model: dict[str, Any] = self.plain["model"]
        return model


def unsupported(reason: str) -> UnsupportedModelError:
    """The refusal of a tokenizer, with what to do instead."""
    return UnsupportedModelError(f"The tokenizer cannot go into a graph: {reason}.", remedy=_OTHERWISE)


def read_specification(directory: Path) -> Specification:
    """The tokenizer of a checkpoint. Raises UnsupportedModelError for one that the graph has no operators for, or of
    which the directory has no `tokenizer.json`; CorruptInputError."""
    path = directory / TOKENIZER_FILE
    if not path.is_file():
        raise unsupported(f"the model brings no {TOKENIZER_FILE}")
    tokenizer = load_tokenizer(path)
    plain = json.loads(path.read_text(encoding="utf-8"))
    kind = plain["model"].get("type")
    if kind not in get_args(Kind):
        raise unsupported(f"there are no operators for {kind}")
    if kind == "WordPiece":
        _check_wordpiece(plain)
    prefix, suffix = _around(tokenizer)
    return Specification(
        kind=cast("Kind", kind),
        plain=plain,
        tokenizer=tokenizer,
        prefix=prefix,
        suffix=suffix,
        special=_special(kind, plain, tokenizer),
        strips_left=_which(plain, "lstrip"),
        strips_right=_which(plain, "rstrip"),
    )


def _check_wordpiece(plain: dict[str, Any]) -> None:
    """Only what looks at one character at a time, and what the operator has: it gives up on words of 101 letters."""
    for part, allowed in (("normalizer", _CHARACTERWISE), ("pre_tokenizer", _WORDWISE)):
        for step in _steps(plain.get(part), part):
            if step not in allowed:
                raise unsupported(f"its {part} {step} is not one that looks at single characters")
    if plain.get("pre_tokenizer") is None:
        raise unsupported("it does not part words")
    longest = plain["model"].get("max_input_chars_per_word", 100)
    if longest != 100:
        raise unsupported(f"it takes words of up to {longest} letters, the operator of up to 100")


def _steps(node: dict[str, Any] | None, part: str) -> list[str]:
    if node is None:
        return []
    if node["type"] == "Sequence":
        inner = node["normalizers" if part == "normalizer" else "pretokenizers"]
        return [step for one in inner for step in _steps(one, part)]
    return [str(node["type"])]


def _around(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids that the tokenizer puts before and after every text."""
    complete, inner = tokenizer.encode("a"), tokenizer.encode("a", add_special_tokens=False).ids
    if any(complete.type_ids):
        raise unsupported("it gives token types other than 0 to a single text")
    ids = complete.ids
    for start in range(len(ids) - len(inner) + 1):
        if inner and ids[start : start + len(inner)] == inner:
            return tuple(ids[:start]), tuple(ids[start + len(inner) :])
    raise CorruptInputError("The tokenizer gives no tokens for the letter a.", remedy="Use the model's own tokenizer.")


def _special(kind: str, plain: dict[str, Any], tokenizer: Tokenizer) -> tuple[tuple[str, int], ...]:
    """Added tokens, looked for as they are written; the operators' own search loses what follows half a token. For
    those of BPE a text ends at the character NUL, so that is looked for as well: exact but before an apostrophe."""
    found = [(str(token["content"]), int(token["id"])) for token in plain.get("added_tokens", []) if token["content"]]
    if kind == "BPE":
        ids = tokenizer.encode(NUL, add_special_tokens=False).ids
        found += [(NUL, ids[0])] if len(ids) == 1 else []
    return tuple(sorted(found, key=lambda token: -len(token[0])))


def _which(plain: dict[str, Any], flag: str) -> tuple[int, ...]:
    return tuple(int(token["id"]) for token in plain.get("added_tokens", []) if token.get(flag))
