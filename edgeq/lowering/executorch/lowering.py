"""A quantized model becomes `model.pte` for ExecuTorch's XNNPACK backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from edgeq.core.artifact import Artifact, Interface, container_notes
from edgeq.core.target import TargetProfile
from edgeq.errors import RuntimeUnavailableError, UnsupportedModelError
from edgeq.files import write_bytes_atomic
from edgeq.lowering import operators
from edgeq.lowering.capture import CapturedModel, capture
from edgeq.lowering.executorch.activations import split_where_needed
from edgeq.lowering.executorch.kernels import ExecuTorchKernels
from edgeq.lowering.interface import special_tokens, vocabulary
from edgeq.lowering.quiet import quiet_torch
from edgeq.lowering.stateful import Replay, dense_weights, quantized_uses
from edgeq.models.evaluation import evaluation_inputs
from edgeq.progress import Progress
from edgeq.runtimes.executorch import planned_memory, unheard
from edgeq.store import QuantizedModel

MODEL_FILE = "model.pte"
PREFILL_TOKENS = 256
"""The longest chunk of a prompt: the planned arena holds the activations of the longest input, whatever is run."""
PROBES = {"feature-extraction": 6, "text-generation": 2}
LONGEST_PROBE = 64
"""Texts, and tokens of each, on which the rounding of activations is measured before lowering."""

ACTIVATIONS_NOTE = (
    "XNNPACK rounds activations to 8 bits per token: there is no kernel for quantized weights that does not"
)


class LanguageModel(nn.Module):
    """Token ids `[1, S]` and their positions `[S]`, int64, to the logits float32 `[1, 1, vocabulary]` of the last."""

    def __init__(self, replay: Replay) -> None:
        super().__init__()
        self.replay = replay

    def forward(self, tokens: torch.Tensor, input_pos: torch.Tensor) -> torch.Tensor:
        last = input_pos[-1:] - input_pos[:1]
        inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        return self.replay.run(inputs | {"position_ids": input_pos[None], "kept_positions": last})


class Encoder(nn.Module):
    """Ids and mask `[1, S]`, int64, to what the captured encoder returns."""

    def __init__(self, replay: Replay, names: tuple[str, ...]) -> None:
        super().__init__()
        self.replay, self.names = replay, names

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        return self.replay.run(dict(zip(self.names, values, strict=True)))


def lower(store: QuantizedModel, target: TargetProfile, directory: Path, progress: Progress) -> Artifact:
    """Write `model.pte` into `directory`.

    Raises UnsupportedModelError where the model cannot be traced or XNNPACK cannot hold its weights,
    RuntimeUnavailableError where ExecuTorch is not installed, OutputError where the disk is full.
    """
    _check_installed()
    context_length = min(store.info.context_length or target.context_length, target.context_length)
    progress.stage("capturing the graph")
    module, names, kernels = build(store, context_length)
    progress.stage("lowering to ExecuTorch")
    program = _export(module, names, context_length)
    interface = _interface(store, kernels, names, context_length)
    from edgeq.lowering.executorch.backend import to_pte

    pte = to_pte(program, interface, min(PREFILL_TOKENS, context_length - 1))
    progress.stage("writing the weights")
    write_bytes_atomic(directory / MODEL_FILE, pte)
    from edgeq.lowering.executorch.placement import place

    weights = place(pte, store, kernels)
    return Artifact(
        format="executorch",
        directory=directory,
        entry=MODEL_FILE,
        files=(MODEL_FILE,),
        interface=interface,
        weights_digest=store.weights_digest,
        weights=weights,
        notes=(
            ACTIVATIONS_NOTE,
            *_split_notes(kernels),
            *_memory_notes(directory / MODEL_FILE, kernels),
            *container_notes(weights, "ExecuTorch's kernels"),
        ),
    )


def build(store: QuantizedModel, context_length: int) -> tuple[nn.Module, tuple[str, ...], ExecuTorchKernels]:
    """The module to export, the names of its inputs and its kernels. It runs eagerly too, with XNNPACK's arithmetic:
    what a `.pte` is to be compared with. Raises UnsupportedModelError."""
    captured = capture(store.info, store.source_directory, context_length)
    _refuse_dense(captured, store)
    kernels = prepare(captured, store, context_length)
    module, names = _module(captured, store, kernels)
    probes = [torch.tensor([ids[:LONGEST_PROBE]]) for ids in evaluation_inputs(store.source_directory, store.info)]
    chosen = probes[:: -(-len(probes) // PROBES[store.info.task])]
    with unheard():  # attention over the cache notes on stderr at each call that it has no allocator of a runtime
        split_where_needed(kernels, lambda: _outputs(module, chosen))
    return module, names, kernels


def _outputs(module: nn.Module, probes: list[torch.Tensor]) -> torch.Tensor:
    """What the model says about each of `probes` `[1, S]`, flat; a language model about the last token."""
    with torch.no_grad():
        if isinstance(module, LanguageModel):
            return torch.cat([module(ids, torch.arange(ids.shape[1])).flatten() for ids in probes])
        assert isinstance(module, Encoder)  # noqa: S101 - there are these two
        return torch.cat([module(*_inputs(module.names, ids)).flatten() for ids in probes])


def _inputs(names: tuple[str, ...], ids: torch.Tensor) -> list[torch.Tensor]:
    """An encoder's inputs for one whole sentence of one type."""
    values = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    return [values[name] for name in names]


