"""What a model is, before any of its weights are read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from edgeq.core.images import ImageInput
from edgeq.core.recipe import Role

TextGeneration = Literal["text-generation"]
Task = Literal[
    "text-generation",
    "feature-extraction",
    "text-classification",
    "token-classification",
    "image-classification",
    "image-feature-extraction",
    "module",
]
"""What a model is for. `module` is a plain torch module: tensors in, tensors out, no tokens."""
DIRECTORY_TASKS: tuple[Task, ...] = tuple(task for task in get_args(Task) if task != "module")
"""Those of checkpoints: a plain module comes by Python alone."""
Pooling = Literal["none", "mean", "cls", "max", "lasttoken"]


@dataclass(frozen=True, kw_only=True)
class WeightInfo:
    """One parameter or persistent buffer of the torch module.

    `shape` and `dtype` are the checkpoint's (dtype in safetensors' spelling: BF16, F16, F32, I64 ...).
    `input_axis` is the axis that a linear contracts: 1 for `torch.nn.Linear`, 0 for transformers' Conv1D.
    `block` is the index of the repeated block that owns it, or None.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: Role
    input_axis: int = 1
    block: int | None = None

    @property
    def is_matrix(self) -> bool:
        return self.role != "other"

    @property
    def is_block_linear(self) -> bool:
        """Whether calibration knows what it is multiplied with: a linear of a repeated block."""
        return self.role == "linear" and self.block is not None

    @property
    def outputs_inputs(self) -> tuple[int, int]:
        """`(outputs, inputs)` of a matrix, whichever way round the checkpoint stores it.

        The filters of a convolution are its rows: `[out, in / groups, height, width]` counts as
        `(out, in / groups * height * width)`.
        """
        if self.role == "convolution":
            return self.shape[0], math.prod(self.shape[1:])
        return self.shape[1 - self.input_axis], self.shape[self.input_axis]


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """Identity and structure of a model.

    `weights` are keyed by the torch module's parameter names; a tied copy is not listed there but in `tied`,
    which maps the copy's name to the name that is stored. `revision` is the hub commit, or the sha256 of config
    and weight headers for a local directory. `image`: what a model of images takes; `labels`: the names of a
    classifier's classes, in the order of its logits; `multi_label`: each of them is true or not on its own.
    """

    source: str
    revision: str
    task: Task
    architecture: str
    model_type: str
    parameters: int
    weights: dict[str, WeightInfo]
    tied: dict[str, str]
    licence: str | None
    pooling: Pooling = "none"
    normalize: bool = False
    context_length: int | None = None
    image: ImageInput | None = None
    labels: tuple[str, ...] = ()
    multi_label: bool = False

    @property
    def float_bytes(self) -> int:
        """Bytes of all weights at 16 bits: what the model costs before quantization."""
        return 2 * self.parameters
