"""The torch module of a directory, for whatever architecture transformers knows: no list of ours, no remote code."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

from edgeq.core.model import Task
from edgeq.core.task import TASKS, takes_pixels
from edgeq.errors import CorruptInputError, InternalError, SourceNotFoundError, UnsafeInputError, UnsupportedModelError
from edgeq.models.checkpoint import inside, read_json
from edgeq.models.sentence_modules import MODULES_FILE

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

CONFIG_FILE = "config.json"
EXPERTS = "batched_mm"
"""How a trace writes mixtures of experts: without loops over those that the tokens chose."""


def read_config(directory: Path) -> PreTrainedConfig:
    """The model's configuration as transformers' own class.

    Raises SourceNotFoundError without a config.json, UnsafeInputError where only remote code could run it,
    UnsupportedModelError for what edgeq cannot start from, CorruptInputError for values that make no model.
    """
    if not (directory / CONFIG_FILE).is_file():
        raise SourceNotFoundError(
            f"{directory} has no {CONFIG_FILE}.", remedy="Name a directory in Hugging Face's layout, or a hub id."
        )
    raw = read_json(inside(directory, CONFIG_FILE))
    _refuse_unusable(directory, raw)
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    model_type = raw.get("model_type")
    if model_type not in CONFIG_MAPPING:
        if "auto_map" in raw:
            raise UnsafeInputError(
                f"{directory} can only run with the Python code that comes with it.",
                remedy="edgeq never runs code from a model: use one that transformers has built in.",
            )
        raise UnsupportedModelError(
            f"transformers does not know the model type {model_type!r}.",
            remedy="Check config.json, or update transformers.",
        )
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise CorruptInputError(
            f"{CONFIG_FILE} makes no {model_type} configuration ({_first_line(error)}).",
            remedy="Correct or replace it.",
        ) from error
    return config


def _refuse_unusable(directory: Path, raw: dict[str, Any]) -> None:
    if raw.get("quantization_config"):
        method = raw["quantization_config"].get("quant_method", "an unnamed method")
        raise UnsupportedModelError(
            f"{directory} is already quantized ({method}).", remedy="Start from the float checkpoint of the same model."
        )
    if (directory / "adapter_config.json").exists():
        raise UnsupportedModelError(
            f"{directory} holds an adapter beside its model.", remedy="Merge it first: peft's merge_and_unload."
        )
    kernels = [raw.get(key) for key in ("attn_implementation", "_attn_implementation")]
    if any("/" in str(kernel) for kernel in kernels) or "transformers_weights" in raw:
        raise UnsafeInputError(
            f"{CONFIG_FILE} asks for code or weights from elsewhere.",
            remedy="Delete attn_implementation and transformers_weights from it.",
        )


def detect_task(directory: Path) -> Task:
    """What the checkpoint was made for: modules.json or an encoder gives feature-extraction, a causal language model
    text-generation, a head that classifies its task. Raises UnsupportedModelError for every other architecture."""
    config = read_config(directory)
    if (directory / MODULES_FILE).exists():
        return "feature-extraction"
    architecture = next(iter(config.architectures or ()), None)
    if architecture is None:
        raise UnsupportedModelError(
            f"{CONFIG_FILE} names no architecture.", remedy='Add one, such as "architectures": ["LlamaForCausalLM"].'
        )
    for task, mappings in _made_for().items():
        if any(architecture in _class_names(mapping) for mapping in mappings):
            return task
    raise UnsupportedModelError(
        f"{architecture} has no head that edgeq knows.", remedy=f"edgeq exports models for {', '.join(TASKS)}."
    )


def _made_for() -> dict[Task, tuple[Mapping[str, str | Sequence[str]], ...]]:
    """Which classes make a checkpoint one for a task; the first task that fits counts, as base models are in several of
    transformers' mappings."""
    from transformers.models.auto import modeling_auto as auto

    return {
        "text-generation": (auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,),
        "text-classification": (auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,),
        "token-classification": (auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,),
        "image-classification": (auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,),
        "image-feature-extraction": (auto.MODEL_FOR_IMAGE_MAPPING_NAMES,),
        "feature-extraction": (
            auto.MODEL_MAPPING_NAMES,
            auto.MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES,
            auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        ),
    }


def _class_names(mapping: Mapping[str, str | Sequence[str]]) -> set[str]:
    """The class names in one of transformers' auto mappings, whose values are names or tuples of names."""
    return {name for value in mapping.values() for name in ((value,) if isinstance(value, str) else value)}


