"""Capture: a transformers model becomes one `torch.export` graph on fake tensors; no weight is ever loaded.

Attention goes through transformers' own interface, so every architecture that uses it yields one operator per layer.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from transformers.cache_utils import Cache
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from edgeq.core.model import ModelInfo
from edgeq.core.task import takes_pixels
from edgeq.errors import UnsupportedModelError
from edgeq.lowering import operators
from edgeq.lowering.patches import Table, patched
from edgeq.lowering.quiet import quiet_torch
from edgeq.models.architecture import build_module, parameters_on_meta
from edgeq.models.pooling import SentenceEmbedding
from edgeq.models.task_modules import task_module

IMPLEMENTATION = "edgeq"


@dataclass(frozen=True, kw_only=True)
class CapturedModel:
    """The graph and what it leaves implicit.

    Parameters, and buffers that a checkpoint holds, are placeholders, named by `weight_names` (placeholder -> name in
    the module); `constants` are the values of the other buffers, by placeholder. `tables` are the rotary tables that
    `rope_tables` nodes index.
    `plain` says that attention was not captured whole, but as the operations it is made of; a model without attention
    is never plain.
    """

    program: ExportedProgram
    weight_names: dict[str, str]
    constants: dict[str, torch.Tensor]
    tables: list[Table]
    plain: bool


@dataclass(frozen=True)
class _Example:
    """An input to trace with: its shape, and which of its axes are dynamic; None is all."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.int64
    dynamic: tuple[int, ...] | None = None


class _NeedsPlainCaptureError(Exception):
    """The model's attention is not what the whole-attention operator computes."""


class _PassThroughCache(Cache):
    """Hands new keys and values straight on: the past is an input of the attention operator."""

    def __init__(self, updated_layers: set[int], attention_mask: torch.Tensor, sequence: int, *, plain: bool) -> None:
        super().__init__(layers=[])
        self.updated_layers = updated_layers
        self.mask = attention_mask if plain else None
        self.past = attention_mask.shape[1] - sequence if plain else 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.updated_layers.add(layer_idx)
        if self.mask is None:
            return key_states, value_states
        key, value = operators.append_cache(key_states, value_states, self.mask, layer_idx)
        return key, value

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return self.past

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        return query_length if self.mask is None else self.mask.shape[1], 0


@contextmanager
def _attention_interface(attended_layers: set[int]) -> Iterator[None]:
    """Register `edgeq` as an attention implementation of transformers for the time of the capture."""

    def attend(
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        *,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        s_aux: torch.Tensor | None = None,
        is_causal: bool | None = None,
        position_bias: torch.Tensor | None = None,
        **_: object,
    ) -> tuple[torch.Tensor, None]:
        other_values = value.shape[1] != key.shape[1] or value.shape[3] != query.shape[3]  # kernels want one head size
        if attention_mask is not None or position_bias is not None or other_values:
            raise _NeedsPlainCaptureError
        layer = getattr(module, "layer_idx", None)
        layer = len(attended_layers) if layer is None else layer
        if layer in attended_layers:  # its cache would have to serve two attentions
            raise _NeedsPlainCaptureError
        attended_layers.add(layer)
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        if sliding_window and not causal:
            raise _NeedsPlainCaptureError
        scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
        output = operators.attention(
            query, key, value, s_aux, layer, scale, sliding_window or 0, softcap or 0.0, bool(causal)
        )
        return output, None

    def mask(use_vmap: bool = False, config: Any = None, **_: object) -> None:  # noqa: ANN401
        if use_vmap or getattr(config, "attention_chunk_size", None):
            raise _NeedsPlainCaptureError

    ALL_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, attend)
    ALL_MASK_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, mask)
    try:
        yield
    finally:
        del ALL_ATTENTION_FUNCTIONS._global_mapping[IMPLEMENTATION]
        del ALL_MASK_ATTENTION_FUNCTIONS._global_mapping[IMPLEMENTATION]


class _LanguageModel(nn.Module):
    """Token ids to the logits of the positions in `kept_positions`."""

    def __init__(self, model: nn.Module, updated_layers: set[int], *, plain: bool) -> None:
        super().__init__()
        self.model, self.updated_layers, self.plain = model, updated_layers, plain
        self.accepted = set(inspect.signature(model.forward).parameters)
        if "past_key_values" not in self.accepted:
            raise UnsupportedModelError(
                f"{type(model).__name__} keeps no key-value cache, and text is generated with one.",
                remedy="Use a model that attends to a cache.",
            )

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        kept_positions: torch.Tensor,
    ) -> torch.Tensor:
        cache = _PassThroughCache(self.updated_layers, attention_mask, input_ids.shape[1], plain=self.plain)
        arguments: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": True}
        arguments |= {"past_key_values": cache, "position_ids": position_ids, "logits_to_keep": kept_positions}
        output = self.model(**{name: value for name, value in arguments.items() if name in self.accepted})
        logits: torch.Tensor = output.logits
        return logits if "logits_to_keep" in self.accepted else logits[:, kept_positions]