def prepare(captured: CapturedModel, store: QuantizedModel, context_length: int) -> ExecuTorchKernels:
    """Kernels with every weight and cache that the graph asks for."""
    kernels = ExecuTorchKernels(store, context_length)
    for node, name in quantized_uses(captured, store).items():
        if node.target is torch.ops.aten.embedding.default:
            kernels.add_table(name)
        else:
            kernels.add_linear(name)
    for node in captured.program.graph.nodes:
        if node.target is operators.attention and store.info.task == "text-generation":
            arguments: Any = node.args
            _, heads, _, key_size = arguments[1].meta["val"].shape
            kernels.add_cache(arguments[4], heads, key_size, arguments[2].meta["val"].shape[3])
    return kernels


def _module(
    captured: CapturedModel, store: QuantizedModel, kernels: ExecuTorchKernels
) -> tuple[nn.Module, tuple[str, ...]]:
    replay = Replay(captured, store, kernels, kernels.add_functions(captured.program.graph))
    if store.info.task == "text-generation":
        return LanguageModel(replay).eval(), ("tokens", "input_pos")
    names = tuple(str(name) for name in captured.program.graph_signature.user_inputs)
    return Encoder(replay, names).eval(), names


def _export(module: nn.Module, names: tuple[str, ...], context_length: int) -> ExportedProgram:
    is_language_model = isinstance(module, LanguageModel)
    longest = min(PREFILL_TOKENS, context_length - 1) if is_language_model else context_length
    sequence = Dim("sequence", max=longest)
    if is_language_model:
        examples: tuple[torch.Tensor, ...] = (torch.ones((1, 3), dtype=torch.long), torch.arange(3))
        dynamic: Any = ({1: sequence}, {0: sequence})
    else:
        examples = tuple(torch.ones((1, 7), dtype=torch.long) for _ in names)
        dynamic = (tuple({1: sequence} for _ in names),)
    try:
        with torch.no_grad(), quiet_torch():
            return torch.export.export(module, examples, dynamic_shapes=dynamic, strict=False)
    except UnsupportedModelError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UnsupportedModelError(
            f"torch could not trace the model with ExecuTorch's cache ({reason[:200]}).",
            remedy="Use --format onnx for it, or report the architecture.",
        ) from error


def _interface(
    store: QuantizedModel, kernels: ExecuTorchKernels, names: tuple[str, ...], context_length: int
) -> Interface:
    info = store.info
    end, begin = special_tokens(store.source_directory)
    encoder_output = "last_hidden_state" if info.pooling == "none" else "sentence_embedding"
    return Interface(
        task=info.task,
        inputs=names,
        outputs=("logits" if info.task == "text-generation" else encoder_output,),
        vocabulary=vocabulary(info),
        context_length=context_length,
        cache=tuple(kernels.cache_shapes[layer] for layer in sorted(kernels.cache_shapes)),
        end_of_text_ids=end,
        begin_of_text_id=begin,
        pooling=info.pooling,
        normalize=info.normalize,
    )


def _split_notes(kernels: ExecuTorchKernels) -> tuple[str, ...]:
    split = sum(linear.activations == "split" for linear in kernels.quantized_linears().values())
    if not split:
        return ()
    return (f"{split} of {len(kernels.linears)} linears multiply what sticks out of their activations separately",)


def _memory_notes(model_path: Path, kernels: ExecuTorchKernels) -> tuple[str, ...]:
    """What the cache takes of the memory that the program plans for its whole context, whatever is used of it."""
    caches = sum(buffer.nbytes for name, buffer in kernels.named_buffers() if "_cache_" in name)
    if not caches:
        return ()
    arena = planned_memory(model_path).arena_bytes
    return (
        f"{caches / 2**20:.1f} MiB of the {arena / 2**20:.1f} MiB that the program plans are the float32 cache of "
        f"{kernels.context_length} positions",
    )


def _refuse_dense(captured: CapturedModel, store: QuantizedModel) -> None:
    dense = sorted(dense_weights(captured, store))
    if dense:
        raise UnsupportedModelError(
            f"{dense[0]} is used otherwise than as the weight of a linear or an embedding.",
            remedy="Keep it at 16 bits with a rule for its name.",
        )


def _check_installed() -> None:
    try:
        import executorch.exir  # noqa: F401
        import torchao  # noqa: F401
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"ExecuTorch cannot be imported ({error}).", remedy="Install it: pip install 'edgeq[executorch]'."
        ) from error
