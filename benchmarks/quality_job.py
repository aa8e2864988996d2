"""What one quantizer is asked to do and what it hands back, as files: this module needs nothing but torch.

Each quantizer runs in a process of its own, `python -m benchmarks.quality_NAME JOB.json`, in its own environment.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from _typeshed import DataclassInstance
    from transformers import PreTrainedModel

Option = str | float | bool | None
SCALE_BYTES = 2
"""Everybody stores float16 scales."""


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """A weight to quantize, `[outputs, inputs]`; the checkpoint has it the other way round where it is `transposed`."""

    outputs: int
    inputs: int
    transposed: bool
    embedding: bool


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What all quantizers of one model share. Token ids; `other_bytes` are those of the weights that nobody quantizes,
    at 16 bits."""

    model: str
    task: str
    matrices: dict[str, Matrix]
    other_bytes: int
    calibration: tuple[tuple[int, ...], ...]
    evaluation: tuple[tuple[int, ...], ...]

    @property
    def weights(self) -> int:
        """How many weights are quantized."""
        return sum(matrix.outputs * matrix.inputs for matrix in self.matrices.values())


@dataclass(frozen=True, kw_only=True)
class Job:
    """`inputs` is the file of an Inputs; the answer is written beside the job's own file."""

    inputs: str
    bits: int
    options: dict[str, Option]
    threads: int


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """Dequantized float32 weights by tensor name, in the module's own shape, and the bytes that the matrices take.

    `seconds` are those of quantizing, without imports; `weights` may hold float tensors that were tuned, too.
    """

    weights: Mapping[str, torch.Tensor]
    stored_bytes: int
    seconds: float


class RefusalError(Exception):
    """The quantizer cannot do this model, and the message says why."""


def read_inputs(path: Path) -> Inputs:
    data = json.loads(path.read_text(encoding="utf-8"))
    data["matrices"] = {name: Matrix(**matrix) for name, matrix in data["matrices"].items()}
    for key in ("calibration", "evaluation"):
        data[key] = tuple(tuple(sequence) for sequence in data[key])
    return Inputs(**data)


def write_json(path: Path, record: DataclassInstance) -> None:
    """A dataclass as JSON."""
    path.write_text(json.dumps(asdict(record)), encoding="utf-8")


def grid_bytes(outputs: int, inputs: int, *, bits: int, group_size: int, zero_bits: int) -> int:
    """Bytes of a matrix on a grid: packed codes, float16 scales and zero points of `zero_bits` (0: none) per group."""
    groups = -(-inputs // group_size)
    return outputs * (-(-inputs * bits // 8) + groups * SCALE_BYTES + -(-groups * zero_bits // 8))


def all_grid_bytes(inputs: Inputs, *, bits: int, group_size: int, zero_bits: int) -> int:
    """The same for all matrices of a model."""
    return sum(
        grid_bytes(matrix.outputs, matrix.inputs, bits=bits, group_size=group_size, zero_bits=zero_bits)
        for matrix in inputs.matrices.values()
    )


class Stopwatch:
    """`seconds` spent in `with stopwatch.running():`."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - started


def serve(quantize: Callable[[Job, Inputs], Quantized]) -> None:
    """The child's main: do the job that the command line names, write `weights.safetensors` and `result.json`."""
    import torch
    from safetensors.torch import save_file

    path = Path(sys.argv[1])
    job = Job(**json.loads(path.read_text(encoding="utf-8")))
    inputs = read_inputs(Path(job.inputs))
    torch.set_num_threads(job.threads)
    torch.manual_seed(0)
    try:
        found = quantize(job, inputs)
    except RefusalError as reason:
        result: dict[str, object] = {"refused": str(reason)}
    else:
        if missing := sorted(set(inputs.matrices) - set(found.weights)):
            msg = f"{missing[0]} was not quantized"
            raise RuntimeError(msg)
        weights = {name: value.detach().float().contiguous() for name, value in found.weights.items()}
        save_file(weights, path.with_name("weights.safetensors"))
        result = {"stored_bytes": found.stored_bytes, "seconds": found.seconds}
    path.with_name("result.json").write_text(json.dumps(result), encoding="utf-8")


def load_float(inputs: Inputs) -> PreTrainedModel:
    """The float32 module through transformers' Auto classes, which name its parameters as edgeq does."""
    import torch
    from transformers import AutoModel, AutoModelForCausalLM

    automatic = AutoModelForCausalLM if inputs.task == "text-generation" else AutoModel
    module: PreTrainedModel = automatic.from_pretrained(inputs.model, dtype=torch.float32, local_files_only=True)
    return module  # in evaluation mode already


def float_matrices(module: PreTrainedModel, inputs: Inputs) -> Iterator[tuple[str, Matrix, torch.Tensor]]:
    """Every matrix to quantize as float32 `[outputs, inputs]`."""
    parameters = dict(module.named_parameters())
    for name, matrix in inputs.matrices.items():
        values = parameters[name].detach()
        yield name, matrix, (values.T if matrix.transposed else values).contiguous()


def restore(matrix: Matrix, values: torch.Tensor) -> torch.Tensor:
    """From `[outputs, inputs]` to the module's own shape."""
    return values.T if matrix.transposed else values
