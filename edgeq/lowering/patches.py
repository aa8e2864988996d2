"""Temporary substitutions that make a transformers model emit whole operators instead of their pieces.

No list of architectures: a substitution is made where a probe with random numbers shows that it computes the same.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MethodType, ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edgeq.lowering import operators

STATIC_ROPE_TYPES = ("default", "linear", "llama3", "yarn")
EPSILON_NAMES = ("variance_epsilon", "eps", "epsilon")
Table = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


@dataclass
class Patches:
    """What was substituted: rotary tables `(cos, sin)`, each float32 `[context, size / 2]`."""

    tables: list[Table] = field(default_factory=list)
    undo: list[Callable[[], None]] = field(default_factory=list)


@contextmanager
def patched(module: nn.Module, context_length: int) -> Iterator[Patches]:
    """Substitute norms, rotary functions and rotary tables within the block, and restore them after it."""
    patches = Patches()
    try:
        _patch_linears(module, patches)
        _patch_norms(module, patches)
        if _patch_rotary_functions(module, patches):
            _patch_rotary_tables(module, context_length, patches)
        yield patches
    finally:
        for undo in patches.undo:
            undo()


def _substitute(part: nn.Module, forward: Callable[..., Any], patches: Patches) -> None:
    part.forward = MethodType(forward, part)
    patches.undo.append(lambda: delattr(part, "forward"))


def _patch_linears(module: nn.Module, patches: Patches) -> None:
    """`nn.Linear` keeps its meaning, but torch need not work out the shapes of what it is made of: half of the time."""

    def forward(self: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = operators.linear(x, self.weight, self.bias)
        return output

    for part in module.modules():
        if type(part).forward is nn.Linear.forward:
            _substitute(part, forward, patches)


def _patch_norms(module: nn.Module, patches: Patches) -> None:
    """`*RMSNorm` modules become one `rms_norm`, with weight w or 1 + w, whichever the probe shows."""
    known: dict[tuple[type, float, int], float | None] = {}
    for norm in module.modules():
        parameters = list(norm.parameters(recurse=False))
        eps = next((getattr(norm, name) for name in EPSILON_NAMES if hasattr(norm, name)), None)
        if "RMSNorm" not in type(norm).__name__ or len(parameters) != 1 or not isinstance(eps, float):
            continue
        key = (type(norm), eps, parameters[0].shape[0])
        if key not in known:
            known[key] = _norm_offset(norm, eps)
        offset = known[key]
        if offset is not None:
            _substitute(norm, _norm_forward(eps, offset), patches)


def _norm_forward(eps: float, offset: float) -> Callable[[nn.Module, torch.Tensor], torch.Tensor]:
    def forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        weight: torch.Tensor = self.weight if offset == 0 else self.weight + offset  # type: ignore[assignment,operator]
        output: torch.Tensor = operators.rms_norm(x, weight, eps)
        return output

    return forward


def _norm_offset(norm: nn.Module, eps: float) -> float | None:
    """0 where the module scales by its weight, 1 where by 1 + weight, None where it does something else."""
    probe = copy.copy(norm)
    width = next(norm.parameters(recurse=False)).shape[0]
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(width, generator=generator)
    probe._parameters = {"weight": nn.Parameter(weight, requires_grad=False)}
    x = torch.randn((2, 3, width), generator=generator)
    try:
        expected = probe(x)
    except (RuntimeError, TypeError, AttributeError):
        return None
    for offset in (0.0, 1.0):
        if torch.allclose(nn.functional.rms_norm(x, (width,), weight + offset, eps), expected, atol=1e-5):
            return offset
    return None


def _modeling_modules(module: nn.Module) -> list[ModuleType]:
    return [sys.modules[name] for name in sorted({type(part).__module__ for part in module.modules()})]


def rotate_half(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos[:, None] + torch.cat((-second, first), dim=-1) * sin[:, None]


def _patch_rotary_functions(module: nn.Module, patches: Patches) -> bool:
    """Replace `apply_rotary_pos_emb(q, k, cos, sin)` where it is the rotation of halves."""
    found = False
    for modeling in _modeling_modules(module):
        original = getattr(modeling, "apply_rotary_pos_emb", None)
        if original is None or not _is_rotation_of_halves(original):
            continue

        def substitute(
            q: torch.Tensor,
            k: torch.Tensor,
            cos: torch.Tensor,
            sin: torch.Tensor,
            unsqueeze_dim: int = 1,
            *,
            original: Callable[..., tuple[torch.Tensor, torch.Tensor]] = original,
        ) -> tuple[torch.Tensor, torch.Tensor]:
            if unsqueeze_dim != 1 or cos.dim() != 3 or cos.shape[-1] != q.shape[-1]:
                return original(q, k, cos, sin, unsqueeze_dim=unsqueeze_dim)
            return operators.rotary(q, cos, sin), operators.rotary(k, cos, sin)

        modeling.apply_rotary_pos_emb = substitute  # type: ignore[attr-defined]
        patches.undo.append(lambda m=modeling, f=original: setattr(m, "apply_rotary_pos_emb", f))  # type: ignore[misc]
        found = True
    return found


def _is_rotation_of_halves(function: Callable[..., Any]) -> bool:
    if list(inspect.signature(function).parameters)[:4] != ["q", "k", "cos", "sin"]:
        return False
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn((2, heads, 3, 8), generator=generator) for heads in (4, 2))
    angles = torch.randn((2, 3, 4), generator=generator).repeat(1, 1, 2)
    cos, sin = angles.cos(), angles.sin()
    try:
        rotated = function(q, k, cos, sin)
    except (RuntimeError, TypeError, ValueError):
        return False
    return all(torch.allclose(r, rotate_half(x, cos, sin), atol=1e-5) for r, x in zip(rotated, (q, k), strict=True))


def _patch_rotary_tables(module: nn.Module, context_length: int, patches: Patches) -> None:
    """Rotary modules whose angles depend on positions alone become look-ups in tables computed here."""
    for rotary in module.modules():
        parameters = list(inspect.signature(rotary.forward).parameters)
        names = parameters[:3] if "layer_type" in parameters else parameters[:2]
        has_frequencies = any("inv_freq" in name for name, _ in rotary.named_buffers(recurse=False))
        if not has_frequencies or names not in (["x", "position_ids"], ["x", "position_ids", "layer_type"]):
            continue
        layer_types = sorted(set(getattr(rotary.config, "layer_types", None) or [])) if len(names) == 3 else [None]
        tables = {layer_type: _rotary_table(rotary, context_length, layer_type) for layer_type in layer_types}
        if None in tables.values():
            continue
        indices = {}
        for layer_type, table in tables.items():
            indices[layer_type] = len(patches.tables)
            patches.tables.append(table)  # type: ignore[arg-type]
        _substitute(rotary, _table_forward(indices, patches.tables), patches)


def _table_forward(
    indices: dict[str | None, int], tables: list[Table]
) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    def forward(
        self: nn.Module, x: torch.Tensor, position_ids: torch.Tensor, layer_type: str | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        index = indices[layer_type]
        cos, sin = operators.rope_tables(position_ids, index, 2 * tables[index][0].shape[1])
        return cos, sin

    return forward


def _rotary_table(rotary: nn.Module, context_length: int, layer_type: str | None) -> Table | None:
    """Cosines and sines of all positions, or None where they depend on more than the position."""
    rope_types = _rope_types(rotary, layer_type)
    if not rope_types <= set(STATIC_ROPE_TYPES):
        return None
    positions = torch.arange(context_length)[None]
    arguments = (positions,) if layer_type is None else (positions, layer_type)
    cos, sin = (part[0] for part in rotary(torch.zeros(1), *arguments))
    half = cos.shape[-1] // 2
    if not (torch.equal(cos[:, :half], cos[:, half:]) and torch.equal(sin[:, :half], sin[:, half:])):
        return None
    return cos[:, :half].numpy().copy(), sin[:, :half].numpy().copy()


def _rope_types(rotary: nn.Module, layer_type: str | None) -> set[str]:
    rope_type = getattr(rotary, "rope_type", None)
    if isinstance(rope_type, dict):
        return {str(rope_type.get(layer_type, "unknown"))}
    return {str(rope_type)}
