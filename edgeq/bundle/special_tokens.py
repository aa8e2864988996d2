"""What ExecuTorch's runner must be told of a tokenizer: it adds no special tokens by itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeq.bundle.manifest import Manifest
from edgeq.core.artifact import Interface


@dataclass(frozen=True, kw_only=True)
class SpecialTokens:
    """begin_count: how many begin-of-text tokens the model expects before a text. end_texts: what the runner hands over
    for the end of the text, so that it is not shown."""

    begin_count: int
    end_texts: tuple[str, ...]


def special_tokens(manifest: Manifest, directory: Path) -> SpecialTokens:
    """As the tokenizer of the staged bundle in `directory` has them; none where it came without `tokenizer.json`."""
    if manifest.tokenizer is None:
        return SpecialTokens(begin_count=0, end_texts=())
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(directory / manifest.tokenizer / "tokenizer.json"))
    ends = (tokenizer.id_to_token(token) for token in manifest.interface.end_of_text_ids)
    return SpecialTokens(
        begin_count=_begin_count(tokenizer.encode("a").ids, manifest.interface),
        end_texts=tuple(text for text in ends if text),
    )


def _begin_count(ids: list[int], interface: Interface) -> int:
    count = 0
    for token in ids:
        if token != interface.begin_of_text_id:
            break
        count += 1
    return count
