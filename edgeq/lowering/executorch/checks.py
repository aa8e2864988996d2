"""What a finished `.pte` must be before anybody runs it: weights no larger than packed, operators that devices have.

ExecuTorch reports neither: a weight that a pass expanded to float32 is only a larger file, and an operator that nobody
registered fails when the app loads the program.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.export import ExportedProgram

from edgeq.errors import UnsupportedModelError
from edgeq.lowering.executorch.kernels import llama_ops

BACKEND = "XnnpackBackend"
BITS = {"torch.int2": 2, "torch.int4": 4, "torch.int8": 8}
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
                raise UnsupportedModelError(f"XNNPACK left a quantized product: {name} would run.", remedy=REMEDY)
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


def weight_bytes(program: ExportedProgram) -> int:
    """What weights and constants may take in the file: carriers packed, the others as they are. Caches are not stored.

    A weight that is both a table and the matrix of a product counts twice: portable kernels and XNNPACK each have it.
    """
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_lifted_tensor_constants}
    names |= {node: name for node, name in signature.inputs_to_buffers.items() if name in program.constants}
    total = 0
    for node in program.graph.nodes:
        if node.op != "placeholder" or node.name not in names:
            continue
        name = names[node.name]
        copies = len({user.target is torch.ops.aten.embedding.default for user in node.users})
        total += copies * _stored_bytes(program.state_dict.get(name, program.constants.get(name)))
    return total


def _stored_bytes(values: Any) -> int:  # noqa: ANN401 - a tensor, or torchao's carrier, which has no types
    """4-bit products have bfloat16 scales; tables may have a float32 zero point beside each float32 scale."""
    if not hasattr(values, "qdata"):
        return int(values.nbytes)
    bits = BITS[str(values.target_dtype)]
    is_table = values.activation_quantization is None
    scale_bytes = 8 if is_table else bits // 2
    return int(values.qdata.numel() * bits // 8 + values.scale.numel() * scale_bytes)


def _registered() -> set[str]:
    """The operators of the runtime here: portable, optimized, quantized and llama kernels, which its apps have too."""
    import executorch.kernels.quantized  # noqa: F401 - registers the quantized embeddings
    from executorch.runtime import Runtime

    llama_ops()
    return set(Runtime.get().operator_registry.operator_names)
