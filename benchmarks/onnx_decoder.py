"""One decoder graph in plain ONNX Runtime with IO binding; prints its speed in tokens per second as JSON.

python -m benchmarks.onnx_decoder MODEL.onnx [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.random_llama import HEAD_SIZE

PROMPT_TOKENS = 32
NEW_TOKENS = 64
CAPACITY = 128
REPEATS = 3
SEED = 0


class Decoder:
    """Greedy decoding of one sequence; inputs and outputs are found by their names, whoever built the graph."""

    def __init__(self, model: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self.inputs = {node.name: node for node in self.session.get_inputs()}
        self.past = tuple(name for name in self.inputs if name.startswith("past_key_values."))

    def new_cache(self, length: int) -> dict[str, Any]:
        """Zeros `[1, heads, length, head size]` for each cache input."""
        shapes = {name: (1, self.inputs[name].shape[1], length, HEAD_SIZE) for name in self.past}
        zeros = onnxruntime.OrtValue.ortvalue_from_numpy
        return {name: zeros(np.zeros(shape, np.float32)) for name, shape in shapes.items()}

    def forward(self, ids: Sequence[int], total: int, cache: dict[str, Any], *, shared: bool, keep: int) -> int:
        """Append `ids`: the most likely next token. Moves the cache on; a shared one is written in place."""
        binding = self.session.io_binding()
        feeds = {"input_ids": np.array([ids], np.int64), "attention_mask": np.ones((1, total), np.int64)}
        if "num_logits_to_keep" in self.inputs:
            feeds["num_logits_to_keep"] = np.array(keep, np.int64)
        if "position_ids" in self.inputs:
            feeds["position_ids"] = np.arange(total - len(ids), total, dtype=np.int64)[None]
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        binding.bind_output("logits", "cpu")
        presents = [name.replace("past_key_values.", "present.") for name in self.past]
        for name, present in zip(self.past, presents, strict=True):
            binding.bind_ortvalue_input(name, cache[name])
            if shared:
                binding.bind_ortvalue_output(present, cache[name])
            else:
                binding.bind_output(present, "cpu")
        self.session.run_with_iobinding(binding)
        outputs = binding.get_outputs()
        if not shared:
            cache.update(zip(self.past, outputs[1:], strict=True))
        return int(outputs[0].numpy()[0, -1].argmax())


def decode(decoder: Decoder, prompt: list[int], *, shared: bool) -> tuple[list[int], float]:
    """The greedy continuation, and tokens per second of the steps after the prompt."""
    cache = decoder.new_cache(CAPACITY if shared else 0)
    tokens = [decoder.forward(prompt, len(prompt), cache, shared=shared, keep=1)]
    started = time.perf_counter()
    for step in range(1, NEW_TOKENS + 1):
        tokens.append(decoder.forward(tokens[-1:], len(prompt) + step, cache, shared=shared, keep=1))
    return tokens, NEW_TOKENS / (time.perf_counter() - started)


def prefill(decoder: Decoder, prompt: list[int], *, keep: int) -> float:
    """Prompt tokens per second from an empty cache; keep 0 computes the logits of every position."""
    cache = decoder.new_cache(0)
    started = time.perf_counter()
    decoder.forward(prompt, len(prompt), cache, shared=False, keep=keep)
    return len(prompt) / (time.perf_counter() - started)


def measure(decoder: Decoder) -> dict[str, float | None]:
    """Medians after a warm-up; a shared cache counts only where it gives the tokens that a growing one gives."""
    prompt = np.random.default_rng(SEED).integers(3, 1000, PROMPT_TOKENS).tolist()
    expected, _ = decode(decoder, prompt, shared=False)
    growing = median(decode(decoder, prompt, shared=False)[1] for _ in range(REPEATS))
    shared = _shared(decoder, prompt, expected)
    return {
        "decode_growing": growing,
        "decode_shared": shared,
        "prefill_last": median(prefill(decoder, prompt, keep=1) for _ in range(3 * REPEATS)),
        "prefill_all": median(prefill(decoder, prompt, keep=0) for _ in range(3 * REPEATS)),
    }


def _shared(decoder: Decoder, prompt: list[int], expected: list[int]) -> float | None:
    try:
        tokens, _ = decode(decoder, prompt, shared=True)
    except RuntimeError:  # the graph's outputs do not have the buffer's shape
        return None
    if tokens != expected:
        return None
    return median(decode(decoder, prompt, shared=True)[1] for _ in range(REPEATS))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    print(json.dumps(measure(Decoder(arguments.model, arguments.threads))))
