"""What each weight of a module is for, which repeated block owns it, and which names share one weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeq.core.recipe import Role

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class WeightRole:
    """`input_axis` is the axis that a linear contracts; `block` the index of the repeated block, or None."""

    role: Role
    input_axis: int = 1
    block: int | None = None


def weight_roles(module: PreTrainedModel) -> dict[str, WeightRole]:
    """The role of every parameter and persistent buffer, by the name under which `named_parameters` lists it.

    A table that serves as embedding and as head is listed once, as an embedding.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    roles: dict[int, WeightRole] = {}
    for part in module.modules():
        if isinstance(part, nn.Linear):
            roles[id(part.weight)] = WeightRole(role="linear")
        elif isinstance(part, Conv1D):
            roles[id(part.weight)] = WeightRole(role="linear", input_axis=0)
        elif isinstance(part, nn.Conv2d) and part.in_channels > part.groups:  # else depthwise: few weights, all exposed
            roles[id(part.weight)] = WeightRole(role="convolution")
    head = module.get_output_embeddings()  # type: ignore[no-untyped-call]
    if isinstance(head, nn.Linear):
        roles[id(head.weight)] = WeightRole(role="head")
    roles |= dict.fromkeys(_embedding_tables(module), WeightRole(role="embedding"))

    blocks = _blocks(module)
    named = {}
    for name, tensor in stored_tensors(module).items():
        found = roles.get(id(tensor), WeightRole(role="other"))
        named[name] = WeightRole(role=found.role, input_axis=found.input_axis, block=blocks.get(id(tensor)))
    return named


def stored_tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters, then persistent buffers: what a checkpoint must hold. A shared weight has its first name."""
    tensors: dict[str, torch.Tensor] = dict(module.named_parameters())
    persistent = module.state_dict(keep_vars=True)
    tensors.update((name, buffer) for name, buffer in module.named_buffers() if name in persistent)
    return tensors


def shared_names(module: torch.nn.Module) -> dict[str, str]:
    """Further names of shared weights, each mapped to the name in `stored_tensors`."""
    first = {id(tensor): name for name, tensor in stored_tensors(module).items()}
    every = module.state_dict(keep_vars=True)
    return {name: first[id(tensor)] for name, tensor in every.items() if first[id(tensor)] != name}


def _embedding_tables(module: PreTrainedModel) -> list[int]:
    """Ids of the word tables: the input embeddings, and others with as many rows (Gemma 3n's per-layer table).

    Tables of positions and token types stay out: small, and their error reaches every token.
    """
    from torch import nn

    if getattr(module, "main_input_name", "input_ids") != "input_ids":
        return []
    words = module.get_input_embeddings()
    if not isinstance(words, nn.Embedding):
        return []
    tables = [part for part in module.modules() if isinstance(part, nn.Embedding)]
    return [id(table.weight) for table in tables if table is words or table.num_embeddings == words.num_embeddings]


def _blocks(module: torch.nn.Module) -> dict[int, int]:
    """Index in the outermost ModuleList, by the id of the tensor."""
    from torch import nn

    blocks: dict[int, int] = {}
    for part in module.modules():  # parents come before their children, so the outermost list wins
        if isinstance(part, nn.ModuleList):
            for index, block in enumerate(part):
                for tensor in block.state_dict(keep_vars=True).values():
                    blocks.setdefault(id(tensor), index)
    return blocks
