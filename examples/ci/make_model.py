"""Write a small sentence encoder with random weights, so that the example has a second model without a download.

python examples/ci/make_model.py [DIRECTORY]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

PAD, START, SEPARATOR = "[PAD]", "[CLS]", "[SEP]"
WIDTH, LONGEST = 64, 128
TEXT = (
    "The boat left the harbour before the fog had lifted, and nobody on the quay waved.",
    "Seven plus five is twelve, and twelve minus seven is five again.",
    "She repaired the clock, wound it, listened, and then moved the hands to noon.",
)


def main(directory: Path) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=[PAD, START, SEPARATOR],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    pair = [(token, tokenizer.token_to_id(token)) for token in (START, SEPARATOR)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A {SEPARATOR}", special_tokens=pair)
    config = BertConfig(
        vocab_size=384,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LONGEST,
        initializer_range=0.125,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(directory)
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, pad_token=PAD, cls_token=START, sep_token=SEPARATOR, model_max_length=LONGEST
    ).save_pretrained(directory)
    pool(directory)
    print(f"wrote {directory}")


def pool(directory: Path) -> None:
    """A sentence is the mean of its tokens, as sentence-transformers writes it down."""
    kind = "sentence_transformers.models"
    steps = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"{kind}.{name}"}
        for index, (path, name) in enumerate(steps)
    ]
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "1_Pooling").mkdir(exist_ok=True)
    settings = {"word_embedding_dimension": WIDTH, "pooling_mode_mean_tokens": True}
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(settings))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "models" / "search")