class _SentenceAndTokens(SentenceEmbedding):
    """The sentence embedding, and the token vectors that it was pooled from."""

    def forward(  # type: ignore[override]
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.token_vectors(input_ids, attention_mask, token_type_ids)
        return self.embedding(hidden, attention_mask), hidden


def capture(info: ModelInfo, directory: Path, context_length: int, *, token_vectors: bool = False) -> CapturedModel:
    """Trace the model in `directory` for its task. With `token_vectors`, an encoder that pools gives those as well.

    Raises UnsupportedModelError where torch cannot trace it.
    """
    try:
        return _capture(info, directory, context_length, plain=False, token_vectors=token_vectors)
    except (_NeedsPlainCaptureError, UnsupportedModelError):
        return _capture(info, directory, context_length, plain=True, token_vectors=token_vectors)


def _capture(
    info: ModelInfo, directory: Path, context_length: int, *, plain: bool, token_vectors: bool
) -> CapturedModel:
    attended_layers: set[int] = set()
    updated_layers: set[int] = set()
    images = takes_pixels(info.task)
    with _attention_interface(attended_layers), torch.no_grad():
        with parameters_on_meta():
            implementation = None if plain else IMPLEMENTATION
            model = build_module(directory, info.task, device="cpu", attn_implementation=implementation)
        with patched(model, context_length) as patches:
            buffers = {name: buffer for name, buffer in model.named_buffers() if buffer is not None}
            wrapper, inputs = _wrapped(info, model, updated_layers, plain=plain, token_vectors=token_vectors)
            fake_mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
            program = _export(wrapper, inputs, fake_mode)
    cached = updated_layers if info.task == "text-generation" else attended_layers
    if not plain and not images and (not attended_layers or cached != attended_layers):
        raise _NeedsPlainCaptureError
    signature = program.graph_signature
    read = {placeholder: name.removeprefix("model.") for placeholder, name in signature.inputs_to_buffers.items()}
    # what a checkpoint holds of a buffer is in the store: the statistics of a batch norm
    stored = {p: name for p, name in read.items() if name in info.weights and buffers[name].is_floating_point()}
    constants = {placeholder: buffers[name] for placeholder, name in read.items() if placeholder not in stored}
    constants |= {p: program.constants[name] for p, name in signature.inputs_to_lifted_tensor_constants.items()}
    weight_names = {p: name.removeprefix("model.") for p, name in signature.inputs_to_parameters.items()}
    return CapturedModel(
        program=program, weight_names=weight_names | stored, constants=constants, tables=patches.tables, plain=plain
    )


def _wrapped(
    info: ModelInfo, model: nn.Module, updated_layers: set[int], *, plain: bool, token_vectors: bool
) -> tuple[nn.Module, dict[str, _Example]]:
    """The module to trace, and its inputs by name."""
    wrapper = task_module(info.task, model, info.pooling, info.normalize)
    if wrapper is None:
        inputs = {"input_ids": _Example((2, 8)), "attention_mask": _Example((2, 16)), "position_ids": _Example((2, 8))}
        return _LanguageModel(model, updated_layers, plain=plain), inputs | {"kept_positions": _Example((5,))}
    if info.image is not None:
        shape = (2, info.image.channels, info.image.height, info.image.width)
        return wrapper, {"pixel_values": _Example(shape, torch.float32, dynamic=(0,))}
    if token_vectors and info.pooling != "none":
        wrapper = _SentenceAndTokens(model, info.pooling, info.normalize)
    accepted = inspect.signature(model.forward).parameters
    names = ["input_ids", "attention_mask"] + (["token_type_ids"] if "token_type_ids" in accepted else [])
    return wrapper, dict.fromkeys(names, _Example((2, 8)))


def _export(wrapper: nn.Module, inputs: dict[str, _Example], fake_mode: FakeTensorMode) -> ExportedProgram:
    with fake_mode:
        for part in wrapper.modules():
            for name, parameter in part._parameters.items():
                if parameter is not None:
                    fake = torch.empty(parameter.shape, dtype=parameter.dtype)
                    part._parameters[name] = nn.Parameter(fake, requires_grad=False)
        examples = tuple(torch.ones(one.shape, dtype=one.dtype) for one in inputs.values())
    dynamic = tuple(
        dict.fromkeys(range(len(one.shape)) if one.dynamic is None else one.dynamic, Dim.DYNAMIC)
        for one in inputs.values()
    )
    try:
        with quiet_torch():
            return torch.export.export(wrapper, examples, dynamic_shapes=dynamic, strict=False)
    except _NeedsPlainCaptureError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UnsupportedModelError(
            f"torch could not trace {type(wrapper).__name__} ({reason[:200]}).",
            remedy="Report the architecture; it runs code that depends on the values of its inputs.",
        ) from error
