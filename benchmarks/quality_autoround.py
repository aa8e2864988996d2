"""AutoRound: learned rounding by signed gradients, block by block. Runs in AutoRound's environment.

It tunes linears only; an encoder's embeddings are rounded to nearest beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.quality_job import Inputs, Job, Quantized, Stopwatch, all_grid_bytes, load_float, serve

if TYPE_CHECKING:
    import torch

LENGTH = 128
"""AutoRound wants sequences of one length: an encoder's sentences are joined and cut again."""
SMALLEST_SCALE = 1e-5
"""Of a group of zeros; AutoRound's own."""


def samples(sequences: Sequence[Sequence[int]]) -> torch.Tensor:
    """Token ids of one length, int64 `[samples, length]`."""
    import torch

    if len({len(sequence) for sequence in sequences}) > 1:
        joined = [token for sequence in sequences for token in sequence]
        sequences = [joined[start : start + LENGTH] for start in range(0, len(joined) - LENGTH + 1, LENGTH)]
    return torch.tensor(sequences)


def rounded(values: torch.Tensor, job: Job) -> torch.Tensor:
    """An embedding `[rows, columns]` rounded to nearest on the same grid, as AutoRound leaves it alone."""
    import torch

    groups = values.detach().reshape(values.shape[0], -1, int(job.options["group_size"] or 0))
    levels = 2**job.bits - 1
    if job.options["symmetric"]:
        offsets = torch.full_like(groups[..., :1], 2.0 ** (job.bits - 1))
        spans = groups.abs().amax(dim=-1, keepdim=True) * levels / (offsets - 0.5)
    else:
        low, high = groups.amin(dim=-1, keepdim=True).clamp(max=0), groups.amax(dim=-1, keepdim=True).clamp(min=0)
        spans = high - low
        offsets = (-low * levels / spans.clamp(min=SMALLEST_SCALE)).round().clamp(0, levels)
    scales = (spans / levels).clamp(min=SMALLEST_SCALE).half().float()
    codes = (groups / scales + offsets).round().clamp(0, levels)
    return torch.reshape((codes - offsets) * scales, values.shape)


def quantize(job: Job, inputs: Inputs) -> Quantized:
    from auto_round import AutoRound
    from transformers import AutoTokenizer

    batch, tokens = int(job.options["batch"] or 1), samples(inputs.calibration)
    module, watch = load_float(inputs), Stopwatch()
    tuner = AutoRound(
        module,
        tokenizer=AutoTokenizer.from_pretrained(Path(inputs.model), local_files_only=True),
        bits=job.bits,
        group_size=job.options["group_size"],
        sym=job.options["symmetric"],
        iters=job.options["iterations"],
        batch_size=batch,
        nsamples=len(tokens),
        seqlen=tokens.shape[1],
        dataset=[tokens[start : start + batch] for start in range(0, len(tokens), batch)],
        enable_alg_ext=job.options["extension"],
        device_map="cpu",
        amp=False,
        enable_torch_compile=False,
    )
    with watch.running():
        tuned, _ = tuner.quantize()
        parameters = dict(tuned.named_parameters())
        for name, matrix in inputs.matrices.items():
            if matrix.embedding:
                parameters[name] = rounded(parameters[name], job)
    stored = all_grid_bytes(
        inputs,
        bits=job.bits,
        group_size=int(job.options["group_size"] or 0),
        zero_bits=0 if job.options["symmetric"] else job.bits,
    )
    weights = {name: parameters[name] for name in inputs.matrices}
    return Quantized(weights=weights, stored_bytes=stored, seconds=watch.seconds)


if __name__ == "__main__":
    serve(quantize)
