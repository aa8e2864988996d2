"""Random models of a few thousand weights, saved as Hugging Face directories with a small byte-level tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

VOCABULARY = 384
END_OF_TEXT = "<|endoftext|>"
PAD, START, SEPARATOR = "[PAD]", "[CLS]", "[SEP]"
INITIALIZER_RANGE = 0.125  # large enough that logits differ from one another

Dtype = Literal["float32", "float16", "bfloat16"]
PoolingName = Literal["none", "mean", "cls", "max", "lasttoken"]

_CORPUS = (
    "The boat left the harbour before the fog had lifted, and nobody on the quay waved.",
    "A tokenizer needs a little text to learn from; these lines are all that it will ever see.",
    "Seven plus five is twelve, and twelve minus seven is five again.",
    "She repaired the clock, wound it, listened, and then moved the hands to noon.",
    "for index in range(10): total = total + index",
)


def tiny_llama(
    directory: Path,
    *,
    tied: bool = True,
    dtype: Dtype = "float32",
    hidden: int = 64,
    intermediate: int = 172,
    layers: int = 2,
    heads: int = 4,
    key_value_heads: int = 2,
    vocabulary: int = VOCABULARY,
    context: int = 128,
    max_shard_size: str = "1GB",
    seed: int = 0,
) -> Path:
    """A LlamaForCausalLM in `directory`, which is returned."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        max_position_embeddings=context,
        tie_word_embeddings=tied,
        initializer_range=INITIALIZER_RANGE,
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(seed)
    _save(LlamaForCausalLM(config), directory, dtype, max_shard_size)
    _save_causal_tokenizer(directory, vocabulary)
    return directory


def tiny_qwen2(
    directory: Path,
    *,
    tied: bool = False,
    dtype: Dtype = "float32",
    hidden: int = 64,
    intermediate: int = 172,
    layers: int = 2,
    heads: int = 4,
    key_value_heads: int = 2,
    vocabulary: int = VOCABULARY,
    context: int = 128,
    max_shard_size: str = "1GB",
    seed: int = 0,
) -> Path:
    """A Qwen2ForCausalLM (biases on q, k and v) in `directory`, which is returned."""
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        max_position_embeddings=context,
        tie_word_embeddings=tied,
        initializer_range=INITIALIZER_RANGE,
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(config)
    _randomize_biases(model)
    _save(model, directory, dtype, max_shard_size)
    _save_causal_tokenizer(directory, vocabulary)
    return directory


def tiny_gpt2(
    directory: Path,
    *,
    tied: bool = True,
    dtype: Dtype = "float32",
    hidden: int = 64,
    intermediate: int = 172,
    layers: int = 2,
    heads: int = 4,
    vocabulary: int = VOCABULARY,
    context: int = 128,
    seed: int = 0,
) -> Path:
    """A GPT2LMHeadModel (Conv1D linears, learned positions) in `directory`, which is returned."""
    config = GPT2Config(
        vocab_size=vocabulary,
        n_embd=hidden,
        n_inner=intermediate,
        n_layer=layers,
        n_head=heads,
        n_positions=context,
        tie_word_embeddings=tied,
        initializer_range=INITIALIZER_RANGE,
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(config)
    _randomize_biases(model)
    _save(model, directory, dtype)
    _save_causal_tokenizer(directory, vocabulary)
    return directory


def tiny_bert(
    directory: Path,
    *,
    pooling: PoolingName = "mean",
    normalize: bool = True,
    dtype: Dtype = "float32",
    hidden: int = 64,
    intermediate: int = 172,
    layers: int = 2,
    heads: int = 4,
    vocabulary: int = VOCABULARY,
    context: int = 128,
    seed: int = 0,
) -> Path:
    """A BertModel in `directory`, which is returned; with modules.json and 1_Pooling unless `pooling` is "none"."""
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=context,
        initializer_range=INITIALIZER_RANGE,
        pad_token_id=0,
    )
    torch.manual_seed(seed)
    model = BertModel(config)
    _randomize_biases(model)
    _save(model, directory, dtype)
    save_encoder_tokenizer(directory, vocabulary, context)
    if pooling != "none":
        save_sentence_modules(directory, pooling=pooling, normalize=normalize, dimension=hidden)
    return directory


def save_sentence_modules(directory: Path, *, pooling: PoolingName, normalize: bool, dimension: int) -> None:
    """What sentence-transformers writes: modules.json and 1_Pooling/config.json in the spelling of 2021 to 2025."""
    steps = [("", "Transformer"), ("1_Pooling", "Pooling")] + [("2_Normalize", "Normalize")] * normalize
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(steps)
    ]
    (directory / "modules.json").write_text(json.dumps(modules))
    keys = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens", "lasttoken": "lasttoken"}
    settings = {f"pooling_mode_{key}": name == pooling for name, key in keys.items()}
    (directory / "1_Pooling").mkdir(exist_ok=True)
    configuration = {"word_embedding_dimension": dimension, **settings}
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(configuration))


def _randomize_biases(model: PreTrainedModel) -> None:
    """Fresh biases are zero, which would hide a bias that a lowering forgets."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0.0, INITIALIZER_RANGE)


def _save(model: PreTrainedModel, directory: Path, dtype: Dtype, max_shard_size: str = "1GB") -> None:
    model.to(getattr(torch, dtype)).save_pretrained(directory, max_shard_size=max_shard_size)


def _train_tokenizer(special_tokens: list[str], vocabulary: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=min(vocabulary, VOCABULARY),
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return tokenizer


def _save_causal_tokenizer(directory: Path, vocabulary: int) -> None:
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=_train_tokenizer([END_OF_TEXT], vocabulary), bos_token=END_OF_TEXT, eos_token=END_OF_TEXT
    )
    tokenizer.save_pretrained(directory)


def save_encoder_tokenizer(directory: Path, vocabulary: int, context: int) -> None:
    tokenizer = _train_tokenizer([PAD, START, SEPARATOR], vocabulary)
    pair = [(START, tokenizer.token_to_id(START)), (SEPARATOR, tokenizer.token_to_id(SEPARATOR))]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A {SEPARATOR}", special_tokens=pair)
    wrapped = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, pad_token=PAD, cls_token=START, sep_token=SEPARATOR, model_max_length=context
    )
    wrapped.save_pretrained(directory)
