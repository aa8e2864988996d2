"""The model that everything starts from: its structure at once, its weights one at a time."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from edgeq.core.model import ModelInfo, Task, WeightInfo
from edgeq.core.task import TASKS, takes_pixels
from edgeq.errors import SourceNotFoundError, UnsupportedModelError, UsageError
from edgeq.models.architecture import CONFIG_FILE, build_module, context_length, detect_task, read_config
from edgeq.models.checkpoint import inside, open_checkpoint, read_json
from edgeq.models.demo_model import DEMO_NAME, demo_directory
from edgeq.models.hub import is_hub_id, snapshot
from edgeq.models.identity import licence, revision
from edgeq.models.preprocessing import PREPROCESSOR_FILE, PROCESSOR_FILE, read_image_input
from edgeq.models.roles import WeightRole, shared_names, weight_roles
from edgeq.models.sentence_modules import pooling_files, read_pooling
from edgeq.models.weights import Weights, find_weights

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig

SENTENCE_FILE = "sentence_bert_config.json"
COMPANIONS = (
    CONFIG_FILE,
    "generation_config.json",
    "tokenizer*.json",
    "tokenizer*.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "spiece.model",
    "sentencepiece*.model",
    SENTENCE_FILE,
    PREPROCESSOR_FILE,
    PROCESSOR_FILE,
    "config_sentence_transformers.json",
    "chat_template*",
    "LICENSE*",
    "LICENCE*",
    "NOTICE*",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceModel:
    """A model in `directory`. `notes` are for the report: unused tensors, a fallback and what it cost."""

    info: ModelInfo
    directory: Path
    notes: tuple[str, ...]
    weights: Weights

    def read(self, name: str) -> npt.NDArray[Any]:
        """One weight in the checkpoint's dtype (ml_dtypes for bfloat16) and the module's shape; mapped, not copied."""
        return self.weights.read(name)

    def companion_files(self) -> tuple[Path, ...]:
        """Configuration, tokenizer and licence, relative to `directory`: all that runs the model, but its weights."""
        found = {path.name for pattern in COMPANIONS for path in self.directory.glob(pattern) if path.is_file()}
        names = (*sorted(found), *pooling_files(self.directory))
        return tuple(inside(self.directory, name).relative_to(self.directory) for name in names)


def load(source: str | Path | None, *, task: Task | None = None) -> SourceModel:
    """Open a model: a directory, a hub id, or None for the embedded demo model. No weight is read.

    `task` overrides what the checkpoint says it is for. Raises UsageError, SourceNotFoundError, UnsupportedModelError,
    UnsafeInputError and CorruptInputError.
    """
    if task == "module":
        raise UsageError(
            "The task 'module' is that of a torch module.", remedy="Call edgeq.export(module, example_inputs)."
        )
    directory, label = locate(source)
    config = read_config(directory)
    task = task or detect_task(directory)
    pooling, normalize = read_pooling(directory) if task == "feature-extraction" else ("none", False)
    checkpoint = open_checkpoint(directory)
    with ThreadPoolExecutor(1) as pool:  # hashing needs no interpreter, importing the architecture little else
        hashed = pool.submit(revision, directory, checkpoint.files)
        module = build_module(directory, task)
    weights, notes = find_weights(directory, task, module, checkpoint)
    image, assumed = read_image_input(directory, config) if takes_pixels(task) else (None, ())
    described = {name: _describe(name, role, weights) for name, role in weight_roles(module).items()}
    length = context_length(config)
    info = ModelInfo(
        source=label,
        revision=hashed.result(),
        task=task,
        architecture=type(module).__name__,
        model_type=config.model_type,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        weights=described,
        tied=shared_names(module),
        licence=licence(directory),
        pooling=pooling,
        normalize=normalize,
        context_length=length if task == "text-generation" else _encoder_length(directory, module, length),
        image=image,
        labels=labels_of(config, task),
        multi_label=is_multi_label(config, task),
    )
    return SourceModel(info=info, directory=directory, notes=(*notes, *assumed, *_float_note(info)), weights=weights)


def labels_of(config: PreTrainedConfig, task: Task) -> tuple[str, ...]:
    """The names of a classifier's classes in the order of its logits; empty for other tasks."""
    if not TASKS[task].is_classifier:
        return ()
    names = {int(index): str(name) for index, name in (config.id2label or {}).items()}
    return tuple(names.get(index, f"LABEL_{index}") for index in range(config.num_labels or 0))


def is_multi_label(config: PreTrainedConfig, task: Task) -> bool:
    """Whether each class is true or not on its own, so that its chance is the sigmoid of its logit."""
    return TASKS[task].is_classifier and config.problem_type == "multi_label_classification"


def locate(source: str | Path | None) -> tuple[Path, str]:
    """The local directory, and what the report calls the model."""
    if source is None:
        return demo_directory(), DEMO_NAME
    directory = Path(source).expanduser()
    if directory.is_dir():
        return directory, str(source)
    if directory.exists():
        raise UnsupportedModelError(
            f"{source} is a file.", remedy="Name the directory that holds config.json, the weights and the tokenizer."
        )
    if isinstance(source, str) and is_hub_id(source):
        return snapshot(source), source
    raise SourceNotFoundError(
        f"{source} is not a directory here, and not a hub id.", remedy="Check the path; a hub id reads owner/name."
    )


def _describe(name: str, role: WeightRole, weights: Weights) -> WeightInfo:
    shape, dtype = weights.describe(name)
    return WeightInfo(name=name, shape=shape, dtype=dtype, role=role.role, input_axis=role.input_axis, block=role.block)


def _encoder_length(directory: Path, module: nn.Module, announced: int | None) -> int | None:
    """The least of: the configuration, sentence-transformers' limit, and the positions that padding leaves over
    (RoBERTa counts from padding_idx + 1)."""
    limits = [announced] if announced is not None else []
    if (directory / SENTENCE_FILE).exists():
        limit = read_json(inside(directory, SENTENCE_FILE)).get("max_seq_length")
        limits += [limit] if isinstance(limit, int) and limit > 0 else []
    for name, part in module.named_modules():
        padding = getattr(part, "padding_idx", None)
        if padding is not None and name.endswith("position_embeddings"):
            limits.append(int(part.num_embeddings) - int(padding) - 1)
    return min(limits, default=None)


def _float_note(info: ModelInfo) -> tuple[str, ...]:
    """Large weights that no linear or embedding owns stay float: experts stored as one three-dimensional tensor."""
    large = [weight for weight in info.weights.values() if weight.role == "other" and len(weight.shape) > 2]
    elements = sum(math.prod(weight.shape) for weight in large)
    if elements * 20 < info.parameters:
        return ()
    share = f"{100 * elements / info.parameters:.0f} %"
    return (f"{share} of the parameters are not matrices of a linear layer and stay float: {large[0].name}, for one.",)
