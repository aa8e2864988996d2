"""What `store.json` says, and where things are.

    store.json                        written last: no file, no store
    blocks/0003-block-2.safetensors   one per repeated block, or per weight outside of them
    source/                           configuration, tokenizer and licence of the model
    draft/                            a store that training starts from, until the one around it is finished
    partial.jsonl                     while it is being written: the key, then one finished block per line

A quantized weight `w` is `w.codes` (packed along the inputs, uint8 [out, ceil(in * bits / 8)]), `w.scales` (float32
[out, groups], not for palettes) and, unless symmetric, `w.zero_points` (packed, uint8 [out, ceil(groups * bits / 8)]).
With a codebook there is also `w.codebook` (float32 [tables, 2**bits]). Other weights keep their name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from edgeq.core.artifact import FileEntry
from edgeq.core.model import ModelInfo
from edgeq.core.recipe import Plan
from edgeq.core.records import from_plain
from edgeq.core.scheme import Scheme
from edgeq.errors import CorruptInputError, SourceNotFoundError, UsageError

STORE_SCHEMA = 1
DOCUMENT = "store.json"
PARTIAL = "partial.jsonl"
BLOCKS = "blocks"
SOURCE = "source"
DRAFT = "draft"
TRAINING = "training.pt"
"""Where a training was when it was last saved."""
REMEDY = "Delete the store and quantize again."


@dataclass(frozen=True, kw_only=True)
class TensorRecord:
    """One stored weight. shape: `[out, in]` where `scheme` is given, else the module's own. bytes: of codes, scales,
    zero points and codebook, or of the values. dtype: of a weight that is not quantized. digest: of one that is."""

    shape: tuple[int, ...]
    bytes: int
    scheme: Scheme | None = None
    dtype: str | None = None
    digest: str | None = None


@dataclass(frozen=True, kw_only=True)
class BlockRecord:
    """One safetensors file under the store, and what it holds."""

    file: FileEntry
    tensors: dict[str, TensorRecord]


@dataclass(frozen=True, kw_only=True)
class StoreDocument:
    """The whole of `store.json`. key: of the inputs that the store was made from."""

    schema: int
    edgeq_version: str
    key: str
    weights_digest: str
    info: ModelInfo
    plan: Plan
    blocks: tuple[BlockRecord, ...]
    source: tuple[FileEntry, ...]


def read_document(directory: Path) -> StoreDocument:
    """Read and check `store.json`. Raises SourceNotFoundError without one, CorruptInputError where it is not valid."""
    path = directory / DOCUMENT
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if (directory / PARTIAL).exists():
            raise SourceNotFoundError(
                f"The store {directory} is unfinished.", remedy="Run the command that writes it again; it continues."
            ) from None
        remedy = "Write one with `edgeq quantize`."
        raise SourceNotFoundError(f"There is no store at {directory}.", remedy=remedy) from None
    except (UnicodeDecodeError, NotADirectoryError) as error:
        raise CorruptInputError(f"{path} cannot be read: {error}.", remedy=REMEDY) from error
    try:
        data = json.loads(text)
    except ValueError as error:
        raise CorruptInputError(f"{path} is not JSON: {error}.", remedy=REMEDY) from error
    if isinstance(data, dict) and data.get("schema") != STORE_SCHEMA:
        raise CorruptInputError(f"{path} has schema {data.get('schema')!r}, not {STORE_SCHEMA}.", remedy=REMEDY)
    try:
        return from_plain(StoreDocument, data, str(path))
    except UsageError as error:  # a scheme that no kernel has
        raise CorruptInputError(f"{path}: {error.what}", remedy=REMEDY) from error
