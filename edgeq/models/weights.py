"""From a checkpoint's tensor names to the module's, by transformers' own renaming rules."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import ml_dtypes
import numpy as np
import numpy.typing as npt

from edgeq.core.model import Task
from edgeq.errors import CorruptInputError
from edgeq.models.architecture import load_module
from edgeq.models.checkpoint import DTYPES, Checkpoint
from edgeq.models.roles import shared_names, stored_tensors

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

MANY = 5
"""How many names an error message lists."""


class Weights(Protocol):
    """Weights by the module's names. `describe` gives shape and dtype (safetensors' spelling) without reading."""

    def describe(self, name: str) -> tuple[tuple[int, ...], str]: ...

    def read(self, name: str) -> npt.NDArray[Any]: ...


@dataclass(frozen=True, kw_only=True)
class MappedWeights:
    """Read lazily from the checkpoint; `names` maps the module's names to the checkpoint's."""

    checkpoint: Checkpoint
    names: dict[str, str]

    def describe(self, name: str) -> tuple[tuple[int, ...], str]:
        stored = self.checkpoint.tensors[self.names[name]]
        return stored.shape, stored.dtype

    def read(self, name: str) -> npt.NDArray[Any]:
        return self.checkpoint.read(self.names[name])


@dataclass(frozen=True, kw_only=True)
class LoadedWeights:
    """The whole model in memory, as transformers converts it."""

    tensors: dict[str, torch.Tensor]

    def describe(self, name: str) -> tuple[tuple[int, ...], str]:
        values = self.read(name)
        spelling = next(spelling for spelling, dtype in DTYPES.items() if np.dtype(dtype) == values.dtype)
        return values.shape, spelling

    def read(self, name: str) -> npt.NDArray[Any]:
        import torch

        tensor = self.tensors[name].detach()
        if tensor.dtype == torch.bfloat16:
            return np.asarray(tensor.view(torch.int16).numpy()).view(ml_dtypes.bfloat16)
        return np.asarray(tensor.numpy())


def find_weights(
    directory: Path, task: Task, module: PreTrainedModel, checkpoint: Checkpoint
) -> tuple[Weights, tuple[str, ...]]:
    """The weights of `module` (on the meta device), and notes for the report.

    Where transformers converts tensors instead of renaming them (fused experts, split attention), the whole model is
    loaded once. Raises CorruptInputError for weights that are missing or of another shape: nothing is initialised.
    """
    found, converted = checkpoint_names(module, checkpoint.tensors)
    if converted:
        return _load_whole(directory, task, module)
    shared = shared_names(module)
    _refuse_different_copies(shared, found, checkpoint)
    names = {name: source for copy, name in shared.items() if (source := found.get(copy))} | found
    missing = [name for name in stored_tensors(module) if name not in names]
    if any(re.search(pattern, name) for pattern in module._keys_to_ignore_on_load_missing or () for name in missing):
        return _load_whole(directory, task, module)
    _refuse_missing(directory, missing)
    weights = MappedWeights(checkpoint=checkpoint, names=names)
    _check_shapes(module, weights)
    unused = sorted(set(checkpoint.tensors) - set(found.values()))
    return weights, ((f"The task does not use {_listed(unused)}.",) if unused else ())


def checkpoint_names(module: PreTrainedModel, tensors: Iterable[str]) -> tuple[dict[str, str], bool]:
    """`(module name -> checkpoint name, whether transformers converts any tensor instead of renaming it)`.

    Names as in the module's state_dict, so a shared weight can appear under each of its names.
    """
    wanted = module.state_dict()
    sources = tuple(tensors)
    if all(source in wanted for source in sources):
        return dict(zip(sources, sources, strict=True)), False
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    rules = get_model_conversion_mapping(module)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    found: dict[str, str] = {}
    for source in sorted(sources, key=dot_natural_key):
        name, pattern = rename_source_key(source, renamings, converters, module.base_model_prefix, wanted)
        if name not in wanted and source in wanted:
            name, pattern = rename_source_key(source, [], [], module.base_model_prefix, wanted)
        if name in wanted and pattern is not None:
            return {}, True
        if name in wanted:
            found.setdefault(name, source)
    return found, False


def _refuse_different_copies(shared: dict[str, str], found: dict[str, str], checkpoint: Checkpoint) -> None:
    """transformers would untie such copies; the module that is lowered could not."""
    for copy, name in shared.items():
        if copy not in found or name not in found or found[copy] == found[name]:
            continue
        values, repeated = checkpoint.read(found[name]), checkpoint.read(found[copy])
        if values.dtype != repeated.dtype or not np.array_equal(values.view(np.uint8), repeated.view(np.uint8)):
            raise CorruptInputError(
                f"config.json ties {copy} to {name}, but the checkpoint holds different values for them.",
                remedy='Set "tie_word_embeddings": false in config.json.',
            )


def _check_shapes(module: PreTrainedModel, weights: Weights) -> None:
    for name, tensor in stored_tensors(module).items():
        shape, _ = weights.describe(name)
        if shape != tuple(tensor.shape):
            raise CorruptInputError(
                f"{name} has the shape {shape}, but config.json asks for {tuple(tensor.shape)}.",
                remedy="Use the config.json that belongs to these weights.",
            )


def _load_whole(directory: Path, task: Task, module: PreTrainedModel) -> tuple[Weights, tuple[str, ...]]:
    loaded, missing = load_module(directory, task, dtype="auto")
    _refuse_missing(directory, list(missing))
    weights = LoadedWeights(tensors=stored_tensors(loaded))
    _check_shapes(module, weights)
    note = "transformers converts this checkpoint while it loads, so the whole float model was held in memory."
    return weights, (note,)


def _refuse_missing(directory: Path, missing: list[str]) -> None:
    if missing:
        raise CorruptInputError(
            f"{directory} lacks weights that its config.json asks for: {_listed(missing)}.",
            remedy="Download the model again; edgeq never fills a gap with random numbers.",
        )


def _listed(names: list[str]) -> str:
    rest = f" and {len(names) - MANY} more" if len(names) > MANY else ""
    return ", ".join(names[:MANY]) + rest
