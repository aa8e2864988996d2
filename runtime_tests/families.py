"""Random models of many architectures, quantized, lowered, and beside them what torch says with the same weights."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from edgeq.core.artifact import Artifact
from edgeq.core.model import Pooling, Task
from edgeq.core.recipe import Recipe, Rule
from edgeq.core.scheme import Scheme
from edgeq.core.target import TargetProfile
from edgeq.core.task import takes_pixels
from edgeq.lowering import lower
from edgeq.models.architecture import load_module
from edgeq.models.pooling import SentenceEmbedding
from edgeq.models.source import load
from edgeq.progress import SilentProgress
from edgeq.quantization import allocate, quantize
from edgeq.store import QuantizedModel
from tests.tiny_models import save_sentence_modules

Array = npt.NDArray[Any]
Options = dict[str, Any]
VOCABULARY = 300
BASE: Options = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 172,  # which no group divides
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
IMAGE_SIZE = 32
IMAGES: Options = {
    "hidden_size": 64,
    "intermediate_size": 172,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": IMAGE_SIZE,
    "patch_size": 8,
    "num_labels": 10,
}
BUILDERS: dict[Task, Any] = {
    "text-generation": AutoModelForCausalLM,
    "feature-extraction": AutoModel,
    "text-classification": AutoModelForSequenceClassification,
    "token-classification": AutoModelForTokenClassification,
    "image-classification": AutoModelForImageClassification,
    "image-feature-extraction": AutoModel,
}
HEADS: Options = {"head_dim": 16}
WINDOW: Options = {"head_dim": 16, "sliding_window": 8}
GPT: Options = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}

ASYMMETRIC, SYMMETRIC = Recipe(bits=4, group_size=32), Recipe(bits=4, group_size=32, symmetric=True)
PER_CHANNEL = Recipe(rules=(Rule(tensors="*", scheme=Scheme(bits=8, group_size=None), method="rtn"),))
EIGHT_BITS, SIXTEEN_BITS = Recipe(bits=8), Recipe(bits=16)


@dataclass(frozen=True, kw_only=True)
class Family:
    """One architecture. `plain`: its attention is not captured whole. `counts_padding`: its distances are those in the
    cache, padding included, so that it cannot go on behind a padded row; nor can it in torch."""

    model_type: str
    options: Options = field(default_factory=dict)
    recipe: Recipe = ASYMMETRIC
    task: Task = "text-generation"
    pooling: Pooling = "none"
    plain: bool = False
    counts_padding: bool = False


def _language(model_type: str, options: Options | None = None, *, plain: bool = False) -> Family:
    return Family(model_type=model_type, options=options or {}, plain=plain)


def _encoder(model_type: str, options: Options | None = None, *, pooling: Pooling, plain: bool = False) -> Family:
    return Family(model_type=model_type, options=options or {}, task="feature-extraction", pooling=pooling, plain=plain)


LANGUAGE_MODELS = {
    "llama": _language("llama"),
    "llama symmetric": Family(model_type="llama", recipe=SYMMETRIC),
    "llama 8 bits": Family(model_type="llama", recipe=EIGHT_BITS, options={"tie_word_embeddings": True}),
    "llama 16 bits": Family(model_type="llama", recipe=SIXTEEN_BITS),
    "qwen2": _language("qwen2"),
    "qwen2 per channel": Family(model_type="qwen2", recipe=PER_CHANNEL),
    "qwen3": _language("qwen3", HEADS),
    "mistral": _language("mistral", WINDOW),
    "gemma": _language("gemma", HEADS),
    "gemma2": _language("gemma2", WINDOW),
    "gemma3_text": _language("gemma3_text", WINDOW),
    "phi": _language("phi"),
    "phi3": _language("phi3"),
    "gpt2": _language("gpt2", GPT),
    "gpt2 8 bits symmetric": Family(
        model_type="gpt2", options=GPT, recipe=Recipe(bits=8, group_size=64, symmetric=True)
    ),
    "gpt2 16 bits": Family(model_type="gpt2", options=GPT, recipe=SIXTEEN_BITS),
    "gpt_neox": _language("gpt_neox"),
    "opt": _language("opt", {"ffn_dim": 172, "word_embed_proj_dim": 64}),
    "olmo2": _language("olmo2"),
    "cohere": _language("cohere"),
    "granite": _language("granite"),
    "stablelm": _language("stablelm"),
    "starcoder2": _language("starcoder2"),
    "glm": _language("glm", HEADS),
    "nemotron": _language("nemotron"),
    "helium": _language("helium", HEADS),
    "ernie4_5": _language("ernie4_5"),
    "gpt_bigcode": _language("gpt_bigcode", GPT),
    "diffllama": _language("diffllama", plain=True),
    "gptj": _language("gptj", {**GPT, "rotary_dim": 16}, plain=True),
    "codegen": _language("codegen", {**GPT, "rotary_dim": 16}, plain=True),
    "bloom": _language("bloom", {"n_layer": 2, "n_head": 4}, plain=True),
    "mpt": Family(
        model_type="mpt",
        options={"d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 64},
        plain=True,
        counts_padding=True,
    ),
    "falcon": _language("falcon", plain=True),
}
ENCODERS = {
    "bert": _encoder("bert", pooling="mean"),
    "roberta": _encoder("roberta", {"pad_token_id": 1, "bos_token_id": 0}, pooling="cls"),
    "distilbert": _encoder("distilbert", {"dim": 64, "hidden_dim": 172, "n_layers": 2, "n_heads": 4}, pooling="max"),
    "mpnet": _encoder("mpnet", {"pad_token_id": 1}, pooling="mean", plain=True),
    "xlm-roberta": _encoder("xlm-roberta", {"pad_token_id": 1, "bos_token_id": 0}, pooling="none"),
    "modernbert": _encoder(
        "modernbert",
        {"global_attn_every_n_layers": 2, "local_attention": 8, "cls_token_id": 1, "sep_token_id": 2},
        pooling="mean",
        plain=True,
    ),
    "deberta-v2": _encoder(
        "deberta-v2", {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}, pooling="mean", plain=True
    ),
    "albert": _encoder("albert", {"embedding_size": 32}, pooling="none"),
    "electra": _encoder("electra", {"embedding_size": 32}, pooling="none"),
    "nomic_bert": _encoder("nomic_bert", pooling="mean"),
    "qwen3 as encoder": _encoder("qwen3", HEADS, pooling="lasttoken"),
}
FAMILIES = LANGUAGE_MODELS | ENCODERS


@dataclass(frozen=True, kw_only=True)
class Lowered:
    """A family's artifact in the raw runtime, and the torch module that holds the store's weights."""

    family: Family
    store: QuantizedModel
    artifact: Artifact
    session: ort.InferenceSession
    module: torch.nn.Module

    @property
    def model_file(self) -> Path:
        return self.artifact.directory / self.artifact.files[0]

    def graph(self) -> onnx.GraphProto:
        return onnx.load(self.model_file, load_external_data=False).graph

    def run(self, **feeds: Array) -> list[Array]:
        outputs: list[Array] = self.session.run(None, feeds)
        return outputs

    def empty_cache(self, batch: int) -> dict[str, Array]:
        shapes = enumerate(self.artifact.interface.cache)
        return {
            f"past_key_values.{layer}.{part}": np.zeros((batch, heads, 0, size), np.float32)
            for layer, (heads, size) in shapes
            for part in ("key", "value")
        }

    def reference(self, **inputs: Array) -> Array:
        """Logits, or what the encoder's wrapper gives."""
        with torch.no_grad():
            output = self.module(**{name: torch.from_numpy(values) for name, values in inputs.items()})
        return cast("Array", (output if isinstance(output, torch.Tensor) else output.logits).numpy())


