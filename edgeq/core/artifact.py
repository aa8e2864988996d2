"""Artifact: the lowered model's files, and how a runtime is to open them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeq.core.model import Pooling, Task
from edgeq.core.target import Format


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file of a bundle: POSIX path relative to the bundle, size and sha256 in hex."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Interface:
    """What an app must know to call the model; written to `edgeq.json` and read by the drivers.

    inputs and outputs are tensor names in graph order. The key-value cache of layer N goes in as
    `past_key_values.N.key|value` `[batch, key_value_heads, past, head_size]` and comes out as `present.N.key|value`.
    `cache` lists `(key_value_heads, head_size)` per layer; empty for encoders. Batches are padded on the right.
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


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """The lowered model in `directory`; `files` are names in it, the entry file first. `notes` are for the report:
    what a fallback cost, what could not be fused."""

    format: Format
    directory: Path
    files: tuple[str, ...]
    interface: Interface
    weights_digest: str
    notes: tuple[str, ...] = ()
