"""A Llama of SmolLM2-135M's shape with seeded random weights: speed and memory need no trained model.

python -m benchmarks.random_llama DIRECTORY
"""

from __future__ import annotations

import sys
from pathlib import Path

VOCABULARY = 49152
HEAD_SIZE = 64


def save_random_llama(directory: Path) -> None:
    """Write the checkpoint (bfloat16, tied embeddings, 269 MB) and a byte-level tokenizer, which builders insist on."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        head_dim=HEAD_SIZE,
        num_key_value_heads=3,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).bfloat16().save_pretrained(directory)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: index for index, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    first = alphabet[0]
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, bos_token=first, eos_token=first
    )
    fast.save_pretrained(directory)


if __name__ == "__main__":
    save_random_llama(Path(sys.argv[1]))
