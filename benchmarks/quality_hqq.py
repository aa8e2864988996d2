"""HQQ: half-quadratic grids without calibration, matrix by matrix. Runs in HQQ's environment."""

from __future__ import annotations

from benchmarks.quality_job import (
    Inputs,
    Job,
    Quantized,
    Stopwatch,
    all_grid_bytes,
    float_matrices,
    load_float,
    restore,
    serve,
)

ZERO_BITS = 16
"""HQQ's zero points are float16 and lie between the levels."""


def quantize(job: Job, inputs: Inputs) -> Quantized:
    import torch
    from hqq.core.quantize import Quantizer

    group_size = int(job.options["group_size"] or 0)
    module, watch, weights = load_float(inputs), Stopwatch(), {}
    for name, matrix, values in float_matrices(module, inputs):
        with watch.running():
            packed, meta = Quantizer.quantize(
                values,
                nbits=job.bits,
                group_size=group_size,
                axis=1,
                optimize=True,
                round_zero=job.bits == 4,
                compute_dtype=torch.float16,
                view_as_float=False,
                device="cpu",
                bitpack=False,
            )
        meta["scale"], meta["zero"] = (meta[key].to(torch.float16).float() for key in ("scale", "zero"))
        meta["compute_dtype"] = torch.float32
        weights[name] = restore(matrix, Quantizer.dequantize(packed, meta).reshape(values.shape))
    stored = all_grid_bytes(inputs, bits=job.bits, group_size=group_size, zero_bits=ZERO_BITS)
    return Quantized(weights=weights, stored_bytes=stored, seconds=watch.seconds)


if __name__ == "__main__":
    serve(quantize)
