"""What the samples for ExecuTorch share, on Android and iOS: the inputs they feed, the special tokens they ask for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeq.bundle.manifest import Manifest
from edgeq.core.artifact import Interface
from edgeq.errors import InternalError

GENERATOR_INPUTS = ("tokens", "input_pos")
ENCODER_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}


@dataclass(frozen=True, kw_only=True)
class SpecialTokens:
    """What the runner must be told, as it adds no special tokens by itself.

    begin_count: how many begin-of-text tokens the model expects before a text. end_texts: what the runner hands over
    for the end of the text, so that it is not shown.
    """

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


def check_inputs(interface: Interface) -> None:
    """Raises InternalError where the samples for ExecuTorch, in Kotlin and in Swift, would feed something else."""
    if interface.task == "text-generation":
        known = interface.inputs == GENERATOR_INPUTS
    else:
        known = set(interface.inputs) <= ENCODER_INPUTS
    if not known:
        raise InternalError(
            f"The ExecuTorch samples do not feed the inputs {list(interface.inputs)}.",
            remedy="Report this: teach templates/executorch_*.",
        )


def _begin_count(ids: list[int], interface: Interface) -> int:
    count = 0
    for token in ids:
        if token != interface.begin_of_text_id:
            break
        count += 1
    return count
