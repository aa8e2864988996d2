"""edgeq's own rows: `edgeq.quantize` with a method and an effort, read back from its store."""

from __future__ import annotations

import inspect
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import edgeq
from benchmarks.quality_job import Inputs, Job, Quantized, RefusalError, Stopwatch, serve
from edgeq.errors import UnknownNameError, UnsupportedModelError
from edgeq.models.source import load
from edgeq.quantization.methods import METHODS

if TYPE_CHECKING:
    import torch

    from edgeq.store import QuantizedModel

FLOAT16_GRID = {"target": "ios", "format": "coreml"}
"""Any grid with float16 scales does: everybody stores those here."""
FLOAT_BITS = 16


def settings(job: Job, inputs: Inputs, calibration: Path) -> dict[str, Any]:
    """Keyword arguments of `edgeq.quantize`. Raises RefusalError for an effort that this edgeq does not have yet."""
    known = inspect.signature(edgeq.quantize).parameters
    asked: dict[str, Any] = {
        **FLOAT16_GRID,
        "bits": job.bits,
        "method": job.options["method"],
        "group_size": job.options["group_size"],
        "symmetric": job.options["symmetric"],
        "embedding_bits": FLOAT_BITS if inputs.task == "text-generation" else job.bits,
    }
    if job.options["method"] not in METHODS:
        asked["calibration"] = calibration
    if job.options["effort"] is not None:
        asked["effort"] = job.options["effort"]
    if missing := sorted(set(asked) - set(known)):
        msg = f"edgeq.quantize takes no {missing[0]}"
        raise RefusalError(msg)
    return asked


def changed_weights(store: QuantizedModel, inputs: Inputs) -> dict[str, torch.Tensor]:
    """The matrices, and what else was tuned beside them; embeddings that are only float16 count as float.

    Raises ValueError where the store quantized other matrices than asked.
    """
    import torch

    quantized = {name for name in store.names() if store.is_quantized(name) and not store.quantization(name).is_float}
    if different := sorted(quantized ^ set(inputs.matrices)):
        msg = f"edgeq and the benchmark disagree about {different[0]}"
        raise ValueError(msg)
    values = {name: store.dequantized(name) for name in quantized}
    for name in store.names():
        if not store.is_quantized(name) and store.info.weights[name].role == "other":
            floating = store.floating(name)
            if np.issubdtype(floating.dtype, np.floating):
                values[name] = floating.astype(np.float32)
    return {name: torch.from_numpy(np.array(value)) for name, value in values.items()}


def quantize(job: Job, inputs: Inputs) -> Quantized:
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as scratch:
        calibration = Path(scratch) / "calibration.jsonl"
        calibration.write_text("".join(f"{json.dumps(sequence)}\n" for sequence in inputs.calibration))
        asked = settings(job, inputs, calibration)
        load(inputs.model)  # imports the architecture: nobody's seconds hold imports
        try:
            with watch.running():
                store = edgeq.quantize(inputs.model, output=Path(scratch) / "store", **asked)
        except (UnknownNameError, UnsupportedModelError) as error:
            raise RefusalError(str(error)) from error
        weights = changed_weights(store, inputs)
        stored = sum(
            store.quantization(name).stored_bytes(matrix.outputs, matrix.inputs)
            for name, matrix in inputs.matrices.items()
        )
    return Quantized(weights=weights, stored_bytes=stored, seconds=watch.seconds)


if __name__ == "__main__":
    serve(quantize)
