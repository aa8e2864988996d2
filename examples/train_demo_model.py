"""Train the embedded demo model: a 6 M parameter Llama-architecture language model with its own tokenizer.
`--architecture gpt_neox` trains a model of 8 M parameters that has little in common with it, for benchmarks.

    python examples/train_demo_model.py --train corpus.txt [more.txt ...] --test test.txt --output edgeq/models/demo

The last twentieth of every training file is held out; the checkpoint with the lowest held-out loss is the one kept.
Corpora with spaced-out punctuation and <unk> words, as WikiText-2 has them, are read a second time as plain English,
so that the model can write both.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

VOCABULARY = 4096
END_OF_TEXT = "<|endoftext|>"
CONTEXT = 512
BATCH = 4
PEAK_LEARNING_RATE = 4e-3
WARMUP_STEPS = 100
EVALUATE_EVERY = 150
UNKNOWN = "<unk>"
CONFIGURATIONS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    ),
    # LayerNorm and biases, attention and MLP in parallel, one matrix for q, k and v, a head of its own.
    "gpt_neox": GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=320,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=5,
        max_position_embeddings=CONTEXT,
        bos_token_id=0,
        eos_token_id=0,
    ),
}


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """A byte-level BPE: every string round-trips, nothing is unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((line for text in texts for line in text.splitlines(keepends=True)), trainer)
    return tokenizer


def plain_english(text: str) -> str:
    """The sentences without unknown words, with punctuation set as people set it."""
    sentences = [s for line in text.splitlines() for s in re.split(r"(?<= \.) ", f"{line} ") if UNKNOWN not in s]
    plain = " ".join(s.strip() for s in sentences if "=" not in s and s.strip())
    plain = re.sub(r" @(.)@ ", r"\1", plain)
    plain = re.sub(r" ([.,;:!?)%]|'s|n't)", r"\1", plain)
    plain = re.sub(r'" ([^"]*?) "', r'"\1"', plain).replace("( ", "(").replace("$ ", "$")
    return re.sub(r"(?<=[.!?]) (?=[A-Z])", " ", plain)


def encode(tokenizer: Tokenizer, text: str) -> torch.Tensor:
    """Token ids of a whole text, `int64 [tokens]`."""
    encoded = tokenizer.encode_batch(text.splitlines(keepends=True))
    return torch.tensor([token for line in encoded for token in line.ids])


def epoch_batches(tokens: torch.Tensor, generator: torch.Generator) -> list[torch.Tensor]:
    """Shuffled `[BATCH, CONTEXT + 1]` windows that start at a random offset, so that no epoch repeats another."""
    offset = int(torch.randint(CONTEXT, (1,), generator=generator))
    count = (len(tokens) - offset - 1) // CONTEXT
    starts = offset + CONTEXT * torch.randperm(count, generator=generator)
    windows = torch.stack([tokens[start : start + CONTEXT + 1] for start in starts.tolist()])
    return [windows[i : i + BATCH] for i in range(0, count - BATCH + 1, BATCH)]


@torch.no_grad()
def mean_loss(model: PreTrainedModel, tokens: torch.Tensor) -> float:
    """Nats per token over consecutive windows; each window's first token is context only."""
    model.train(False)
    total, count = 0.0, 0
    for start in range(0, len(tokens) - 1, CONTEXT):
        window = tokens[start : start + CONTEXT + 1][None]
        logits = model(window[:, :-1]).logits
        total += float(torch.nn.functional.cross_entropy(logits[0], window[0, 1:], reduction="sum"))
        count += window.shape[1] - 1
    model.train()
    return total / count


def bits_per_byte(model: PreTrainedModel, tokenizer: Tokenizer, text: str) -> float:
    tokens = encode(tokenizer, text)
    return mean_loss(model, tokens) * (len(tokens) - 1) / math.log(2) / len(text.encode())


