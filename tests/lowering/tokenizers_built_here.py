"""Small tokenizers of every kind that a graph can hold, trained on text that has all scripts of the hard set."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from edgeq.models.tokens import DATA
from edgeq.runtimes.hard_texts import HARD_TEXTS

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
FAIRSEQ = ["<s>", "<pad>", "</s>", "<unk>"]
VOCABULARY = 900


def corpus() -> list[str]:
    """Every other hard text is left out, so that there are characters without a token; and what no text should hold."""
    lines = (DATA / "sentences.txt").read_text(encoding="utf-8").splitlines()
    return [text.translate({0: None, 0xFFFE: None, 0xFFFF: None}) for text in (*lines, *HARD_TEXTS[::2])]


@cache
def wordpiece(*, lowercase: bool = True, strip_accents: bool | None = None, clean_text: bool = True) -> Tokenizer:
    """As BERT's."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=lowercase, strip_accents=strip_accents, clean_text=clean_text
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


@cache
def byte_level(*, around: bool = False) -> Tokenizer:
    """As GPT-2's; with `around` as RoBERTa's, which puts ids around a text and has a <mask> that takes spaces along."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=FAIRSEQ if around else ["<|end|>", "<|user|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    if around:
        tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False)])
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
        )
    else:
        tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
    return tokenizer


@cache
def byte_level_as(pattern: str) -> Tokenizer:
    """With words parted by another pattern than GPT-2's."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|begin|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


@cache
def unigram() -> Tokenizer:
    """As XLM-RoBERTa's. Scores are rounded to eighths, so that sums of them are exact in float32, in which the operator
    adds them, and in float64."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    trainer = trainers.UnigramTrainer(
        vocab_size=VOCABULARY, special_tokens=FAIRSEQ, unk_token=FAIRSEQ[-1], show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    plain = json.loads(tokenizer.to_str())
    plain["model"]["vocab"] = [[piece, round(8 * score) / 8] for piece, score in plain["model"]["vocab"]]
    tokenizer = Tokenizer.from_str(json.dumps(plain))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def saved(tokenizer: Tokenizer, directory: Path) -> Path:
    """The tokenizer as a checkpoint has it."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory
