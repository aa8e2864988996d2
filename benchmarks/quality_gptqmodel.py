"""GPTQModel: GPTQ with its own packing, read back through its own unpacking. Runs in GPTQModel's environment."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.quality_job import Inputs, Job, Matrix, Quantized, RefusalError, Stopwatch, all_grid_bytes, serve

if TYPE_CHECKING:
    import torch
    from gptqmodel.nn_modules.qlinear import PackableQuantLinear


def settings(job: Job) -> dict[str, Any]:
    """QuantizeConfig's: act-order with static groups, or the default, where groups are reordered as a whole; neither
    leaves an index to store."""
    ordered = {"desc_act": True, "static_groups": True, "act_group_aware": False} if job.options["act_order"] else {}
    return {
        "bits": job.bits,
        "group_size": job.options["group_size"],
        "sym": False,
        "mse": job.options["mse"],
        "offload_to_disk": False,
        **ordered,
    }


def unpacked(module: PackableQuantLinear, matrix: Matrix) -> torch.Tensor:
    """A packed linear as float32 in the shape of the float one."""
    from gptqmodel.nn_modules.qlinear import PackableQuantLinear
    from gptqmodel.utils.model import convert_gptq_v1_to_v2_format_module

    if module.qzero_format() == 1:  # zero points less one, which the unpacking does not expect
        convert_gptq_v1_to_v2_format_module(module, bits=module.bits, pack_dtype=module.pack_dtype)
    module.scales = module.scales.float()
    values: torch.Tensor = PackableQuantLinear.dequantize_weight(module).detach().float()  # [inputs, outputs]
    return values if matrix.transposed else values.T


def quantize(job: Job, inputs: Inputs) -> Quantized:
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # its default for two cores, 1, is refused by itself
    import torch
    from gptqmodel import BACKEND, GPTQModel, QuantizeConfig

    if inputs.task != "text-generation":
        msg = "GPTQModel has no definition of encoders"
        raise RefusalError(msg)
    watch = Stopwatch()
    source = str(Path(inputs.model).resolve())
    model = GPTQModel.load(source, QuantizeConfig(**settings(job)), device="cpu", dtype=torch.float32)
    calibration = [
        {"input_ids": list(sequence), "attention_mask": [1] * len(sequence)} for sequence in inputs.calibration
    ]
    # It writes its logs into the working directory.
    with tempfile.TemporaryDirectory() as directory, contextlib.chdir(directory), watch.running():
        model.quantize(calibration, batch_size=8, backend=BACKEND.TORCH)
    weights = {}
    for name, module in model.model.named_modules():
        if matrix := inputs.matrices.get(f"{name}.weight"):
            weights[f"{name}.weight"] = unpacked(module, matrix)
    group_size = int(job.options["group_size"] or 0)
    stored = all_grid_bytes(inputs, bits=job.bits, group_size=group_size, zero_bits=job.bits)
    return Quantized(weights=weights, stored_bytes=stored, seconds=watch.seconds)


if __name__ == "__main__":
    serve(quantize)
