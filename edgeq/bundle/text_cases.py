"""`golden/texts.json`: hard texts with the ids that the model's tokenizer gives them, for a smoke test on a device."""

from __future__ import annotations

import json
from pathlib import Path

from edgeq.core.artifact import Interface
from edgeq.runtimes.generation import load_tokenizer
from edgeq.runtimes.hard_texts import hard_texts

FILE = "texts.json"


def write_text_cases(tokenizer: Path, interface: Interface, folder: Path) -> None:
    """Of a bundle whose graphs read text. tokenizer: the `tokenizer.json`. Raises CorruptInputError, OSError."""
    loaded = load_tokenizer(tokenizer)
    texts = hard_texts(loaded, interface.context_length)
    if interface.task != "text-generation":
        loaded.enable_truncation(interface.context_length)
    cases = [{"text": text, "input_ids": loaded.encode(text).ids} for text in texts]
    (folder / FILE).write_text(json.dumps({"cases": cases}, indent=1) + "\n", encoding="utf-8")
