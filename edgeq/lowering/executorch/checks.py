"""What a finished `.pte` must be before anybody runs it: weights no larger than packed, and operators that devices have.

ExecuTorch reports neither: a weight that a pass expanded to float32 is only a larger file, and an operator that nobody
registered fails when the app loads the program.
"""

from __future__ import annotations

from typing import Any

import torch

from edgeq.core.tensor import QuantizedTensor
from edgeq.errors import UnsupportedModelError
from edgeq.lowering.executorch.carriers import padded
from edgeq.lowering.executorch.kernels import ExecuTorchKernels, key
from edgeq.lowering.stateful import Replay, quantized_weight

BACKEND = "XnnpackBackend"
SLACK_BYTES = 64 << 10
DELEGATE_BYTES = 8 << 10
"""What one delegate's graph may take: measured 0.5 to 3 kB."""
EXPANDING = ("dequantize", "quantize_", "choose_qparams", "torchao::")
"""Parts of operator names that say that quantized weights or activations were left for slow kernels to expand."""
REMEDY = "Use --format onnx for it, and report this: a pass of ExecuTorch changed what it was given."
Program = Any
"""What `deserialize_pte_binary` returns; ExecuTorch has no types."""


def check(pte: bytes, largest: int) -> None:
    """Raises UnsupportedModelError where the weights take more than `largest` bytes and the graphs' share, where an
    operator has no kernel in the runtimes that ship, or where another backend than XNNPACK took a part."""
    from executorch.exir._serialize._program import deserialize_pte_binary

    file = deserialize_pte_binary(pte)
    check_operators(file)
    check_size(file, largest)


def check_operators(file: Program) -> None:
    """Every operator has a kernel, and none expands quantized weights. Raises UnsupportedModelError."""
    known = _registered()
    for plan in file.program.execution_plan:
        for operator in plan.operators:
            name = f"{operator.name}.{operator.overload}" if operator.overload else operator.name
            if any(part in name for part in EXPANDING):
                raise UnsupportedModelError(f"XNNPACK did not take a quantized product ({name} is left).", remedy=REMEDY)
            if name not in known:
                raise UnsupportedModelError(f"ExecuTorch's runtime has no kernel for {name}.", remedy=REMEDY)
        for delegate in plan.delegates:
            if delegate.id != BACKEND:
                raise UnsupportedModelError(f"A part went to {delegate.id} instead of {BACKEND}.", remedy=REMEDY)


def check_size(file: Program, largest: int) -> None:
    """Constants, named data and delegates together. Raises UnsupportedModelError."""
    program = file.program
    delegates = [len(delegate.data) for delegate in program.backend_delegate_data]
    constants = sum(len(buffer.storage) for buffer in program.constant_buffer)
    named = 0 if file.named_data is None else sum(len(buffer) for buffer in file.named_data.buffers)
    found, allowed = constants + named + sum(delegates), largest + SLACK_BYTES + DELEGATE_BYTES * len(delegates)
    if found > allowed:
        raise UnsupportedModelError(
            f"The weights take {found:,} bytes where {allowed:,} hold them packed: some were expanded to floats.",
            remedy=REMEDY,
        )


def weight_bytes(replay: Replay, kernels: ExecuTorchKernels) -> int:
    """What weights and constants take in the file: quantized ones packed, the others float32.

    A weight that is both a table and the matrix of a product is stored once for each.
    """
    store = kernels.store
    names = [name for name in store.names() if store.is_quantized(name)]
    tensors = [quantized_weight(store, name) for name in names if key(name) in kernels.linears]
    total = sum(linear_bytes(tensor) for tensor in tensors)
    total += sum(table_bytes(quantized_weight(store, name)) for name in names if key(name) in kernels.tables)
    total += sum(buffer.nbytes for buffer in kernels.constants())
    own = [*replay.parameters(recurse=False), *replay.buffers(recurse=False)]
    return total + sum(tensor.nbytes for tensor in own) + sum(tensor.nbytes for tensor in _twice(replay))


def linear_bytes(tensor: QuantizedTensor) -> int:
    """Codes, scales (bfloat16 with 4 bits) and the float32 matrix that carries the zero points."""
    full = padded(tensor)
    outputs, inputs = full.shape
    groups = full.scales.shape[1]
    scale_bytes = 2 if full.scheme.bits == 4 else 4
    correction_bytes = 0 if full.zero_points is None else 4
    return outputs * (inputs * full.scheme.bits // 8 + groups * (scale_bytes + correction_bytes))


def table_bytes(tensor: QuantizedTensor) -> int:
    """Codes, float32 scales and, where there are any, float32 zero points."""
    outputs, inputs = tensor.shape
    each = 4 if tensor.zero_points is None else 8
    return outputs * (inputs * tensor.scheme.bits // 8 + tensor.scales.shape[1] * each)


def _twice(replay: Replay) -> list[torch.Tensor]:
    """Float tables that a product reads too: portable kernels and XNNPACK keep a copy each."""
    shared = []
    for node in replay.graph.nodes:
        is_table = {user.target is torch.ops.aten.embedding.default for user in node.users}
        values = replay.floating(node)
        if node.op == "placeholder" and len(is_table) == 2 and values is not None:
            shared.append(values)
    return shared


def _registered() -> set[str]:
    """The operators of the runtime here: the portable, optimized, quantized and llama kernels that its apps have too."""
    import executorch.kernels.quantized  # noqa: F401 - registers the quantized embeddings
    from executorch.runtime import Runtime

    from edgeq.lowering.executorch.kernels import llama_ops

    llama_ops()
    return set(Runtime.get().operator_registry.operator_names)
