"""`edgeq run`: a bundle's continuation of a text, its classes, or the similarities that it sees between sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.cli import show
from edgeq.core.task import TASKS
from edgeq.errors import UsageError

if TYPE_CHECKING:
    from edgeq.runtimes.generation import Encoder, TextGenerator

TOP_P = 0.9
PROMPT = "In the summer of 1944, the"
SENTENCES = (
    "A man is playing a guitar on the street.",
    "Someone makes music outdoors.",
    "The bank raised its interest rates again.",
    "Borrowing money has become more expensive.",
)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a language model continues."""

    max_new_tokens: int
    temperature: float
    seed: int


def try_bundle(bundle: Path, *, prompts: Sequence[str], sampling: Sampling) -> None:
    """Open the bundle and print what it does with the prompts, or with built-in ones. Raises UsageError."""
    import edgeq
    from edgeq.runtimes.generation import TextGenerator
    from edgeq.runtimes.tensors import TensorModel

    model = edgeq.load(bundle)
    if isinstance(model, TensorModel):
        raise UsageError(
            f"{bundle} is a plain module, which takes no text.",
            remedy="Call edgeq.load(bundle).run({...}) in Python, with an array for each input.",
        )
    if isinstance(model, TextGenerator):
        _continue(model, prompts or (PROMPT,), sampling)
    elif model.interface.image is not None:
        raise UsageError(
            "This bundle takes images, and `edgeq run` reads texts.",
            remedy="Use run.py of an edge bundle, or `edgeq.load(bundle).see(pixels)` in Python.",
        )
    elif TASKS[model.interface.task].is_classifier:
        _classify(model, prompts or SENTENCES)
    else:
        _compare(model, prompts or SENTENCES)


def _continue(model: TextGenerator, prompts: Sequence[str], sampling: Sampling) -> None:
    if len(prompts) > 1:
        raise UsageError("A language model continues one text.", remedy="Give --prompt once.")
    show.piece(prompts[0])
    pieces = model.stream(
        prompts[0],
        max_new_tokens=sampling.max_new_tokens,
        temperature=sampling.temperature,
        top_p=TOP_P,
        seed=sampling.seed,
    )
    for text in pieces:
        show.piece(text)
    show.line("")


def _classify(model: Encoder, texts: Sequence[str]) -> None:
    """The most likely class of each text and its probability; of a single logit, how likely it is to be true."""
    import numpy as np

    logits = model.encode(list(texts)).astype(np.float64)
    if model.interface.multi_label or logits.shape[1] == 1:  # each is true or not on its own
        chances = 1 / (1 + np.exp(-logits))
    else:
        chances = np.exp(logits - logits.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
    for row, text in zip(chances, texts, strict=True):
        best = int(row.argmax())
        show.line(f"{row[best]:6.1%}  {model.interface.labels[best]}  {text}")


def _compare(model: Encoder, sentences: Sequence[str]) -> None:
    """A table of cosines: one row per sentence, one column per sentence that it is compared with."""
    import numpy as np

    if len(sentences) < 2:
        sentences = (*sentences, *SENTENCES)
    embeddings = model.encode(list(sentences))
    embeddings = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    for index, row in enumerate(embeddings @ embeddings.T, start=1):
        show.line(f"{index:>2} {' '.join(f'{cosine:6.3f}' for cosine in row)}  {sentences[index - 1]}")