def target(accuracy_level: int = 1) -> TargetProfile:
    return TargetProfile(
        name="test",
        description="",
        surface="edge",
        formats=("onnx",),
        memory_limit_mib=512,
        memory_reserve_mib=0,
        bundle_limit_mib=None,
        threads=1,
        context_length=64,
        accuracy_level=accuracy_level,
        provenance={},
    )


def save_random(family: Family, directory: Path) -> Path:
    """A checkpoint whose norms and biases are no longer ones and zeros, which would hide those that are forgotten."""
    torch.manual_seed(0)
    base = IMAGES if takes_pixels(family.task) else BASE
    config = AutoConfig.for_model(family.model_type, **{**base, **family.options})
    builder: Any = BUILDERS[family.task]
    model = builder.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.save_pretrained(directory)
    if takes_pixels(family.task):
        settings = {"size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE}}
        (directory / "preprocessor_config.json").write_text(json.dumps(settings))
    if family.pooling != "none":
        save_sentence_modules(directory, pooling=family.pooling, normalize=True, dimension=64)
    return directory


def quantized(family: Family, directory: Path, profile: TargetProfile | None = None) -> QuantizedModel:
    source = load(save_random(family, directory / "source"), task=family.task)
    return quantize(source, allocate(source, family.recipe, profile or target()), directory / "store")


def lowered_into(directory: Path, store: QuantizedModel) -> Artifact:
    directory.mkdir()
    return lower(store, target(), "onnx", directory, SilentProgress())


def prepare(family: Family, directory: Path) -> Lowered:
    store = quantized(family, directory)
    artifact = lowered_into(directory / "artifact", store)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(artifact.directory / "model.onnx", options, providers=["CPUExecutionProvider"])
    module = reference_module(family, store, directory)
    return Lowered(family=family, store=store, artifact=artifact, session=session, module=module)


def reference_module(family: Family, store: QuantizedModel, directory: Path) -> torch.nn.Module:
    """The checkpoint under `directory` with the store's weights, dequantized."""
    model, _ = load_module(directory / "source", family.task, dtype="float32")
    with torch.no_grad():
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        for name in store.names():
            tensors[name].copy_(torch.from_numpy(store.dequantized(name)))
    is_encoder = family.task == "feature-extraction"
    module = SentenceEmbedding(model, store.info.pooling, store.info.normalize) if is_encoder else model
    return module.eval()
