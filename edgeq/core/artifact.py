"""Artifact: the lowered model's files, and how a runtime is to open them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from edgeq.core.images import ImageInput
from edgeq.core.model import Pooling, Task
from edgeq.core.scheme import Codebook, ScaleDtype
from edgeq.core.target import Format

TABLE_SUFFIX = " (table)"
"""Follows a weight's name where a second copy of it, for look-ups, has a location of its own."""


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file of a bundle: POSIX path relative to the bundle, size and sha256 in hex."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """An input or output of a plain module. dtype: numpy's name of it. shape: lengths, or the name of a free axis."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, kw_only=True)
class Interface:
    """What an app must know to call the model; written to `edgeq.json` and read by the drivers.

    inputs and outputs are tensor names in graph order. The key-value cache of layer N goes in as
    `past_key_values.N.key|value` `[batch, key_value_heads, past, head_size]` and comes out as `present.N.key|value`.
    `cache` lists `(key_value_heads, head_size)` per layer; empty for encoders. Batches are padded on the right.
    `image` says what `pixel_values` are, None where a model takes tokens; `labels` name a classifier's classes,
    whose chances are the softmax of the logits, or with `multi_label` the sigmoid of each.
    `tensors` describes the inputs, then the outputs, of a plain module, which has no vocabulary and no context.
    """

    task: Task
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    vocabulary: int
    context_length: int
    cache: tuple[tuple[int, int], ...] = ()
    end_of_text_ids: tuple[int, ...] = ()
    begin_of_text_id: int | None = None
    pooling: Pooling = "none"
    normalize: bool = False
    dimension: int | None = None
    tensors: tuple[TensorSpec, ...] = ()
    image: ImageInput | None = None
    labels: tuple[str, ...] = ()
    multi_label: bool = False


@dataclass(frozen=True, kw_only=True)
class WeightLocation:
    """Where one quantized weight is inside the artifact, so that a validator can read it back.

    `codes`, `scales`, `zero_points` and `codebook` name what the format calls a stored array: ONNX initializers, keys
    and indices of buffers in a `.pte`, values of a Core ML program. `rows` are the rows `[start, stop)` of them that
    belong to this weight, as several may be stored one below the other. `shape` is `(outputs, inputs)`. `codebook_kind`
    and `palette_rows` are the scheme's; the scales of a palette are all 1 and nowhere. `container_bits` is what a code
    takes there, where that is more than `bits`: the runtime has no kernel for so few. `is_unpacked`: the runtime makes
    float32 of it once, when it loads the model, and computes with that.
    """

    bits: int
    group_size: int | None
    symmetric: bool
    scale_dtype: ScaleDtype
    shape: tuple[int, int]
    codes: str
    scales: str
    zero_points: str | None
    rows: tuple[int, int]
    codebook: str | None = None
    codebook_kind: Codebook | None = None
    palette_rows: int | None = None
    container_bits: int | None = None
    is_unpacked: bool = False

    @property
    def unpacked_bytes(self) -> int:
        """What it takes in memory beside the file."""
        return 4 * self.shape[0] * self.shape[1] if self.is_unpacked else 0

    @property
    def stored_bits(self) -> int:
        """Bits that each code takes in the artifact."""
        return self.container_bits or self.bits


def container_notes(weights: Mapping[str, WeightLocation], kernels: str) -> tuple[str, ...]:
    """For the report: which bits are stored in more, as `kernels` have none for them."""
    found = Counter((one.bits, one.container_bits) for one in weights.values() if one.container_bits is not None)
    return tuple(
        f"{count} weights of {bits} bits are stored in {stored} bits a code: {kernels} have none for fewer"
        for (bits, stored), count in sorted(found.items())
    )


def unpacking_notes(weights: Mapping[str, WeightLocation]) -> tuple[str, ...]:
    """For the report: which weights are small in the file alone."""
    unpacked = [one for one in weights.values() if one.is_unpacked]
    if not unpacked:
        return ()
    stored, held = sum(map(_code_bytes, unpacked)), sum(one.unpacked_bytes for one in unpacked)
    return (
        f"{len(unpacked)} convolutions are stored in {unpacked[0].bits} bits, whatever the linears have, and unpacked "
        "to float32 once, when ONNX Runtime loads the model, as it has no kernels for packed ones: the download is "
        f"small ({stored / 2**20:.1f} MiB), their memory and speed are those of float32 ({held / 2**20:.1f} MiB)",
    )


def _code_bytes(location: WeightLocation) -> int:
    return location.shape[0] * location.shape[1] * location.stored_bits // 8


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One of several models that hold the same weights: `dtype` is transformers.js' name for it (q4, q4f16, ...),
    `entry` the file that a runtime opens, `float_dtype` what it computes and keeps its cache in."""

    dtype: str
    entry: str
    float_dtype: ScaleDtype


TokenizerForm = Literal["files", "graph"]
"""Whether an app turns text into ids itself, with the tokenizer's files, or a graph does it."""


@dataclass(frozen=True, kw_only=True)
class TextGraphs:
    """ONNX graphs that read and write text, as paths like an artifact's. `model`: an encoder that is given strings and
    has its weights in the same data file as the one that is given ids. `tokenizer` and `detokenizer`: beside a decoder,
    which is run token by token. `extensions`: the version of ONNX Runtime Extensions that they were compared with."""

    model: str | None = None
    tokenizer: str | None = None
    detokenizer: str | None = None
    extensions: str

    @property
    def files(self) -> tuple[str, ...]:
        """Those that there are."""
        return tuple(path for path in (self.model, self.tokenizer, self.detokenizer) if path is not None)

    def under(self, prefix: str) -> TextGraphs:
        """The same graphs with a prefix to their paths."""
        paths = {name: getattr(self, name) for name in ("model", "tokenizer", "detokenizer")}
        return replace(self, **{name: path and prefix + path for name, path in paths.items()})


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """The lowered model in `directory`; `files` are POSIX paths in it, `entry` is what a runtime opens: one of them, or
    the directory that holds them. `weights` maps each quantized weight to its place. `variants` are the models that the
    files make, the first of them at `entry`; empty where there is one only. `text` are the graphs that read text, None
    without them; `picture` is one that makes a picture of any size what the model takes. `notes` are for the report:
    what a fallback cost, what could not be fused."""

    format: Format
    directory: Path
    entry: str
    files: tuple[str, ...]
    interface: Interface
    weights_digest: str
    weights: dict[str, WeightLocation]
    variants: tuple[Variant, ...] = ()
    text: TextGraphs | None = None
    picture: str | None = None
    notes: tuple[str, ...] = ()