def build_module(
    directory: Path, task: Task, *, device: str = "meta", attn_implementation: str | None = None
) -> PreTrainedModel:
    """The module in evaluation mode, float32, with no weights from the checkpoint in it.

    On the device "meta" nothing is allocated, buffers included. An encoder is built without the pooler that only
    pre-training used. `attn_implementation` None leaves the choice to transformers.
    Raises what `read_config` raises, and UnsupportedModelError where the configuration has no class for the task.
    """
    import torch

    config = read_config(directory)
    model_class = _model_class(config, task)
    options: dict[str, Any] = {"dtype": torch.float32, **construction_options(model_class, config, task)}
    if model_class._can_set_experts_implementation():
        options["experts_implementation"] = EXPERTS
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    try:
        with torch.device(device):
            module: PreTrainedModel = model_class._from_config(config, **options)  # type: ignore[no-untyped-call]
    except Exception as error:
        raise UnsupportedModelError(
            f"transformers cannot build {model_class.__name__} ({_first_line(error)}).", remedy="Check config.json."
        ) from error
    wanted, kind = ("pixel_values", "images") if takes_pixels(task) else ("input_ids", "text")
    if module.main_input_name != wanted:
        raise UnsupportedModelError(
            f"{model_class.__name__} takes {module.main_input_name}, not {kind}.", remedy=f"Use a model of {kind}."
        )
    module.requires_grad_(False)
    module.train(False)
    return module


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Modules built in this block allocate no parameters, but real buffers."""
    from torch import nn

    register = nn.Module.register_parameter

    def register_on_meta(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        register(module, name, param)
        stored = module._parameters[name]
        if stored is not None and stored.device.type != "meta":
            module._parameters[name] = nn.Parameter(stored.to("meta"), requires_grad=False)

    nn.Module.register_parameter = register_on_meta  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def load_module(directory: Path, task: Task, *, dtype: str) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """transformers' own loading of the whole checkpoint, without network and remote code.

    `dtype` is "float32", or "auto" for the checkpoint's own. Returns the module and the names that it found no
    weights for. Raises CorruptInputError where transformers refuses the files.
    """
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    config = read_config(directory)
    model_class = _model_class(config, task)
    try:
        loaded: Any = model_class.from_pretrained(
            directory,
            config=config,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            **construction_options(model_class, config, task),
        )
    except Exception as error:
        raise CorruptInputError(
            f"transformers cannot load {directory} ({_first_line(error)}).", remedy="Copy or download the model again."
        ) from error
    module, report = loaded
    return module.eval(), tuple(sorted(report["missing_keys"]))


def construction_options(model_class: type[PreTrainedModel], config: PreTrainedConfig, task: Task) -> dict[str, Any]:
    """Leaves out a learned pooler, which only pre-training used: sentence-transformers models often ship it untrained,
    and vision models without it. Poolers without weights stay: they are how ConvNets end."""
    import torch

    if "add_pooling_layer" not in inspect.signature(model_class.__init__).parameters:
        return {}
    if not takes_pixels(task):
        return {"add_pooling_layer": False}
    with torch.device("meta"):
        pooler = getattr(model_class._from_config(config), "pooler", None)  # type: ignore[no-untyped-call]
    return {"add_pooling_layer": pooler is not None and next(pooler.parameters(), None) is None}


def _model_class(config: PreTrainedConfig, task: Task) -> type[PreTrainedModel]:
    from transformers.models.auto.auto_factory import _get_model_class

    mapping, encodes_text = _mapping(config, task)
    if config.is_encoder_decoder and not encodes_text:
        raise UnsupportedModelError(
            f"{config.model_type} is an encoder with a decoder.", remedy="Use a decoder-only or an encoder-only model."
        )
    if type(config) not in mapping:
        raise UnsupportedModelError(
            f"transformers has no {task} model of type {config.model_type!r}.", remedy="Choose another model or task."
        )
    if task != "text-generation":
        config.use_cache = False
    model_class: type[PreTrainedModel] = _get_model_class(config, mapping)  # type: ignore[no-untyped-call]
    return model_class


def _mapping(config: PreTrainedConfig, task: Task) -> tuple[Any, bool]:
    """transformers' classes for a task by configuration, and whether they encode text: that mapping gives T5's encoder
    alone; for most types it is the base model."""
    from transformers.models.auto import modeling_auto as auto

    match task:
        case "text-generation":
            return auto.MODEL_FOR_CAUSAL_LM_MAPPING, False
        case "text-classification":
            return auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, False
        case "token-classification":
            return auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING, False
        case "image-classification":
            return auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, False
        case "image-feature-extraction":
            return auto.MODEL_FOR_IMAGE_MAPPING, False
        case "feature-extraction":
            encodes_text = type(config) in auto.MODEL_FOR_TEXT_ENCODING_MAPPING
            return auto.MODEL_FOR_TEXT_ENCODING_MAPPING if encodes_text else auto.MODEL_MAPPING, encodes_text
        case "module":
            raise InternalError("A plain module has no class of transformers'.", remedy="Report this.")
    assert_never(task)


def context_length(config: PreTrainedConfig) -> int | None:
    """The longest sequence that the configuration announces, in tokens."""
    text = config.get_text_config()
    for key in ("max_position_embeddings", "max_sequence_length", "max_seq_len", "seq_length"):
        value = getattr(text, key, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
