"""From an exported program to the bytes of a `.pte`: partitioned for XNNPACK, checked, planned, serialized."""

from __future__ import annotations

import traceback
from typing import Any

import torch
from torch.export import ExportedProgram

from edgeq.core.artifact import Interface
from edgeq.errors import UnsupportedModelError
from edgeq.lowering.executorch.checks import check, weight_bytes
from edgeq.lowering.executorch.partitions import partitioner
from edgeq.lowering.executorch.retracing import unchanged_graphs_kept
from edgeq.lowering.quiet import quiet_torch


def to_pte(program: ExportedProgram, interface: Interface, longest: int) -> bytes:
    """The file's bytes. longest: the most tokens of one call.

    The newer to_edge_transform_and_lower traces the whole program three times to decompose it, each time seconds per
    layer, as it asks the partitioner about every product; here those that must stay whole are known beforehand.

    Raises UnsupportedModelError where ExecuTorch cannot lower the program, or did not keep its weights packed.
    """
    import executorch.kernels.quantized  # noqa: F401 - registers the quantized embeddings
    from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge

    largest = weight_bytes(program)
    try:
        with quiet_torch(), unchanged_graphs_kept():
            edge = to_edge(
                {"forward": program},
                compile_config=EdgeCompileConfig(_check_ir_validity=False, preserve_ops=products()),
                constant_methods=metadata(interface, longest) or None,
            ).to_backend(partitioner())
            lowered = edge.to_executorch(ExecutorchBackendConfig(do_quant_fusion_and_const_prop=True))
    except MemoryError:
        raise
    except Exception as error:  # ExecuTorch has no common error type
        if is_raised_by_edgeq(error):
            raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UnsupportedModelError(
            f"ExecuTorch cannot lower the model ({reason}).",
            remedy="Use --format onnx for it, or report the architecture.",
        ) from error
    pte: bytes = lowered.buffer
    check(pte, largest)
    return pte


def is_raised_by_edgeq(error: BaseException) -> bool:
    """Whether it comes from our own code, not from what that calls: then it is a defect, and no verdict on a model."""
    *_, (innermost, _) = traceback.walk_tb(error.__traceback__)
    return str(innermost.f_globals.get("__name__", "")).startswith("edgeq.")


def products() -> list[Any]:
    """The operators that XNNPACK takes whole, with quantized weights and activations."""
    import torchao.quantization  # noqa: F401 - registers its operators

    quantizing = ("choose_qparams_affine", "quantize_affine", "dequantize_affine")
    return [torch.ops.aten.linear.default, *(getattr(torch.ops.torchao, name).default for name in quantizing)]


def metadata(interface: Interface, longest: int) -> dict[str, Any]:
    """What ExecuTorch's own text runners ask a program for; nothing for encoders."""
    if interface.task != "text-generation":
        return {}
    begin = {} if interface.begin_of_text_id is None else {"get_bos_id": interface.begin_of_text_id}
    return {
        "get_max_seq_len": longest,
        "get_max_context_len": interface.context_length,
        "get_vocab_size": interface.vocabulary,
        "use_kv_cache": True,
        "use_sdpa_with_kv_cache": True,
        "enable_dynamic_shape": True,
        "get_eos_ids": list(interface.end_of_text_ids),
        **begin,
    }
