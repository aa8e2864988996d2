"""A model's structure from its config.json alone, for questions about size that need no weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeq.core.model import ModelInfo, Task, WeightInfo
from edgeq.core.task import takes_pixels
from edgeq.models.architecture import build_module, context_length, detect_task, read_config
from edgeq.models.checkpoint import INDEX_FILE, PICKLE_SUFFIXES, SINGLE_FILE
from edgeq.models.identity import licence, revision
from edgeq.models.preprocessing import read_image_input
from edgeq.models.roles import shared_names, stored_tensors, weight_roles

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Cache = tuple[tuple[int, int], ...]
"""`(key-value heads, head size)` per layer; empty for encoders."""


@dataclass(frozen=True, kw_only=True)
class Structure:
    """Names, shapes and roles of the weights as the configuration gives them, and the key-value cache."""

    info: ModelInfo
    cache: Cache


def has_weights(directory: Path) -> bool:
    """Whether a directory holds weights of any kind, pickles included."""
    if (directory / SINGLE_FILE).exists() or (directory / INDEX_FILE).exists():
        return True
    return any(path.suffix in PICKLE_SUFFIXES for path in directory.iterdir())


def read_structure(directory: Path, label: str, task: Task | None = None) -> Structure:
    """Build the module on the meta device, where a model of any size takes no memory.

    Raises what reading a configuration raises: SourceNotFoundError, UnsupportedModelError, CorruptInputError.
    """
    config = read_config(directory)
    task = task or detect_task(directory)
    module = build_module(directory, task)
    tensors = stored_tensors(module)
    weights = {
        name: WeightInfo(
            name=name,
            shape=tuple(tensors[name].shape),
            dtype="F32" if tensors[name].is_floating_point() else "I64",
            role=role.role,
            input_axis=role.input_axis,
            block=role.block,
        )
        for name, role in weight_roles(module).items()
    }
    info = ModelInfo(
        source=label,
        revision=revision(directory, ()),
        task=task,
        architecture=type(module).__name__,
        model_type=config.model_type,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        weights=weights,
        tied=shared_names(module),
        licence=licence(directory),
        context_length=context_length(config),
        image=read_image_input(directory, config)[0] if takes_pixels(task) else None,
    )
    return Structure(info=info, cache=cache_of(config) if task == "text-generation" else ())


def cache_of(config: PreTrainedConfig) -> Cache:
    """Heads and head sizes of the key-value cache, all layers alike, as configurations of causal models give them."""
    text = config.get_text_config()
    heads = _first(text, "num_attention_heads", "n_head", "num_heads") or 1
    size = _first(text, "head_dim") or (_first(text, "hidden_size", "n_embd", "d_model") or 0) // heads
    shared = heads
    if getattr(text, "multi_query", False) and not getattr(text, "new_decoder_architecture", False):
        shared = 1
    layers = _first(text, "num_hidden_layers", "n_layer", "num_layers") or 0
    return ((_first(text, "num_key_value_heads", "num_kv_heads") or shared, size),) * layers


def _first(config: Any, *names: str) -> int | None:  # noqa: ANN401 - transformers' configurations share no type for it
    """The first of these attributes that is a positive number."""
    values = (getattr(config, name, None) for name in names)
    return next((value for value in values if isinstance(value, int) and value > 0), None)
