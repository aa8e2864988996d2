"""A language model and an encoder small enough to be computed by hand, as packages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgeq.core.artifact import Interface
from tests.runtimes.coreml.programs import Array, function, ints, save

VOCABULARY, CONTEXT, CHUNK, WIDTH = 7, 12, 4, 2
TABLE: Array = np.random.default_rng(5).integers(-4, 5, (VOCABULARY, WIDTH)).astype(np.float32)
HEAD: Array = np.random.default_rng(6).integers(-4, 5, (VOCABULARY, WIDTH)).astype(np.float32)
GENERATOR = Interface(
    task="text-generation",
    inputs=("input_ids", "position", "last"),
    outputs=("logits",),
    vocabulary=VOCABULARY,
    context_length=CONTEXT,
    cache=((1, WIDTH),),
)
ENCODER = Interface(
    task="feature-extraction",
    inputs=("input_ids", "attention_mask"),
    outputs=("sentence_embedding",),
    vocabulary=VOCABULARY,
    context_length=8,
    pooling="mean",
    dimension=WIDTH,
)


def logits(ids: list[int]) -> Array:
    """After each of `ids`: the sum of all rows so far of TABLE, times HEAD; small whole numbers, so exact."""
    return np.asarray(np.cumsum(TABLE[ids], axis=0) @ HEAD.T)


def _text(length: int) -> Any:  # noqa: ANN401 - coremltools has no types
    """The cache holds rows of TABLE; what lies behind the position is masked away."""
    from coremltools.converters.mil.mil import Builder as mb  # noqa: N813

    def build(given: dict[str, Any]) -> list[Any]:
        new = mb.gather(x=_weight("table", TABLE), indices=given["input_ids"], axis=0)
        place = given["position"]
        zero, one, width = ints([0]), ints([1]), ints([WIDTH])
        begin = mb.concat(values=[zero, place, zero], axis=0)
        end = mb.concat(values=[one, mb.add(x=place, y=ints([length])), width], axis=0)
        old = mb.read_state(input=given["cache"])
        stored = mb.slice_update(x=old, update=mb.cast(x=new, dtype="fp16"), begin=begin, end=end)
        cache = mb.cast(x=mb.coreml_update_state(state=given["cache"], value=stored), dtype="fp32")
        final = mb.add(x=place, y=given["last"]) if length > 1 else place
        seen = mb.cast(x=mb.less_equal(x=np.arange(CONTEXT, dtype=np.int32), y=final), dtype="fp32")
        total = mb.matmul(x=mb.expand_dims(x=seen, axes=[0, 1]), y=cache)
        return [mb.linear(x=total, weight=_weight("head", HEAD))]

    inputs: dict[str, Any] = {"input_ids": np.zeros((1, length), np.int32), "position": np.zeros(1, np.int32)}
    if length > 1:
        inputs["last"] = np.zeros(1, np.int32)
    return function(inputs, build, names=["logits"], states={"cache": (1, CONTEXT, WIDTH)})


def _weight(name: str, values: Array) -> Any:  # noqa: ANN401
    """Codes of 8 bits with a scale of one per row."""
    from coremltools.converters.mil.mil import Builder as mb  # noqa: N813

    scale = np.ones((len(values), 1), dtype=np.float32)
    return mb.constexpr_blockwise_shift_scale(data=values.astype(np.int8), scale=scale, name=name)


def save_generator(path: Path) -> Path:
    return save(path, {"decode": _text(1), "prefill": _text(CHUNK)})


def save_decoder(path: Path, *, name: str = "decode") -> Path:
    """One token at a time, as a function of any name."""
    return save(path, {name: _text(1)})


def save_encoder(path: Path, *, length: int | None = None, pooled: bool = True, longest: int = 8) -> Path:
    """The masked mean of rows of TABLE, of sequences of any length, or of one; or the rows themselves."""
    from coremltools.converters.mil.mil import Builder as mb  # noqa: N813
    from coremltools.converters.mil.mil import get_new_symbol

    def build(given: dict[str, Any]) -> list[Any]:
        rows = mb.gather(x=TABLE, indices=given["input_ids"], axis=0)
        if not pooled:
            return [rows]
        mask = mb.expand_dims(x=mb.cast(x=given["attention_mask"], dtype="fp32"), axes=[-1])
        total = mb.reduce_sum(x=mb.mul(x=rows, y=mask), axes=[1], keep_dims=False)
        return [mb.real_div(x=total, y=mb.reduce_sum(x=mask, axes=[1], keep_dims=False))]

    size: Any = length or get_new_symbol()
    inputs = dict.fromkeys(("input_ids", "attention_mask"), (1, size))
    return save(path, {"main": function(inputs, build, names=["sentence_embedding"])}, longest=longest)
