"""Sequences that a language model writes itself: samples at temperature 1, always the same on one machine."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeq.core.model import ModelInfo
from edgeq.errors import CorruptInputError
from edgeq.models.architecture import load_module, read_config
from edgeq.models.tokens import vocabulary_size
from edgeq.progress import Advance

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

SEED = 0
LARGEST_BATCH = 128
LARGEST_CACHE = 2**30
"""Bytes of keys and values that the sequences of one batch may take."""


def write_sequences(
    directory: Path,
    info: ModelInfo,
    prefix: Sequence[int],
    *,
    sequences: int,
    length: int,
    progress: Advance | None = None,
) -> tuple[tuple[int, ...], ...]:
    """`sequences` samples of `length` tokens each, `prefix` included.

    Without a prefix they begin with the configuration's begin-of-text token, or else each with a random token. The
    whole float model is in memory meanwhile. Raises CorruptInputError for weights that are missing or give NaN.
    """
    import torch

    module, missing = load_module(directory, info.task, dtype="float32")
    if missing:
        raise CorruptInputError(f"{directory} lacks {missing[0]}.", remedy="Copy or download the model again.")
    generator = torch.Generator().manual_seed(SEED)
    starts = _starts(module, prefix, sequences, vocabulary_size(info), generator)[:, : max(1, length - 1)]
    size = _batch_size(directory, length)
    written: list[tuple[int, ...]] = []
    total = sequences * length
    for first in range(0, sequences, size):
        rows = starts[first : first + size]

        def advance(tokens: int, rows: int = len(rows), before: int = first * length) -> None:
            if progress is not None:
                progress(before + rows * tokens, total, "self-written text")

        tokens = continued(module, rows, length, _sampler(module, generator), advance)
        written += [tuple(row) for row in tokens.tolist()]
    return tuple(written)


def _starts(
    module: PreTrainedModel, prefix: Sequence[int], sequences: int, vocabulary: int, generator: torch.Generator
) -> torch.Tensor:
    """int64 [sequences, at least 1]."""
    import torch

    begin = getattr(module.config, "bos_token_id", None)
    first = list(prefix) or ([begin] if isinstance(begin, int) else [])
    if not first:
        return torch.randint(vocabulary, (sequences, 1), generator=generator)
    return torch.tensor([first] * sequences)


def _batch_size(directory: Path, length: int) -> int:
    """So many sequences that their keys and values, in float32, fit."""
    config: Any = read_config(directory).get_text_config()
    heads = int(config.num_attention_heads)
    shared = getattr(config, "num_key_value_heads", None) or heads
    size = getattr(config, "head_dim", None) or int(config.hidden_size) // heads
    per_sequence = 2 * 4 * int(config.num_hidden_layers) * int(shared) * int(size) * length
    return max(1, min(LARGEST_BATCH, LARGEST_CACHE // per_sequence))


def continued(
    module: PreTrainedModel,
    tokens: torch.Tensor,
    length: int,
    choose: Callable[[torch.Tensor], torch.Tensor],
    advance: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """`tokens` int64 [rows, n] with more behind each row, until they are `length` long. End-of-text tokens are kept:
    another text begins behind them. choose: from logits [rows, vocabulary] to tokens [rows, 1]."""
    import torch

    last_alone: dict[str, Any] = {}
    if "logits_to_keep" in inspect.signature(module.forward).parameters:
        last_alone = {"logits_to_keep": 1}
    unread, past = tokens, None
    with torch.inference_mode():
        while tokens.shape[1] < length:
            mask = torch.ones_like(tokens)
            cached: dict[str, Any] = {} if past is None else {"past_key_values": past}
            output = module(input_ids=unread, attention_mask=mask, use_cache=True, **cached, **last_alone)
            chosen = choose(output.logits[:, -1])
            tokens = torch.cat((tokens, chosen), dim=1)
            past = getattr(output, "past_key_values", None)
            unread = tokens if past is None else chosen  # a model that keeps something else reads everything again
            if advance is not None:
                advance(tokens.shape[1])
    return tokens


def _sampler(module: PreTrainedModel, generator: torch.Generator) -> Callable[[torch.Tensor], torch.Tensor]:
    """At temperature 1. Raises CorruptInputError for a model that computes NaN."""

    def choose(logits: torch.Tensor) -> torch.Tensor:
        import torch

        likelihood = logits.softmax(-1)
        if likelihood.isnan().any():
            raise _no_number(module)
        return torch.multinomial(likelihood, 1, generator=generator)

    return choose


def _no_number(module: PreTrainedModel) -> CorruptInputError:
    """What is wrong with a model that computes NaN."""
    broken = [name for name, parameter in module.named_parameters() if not bool(parameter.isfinite().all())]
    if broken:
        what = f"The weight {broken[0]!r} contains NaN or infinity."
    else:
        what = "The model computes NaN, so it cannot write its own calibration text."
    return CorruptInputError(what, remedy="Take another copy of the checkpoint.")