def optimizers_of(model: PreTrainedModel) -> list[torch.optim.Optimizer]:
    """Muon (https://kellerjordan.github.io/posts/muon) for the hidden matrices, AdamW for embeddings, head, norms and
    biases."""
    tables = {
        model.get_input_embeddings().weight,
        model.get_output_embeddings().weight,  # type: ignore[no-untyped-call]
    }
    hidden = [p for p in model.parameters() if p.dim() == 2 and p not in tables]
    others = [p for p in model.parameters() if p.dim() != 2 or p in tables]
    return [
        torch.optim.Muon(hidden, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, weight_decay=0.01, betas=(0.9, 0.95)),
    ]


def train(model: PreTrainedModel, tokens: torch.Tensor, held_out: torch.Tensor, minutes: float) -> None:
    """A cosine schedule over the time allowed, in bfloat16; leaves the best held-out weights in `model`."""
    generator = torch.Generator().manual_seed(0)
    optimizers = optimizers_of(model)
    best_loss, best = math.inf, {}
    step, started = 0, time.monotonic()
    progress = 0.0
    while progress < 1.0:
        for batch in epoch_batches(tokens, generator):
            progress = min(1.0, (time.monotonic() - started) / (60 * minutes))
            decay = 0.01 + 0.495 * (1 + math.cos(math.pi * progress))
            for group in (group for optimizer in optimizers for group in optimizer.param_groups):
                group["lr"] = PEAK_LEARNING_RATE * min(1.0, (step + 1) / WARMUP_STEPS) * decay
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(batch[:, :-1]).logits
            loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
            model.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
            step += 1
            if step % EVALUATE_EVERY == 0 or progress >= 1.0:
                held_out_loss = mean_loss(model, held_out)
                losses = f"train {loss.item():.3f}  held out {held_out_loss:.4f}"
                print(f"step {step}  {100 * progress:.0f} %  {losses}", flush=True)
                if held_out_loss < best_loss:
                    best_loss = held_out_loss
                    best = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
            if progress >= 1.0:
                break
    model.load_state_dict(best)


def save(model: PreTrainedModel, tokenizer: Tokenizer, output: Path) -> None:
    model.bfloat16().save_pretrained(output)
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, model_max_length=CONTEXT
    ).save_pretrained(output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, nargs="+", required=True, help="UTF-8 text files")
    parser.add_argument("--test", type=Path, help="text for the figure in metrics.json; never trained on")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--architecture", choices=CONFIGURATIONS, default="llama")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    texts = [path.read_text(encoding="utf-8") for path in arguments.train]
    cuts = [len(text) * 19 // 20 for text in texts]
    train_text = "".join(text[:cut] for text, cut in zip(texts, cuts, strict=True))
    held_out_text = "".join(text[cut:] for text, cut in zip(texts, cuts, strict=True))
    plain = "".join(plain_english(text[:cut]) for text, cut in zip(texts, cuts, strict=True) if UNKNOWN in text)
    tokenizer = train_tokenizer([train_text, plain])
    model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
        CONFIGURATIONS[arguments.architecture]
    )
    print(f"{model.num_parameters():,} parameters", flush=True)
    tokens = torch.cat([encode(tokenizer, text) for text in (train_text, plain)])
    print(f"{len(tokens):,} tokens", flush=True)
    train(model, tokens, encode(tokenizer, held_out_text), arguments.minutes)

    metrics = {"held_out_bits_per_byte": bits_per_byte(model, tokenizer, held_out_text)}
    metrics["held_out_perplexity"] = math.exp(mean_loss(model, encode(tokenizer, held_out_text)))
    if arguments.test:
        test_text = arguments.test.read_text(encoding="utf-8")
        metrics["test_bits_per_byte"] = bits_per_byte(model, tokenizer, test_text)
        metrics["test_perplexity"] = math.exp(mean_loss(model, encode(tokenizer, test_text)))
    save(model, tokenizer, arguments.output)
    print(json.dumps(metrics, indent=2))


if __name__ == "__main__":
    main()
