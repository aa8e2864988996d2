"""Whether the bundle's tokenizer is the one that its golden inputs were made with."""

from __future__ import annotations

import json
from pathlib import Path

from edgeq.errors import BadInputError
from edgeq.runtimes.generation import load_tokenizer


def tokenizer_problem(golden: Path, tokenizer: Path | None) -> str:
    """What is wrong, in words: a golden input whose ids the tokenizer spells otherwise. Empty where all agree, and
    where the model has no tokenizer."""
    try:
        cases = json.loads(golden.read_text(encoding="utf-8"))["cases"]
        texts = [case for case in cases if "squares" not in case]
        expected = [([int(token) for token in case["input_ids"]], str(case["text"])) for case in texts]
    except (OSError, ValueError, KeyError, TypeError):
        return f"{golden.name} is missing or unreadable"
    if tokenizer is None:
        return ""
    try:
        loaded = load_tokenizer(tokenizer)
    except BadInputError as error:
        return error.what
    for ids, text in expected:
        if loaded.decode(ids, skip_special_tokens=True) != text:
            return f"the tokenizer does not spell the golden text {text[:40]!r}"
    return ""
