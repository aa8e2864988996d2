"""llama.cpp's own quantizers with an importance matrix, tensor by tensor, read back by gguf. Runs in its environment.

`llama-quantize` calls the same function for every tensor; its recipes, which mix types, are left out: one type is one
size. Rows that a type cannot hold are refused, where llama.cpp would take a larger type.
"""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.quality_job import (
    Inputs,
    Job,
    Matrix,
    Quantized,
    RefusalError,
    Stopwatch,
    float_matrices,
    load_float,
    restore,
    serve,
)

if TYPE_CHECKING:
    import gguf
    import numpy as np
    import numpy.typing as npt
    import torch
    from torch import nn
    from transformers import PreTrainedModel

Floats = ctypes.POINTER(ctypes.c_float)


def open_library() -> ctypes.CDLL:
    """ggml's base library with the types of the two functions that are called."""
    spec = importlib.util.find_spec("llama_cpp")
    assert spec is not None
    assert spec.origin is not None
    library = ctypes.CDLL(str(Path(spec.origin).parent / "lib" / "libggml-base.so"))
    library.ggml_quantize_init.argtypes = [ctypes.c_int]
    library.ggml_quantize_init.restype = None
    sizes = [ctypes.c_int64] * 3
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, Floats, ctypes.c_void_p, *sizes, Floats]
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    return library


def importance(module: PreTrainedModel, inputs: Inputs) -> dict[str, torch.Tensor]:
    """llama-imatrix's statistic: the mean square of every input of every linear over the calibration tokens."""
    import torch

    sums: dict[str, torch.Tensor] = {}
    hooks = []
    for name, part in module.named_modules():
        weight = f"{name}.weight"
        if weight in inputs.matrices and not inputs.matrices[weight].embedding:

            def add(_: nn.Module, given: tuple[torch.Tensor, ...], weight: str = weight) -> None:
                squares = given[0].flatten(0, -2).square().sum(dim=0)
                sums[weight] = sums.get(weight, torch.zeros_like(squares)) + squares

            hooks.append(part.register_forward_pre_hook(add))
    with torch.inference_mode():
        for sequence in inputs.calibration:
            module(input_ids=torch.tensor([sequence]))
    for hook in hooks:
        hook.remove()
    tokens = sum(map(len, inputs.calibration))
    return {name: values / tokens for name, values in sums.items()}


def pack(
    library: ctypes.CDLL,
    kind: gguf.GGMLQuantizationType,
    matrix: Matrix,
    values: torch.Tensor,
    weights: torch.Tensor | None,
) -> npt.NDArray[np.uint8]:
    """A matrix in llama.cpp's own bytes, uint8 `[outputs, row bytes]`."""
    import gguf
    import numpy as np

    block, size = gguf.GGML_QUANT_SIZES[kind]
    packed = np.zeros((matrix.outputs, matrix.inputs // block * size), dtype=np.uint8)
    floats = np.ascontiguousarray(values.numpy(), dtype=np.float32)
    given = None if weights is None else np.ascontiguousarray(weights.numpy(), dtype=np.float32)
    written = library.ggml_quantize_chunk(
        kind.value,
        floats.ctypes.data_as(Floats),
        packed.ctypes.data_as(ctypes.c_void_p),
        0,
        matrix.outputs,
        matrix.inputs,
        None if given is None else given.ctypes.data_as(Floats),
    )
    assert written == packed.nbytes
    return packed


def quantize(job: Job, inputs: Inputs) -> Quantized:
    import gguf
    import torch

    kind = gguf.GGMLQuantizationType[str(job.options["type"])]
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    for name, matrix in inputs.matrices.items():
        if matrix.inputs % block:
            msg = f"{kind.name} has blocks of {block}, and {name} has {matrix.inputs} inputs"
            raise RefusalError(msg)
    library, watch = open_library(), Stopwatch()
    module, weights, stored = load_float(inputs), {}, 0
    with watch.running():
        library.ggml_quantize_init(kind.value)
        important = importance(module, inputs)
    for name, matrix, values in float_matrices(module, inputs):
        with watch.running():
            packed = pack(library, kind, matrix, values, important.get(name))
        stored += packed.nbytes
        weights[name] = restore(matrix, torch.from_numpy(gguf.quants.dequantize(packed, kind)))
    return Quantized(weights=weights, stored_bytes=stored, seconds=watch.seconds)


if __name__ == "__main__":
    serve(quantize)
