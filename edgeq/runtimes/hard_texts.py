"""Texts on which tokenizers are known to differ, and where a graph first differs from its tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_PLAIN = (
    "",
    " ",
    "   ",
    "\t\n",
    "Hello, world!",
    "MixedCase WORDS in oneLine, snake_case and kebab-case",
    "don't we'll I'M they'RE it's",
    "  leading and  double   spaces  ",
    "line\nbreak\r\n\r\n and\t\ttabs ",
    "123 4567 89012.5 1,000,000 3.14e-10 0x1F",
    "...!!!??? (a) [b] {c} <d> \"e\" 'f' `g` ~/h",
    "https://example.org/a/b?c=d&e=%20#f user@example.org",
    '{"key": [1, 2, null], "other": "value"}',
    "x" * 99,
    "x" * 100,
    "x" * 101,
    "abc" * 90,
    "a" * 257,
)
_LETTERS = (
    "café CAFÉ naïve Ångström",
    "cafe\u0301 CAFE\u0301 nai\u0308ve A\u030angstro\u0308m",
    "e\u0323\u0302 \u1ec7 a\u0300\u0301\u0302\u0303 o\u0328\u0304",
    "İstanbul ıI ŞİŞLİ",
    "straße STRASSE ẞ ﬁ ﬂ Ǆ ǅ ŉ",
    "Ελληνικά ΣΊΣΥΦΟΣ ὈΔΥΣΣΕΎΣ ς",
    "Привет, мир! Ёлка",
    "北京 is 中国的首都，你好。",
    "x中y 日本語テスト ひらがな カタカナ ﾊﾝｶｸ ＡＢＣ　１２３",
    "한국어 안녕하세요 \u1112\u1161\u11ab",
    "مرحبا بالعالم ١٢٣ مُحَمَّد",
    "שלום עולם שָׁלוֹם",
    "नमस्ते दुनिया क्षत्रिय",
    "ภาษาไทย สวัสดี",
    "\U00020000\U0002a6d6 \U0001d518\U0001d52b\U0001d526",
)
_SIGNS = (
    "👩‍👩‍👧 hi 🏳️‍🌈 👍🏽 🇩🇪 1️⃣",
    "a🛰b Łukasz🗟 unbelievablyﷺ",
    "“quoted” ‘single’ – — … • € ™ ½ × ÷",
    "bell\x07 escape\x1b[0m delete\x7f nul\x00inside",
    "a\u00adb zero\u200bwidth \u200d \u2060 \ufeffmark",
    "\u00a0\u1680\u2003\u2028\u2029\u202f\u3000 odd spaces\u0085\x0b\x0c\x1c",
    "\ue000\uf8ff \U000f0000 private",
    "\ufffd \uffff \U0010ffff a\u0378b",
    "x▁y Ġz ##a",
)
_LONG = "It was a long text, and nobody had said how long it would be. "
HARD_TEXTS = (*_PLAIN, *_LETTERS, *_SIGNS)
Encode = Callable[[str], Sequence[int]]


def hard_texts(tokenizer: Tokenizer, longest: int) -> tuple[str, ...]:
    """The texts, with one beyond `longest` tokens, and with the tokenizer's special tokens written out in others."""
    special = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    inside = [f"{special[index]}a{special[-1 - index]} b {special[index]}" for index in range(min(len(special), 4))]
    together = ["".join(special[:8]), " ".join(special[:8]), *(token.lower() for token in special[:4])]
    inside += [
        variant for token in special[:4] for variant in (token, f"@{token[:1]}\uc5b4", f"{token[:-1]} {token[1:]}")
    ]
    repeats = longest // len(_LONG.split()) + 2
    return (*HARD_TEXTS, *inside, *together, _LONG * repeats)


def first_difference(expected: Sequence[object], found: Sequence[object]) -> int | None:
    """The index of the first text of which the graph says something else than the tokenizer; None where none is."""
    pairs = enumerate(zip(expected, found, strict=True))
    return next((index for index, (wanted, said) in pairs if wanted != said), None)
