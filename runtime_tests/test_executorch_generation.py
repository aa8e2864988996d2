"""A `.pte` in ExecuTorch's own runtime: through edgeq's driver, and through the runner that apps use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgeq.core.artifact import Artifact
from edgeq.core.recipe import Recipe
from edgeq.errors import CorruptInputError
from edgeq.lowering import lower
from edgeq.models.architecture import build_module
from edgeq.models.source import load
from edgeq.progress import SilentProgress
from edgeq.quantization import allocate, quantize
from edgeq.runtimes import onnxruntime
from edgeq.runtimes.executorch import Encoder, TextGenerator, import_executorch, planned_memory
from edgeq.runtimes.generation import Floats
from edgeq.store import QuantizedModel
from edgeq.targets.profiles import load_profile
from edgeq.validation.gates import LOWERING_RELATIVE_ERROR
from tests.tiny_models import tiny_bert

PROMPTS = ("Once upon a time", "The little dog", "Lily and Tom went to the park")
NEW_TOKENS = 20
TOLERANCE = LOWERING_RELATIVE_ERROR["executorch"]
"""Of the logits' size. A token at a time and a chunk go through different kernels, which sum in another order; where
that tips the rounding of an activation, it is as far off as any rounding."""


@dataclass(frozen=True, kw_only=True)
class Demo:
    """The demo model at 4 bits, once per runtime, and torch with the same weights."""

    pte: Artifact
    onnx: Artifact
    tokenizer: Path
    module: Any

    def generator(self) -> TextGenerator:
        path = self.pte.directory / self.pte.entry
        return TextGenerator(path, self.pte.interface, tokenizer_path=self.tokenizer, threads=1)

    def onnx_generator(self) -> onnxruntime.TextGenerator:
        path = self.onnx.directory / self.onnx.entry
        return onnxruntime.TextGenerator(path, self.onnx.interface, tokenizer_path=self.tokenizer, threads=1)

    def reference(self, ids: list[int]) -> Floats:
        """Logits `[len(ids), vocabulary]`."""
        with torch.no_grad():
            logits: Floats = self.module(torch.tensor([ids])).logits[0].numpy()
        return logits


def lowered(store: QuantizedModel, format: Any, directory: Path) -> Artifact:  # noqa: ANN401
    directory.mkdir()
    return lower(store, load_profile("android"), format, directory, SilentProgress())


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    directory = tmp_path_factory.mktemp("demo")
    torch.set_num_threads(1)
    source = load(None)
    schemes = allocate(source, Recipe(bits=4), load_profile("android"), ("executorch",))
    store = quantize(source, schemes, directory / "store")
    module = build_module(store.source_directory, "text-generation", device="cpu")
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(torch.from_numpy(np.array(store.dequantized(name))))
    return Demo(
        pte=lowered(store, "executorch", directory / "pte"),
        onnx=lowered(store, "onnx", directory / "onnx"),
        tokenizer=store.source_directory / "tokenizer.json",
        module=module,
    )


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    directory = tmp_path_factory.mktemp("encoder")
    source = load(tiny_bert(directory / "source"))
    schemes = allocate(source, Recipe(bits=8), load_profile("android"), ("executorch",))
    store = quantize(source, schemes, directory / "store")
    artifact = lowered(store, "executorch", directory / "pte")
    tokenizer = store.source_directory / "tokenizer.json"
    return Encoder(artifact.directory / artifact.entry, artifact.interface, tokenizer_path=tokenizer, threads=1)


def some_ids(length: int, seed: int = 0) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(5, 4000, length)]


def assert_close(found: Floats, expected: Floats) -> None:
    assert found.shape == expected.shape
    assert np.linalg.norm(found - expected) <= TOLERANCE * np.linalg.norm(expected)


def test_pieces_through_the_cache_equal_the_whole(demo: Demo) -> None:
    model, ids = demo.generator(), some_ids(40)
    one_by_one = model.prefill(ids, keep=0)
    assert_close(one_by_one, demo.reference(ids))
    ends = [model.prefill(ids[:7]), model.forward(ids[7:21]), model.forward(ids[21:22]), model.forward(ids[22:])]
    assert_close(np.concatenate(ends), one_by_one[[6, 20, 21, 39]])


def test_a_prompt_longer_than_one_call(demo: Demo) -> None:
    model, ids = demo.generator(), some_ids(300)
    assert_close(model.prefill(ids, keep=2), demo.reference(ids)[-2:])


def test_nothing_is_left_of_the_sequence_before(demo: Demo) -> None:
    used, fresh = demo.generator(), demo.generator()
    used.prefill(some_ids(200, seed=1))
    for length in (9, 1, 30):
        ids = some_ids(length, seed=2)
        assert np.array_equal(used.prefill(ids), fresh.prefill(ids))
        assert np.array_equal(used.step(5), fresh.step(5))


def test_two_models_in_one_process_keep_their_own_caches(demo: Demo) -> None:
    first, second = demo.generator(), demo.generator()
    alone = first.prefill(some_ids(12)), first.step(7)
    first.prefill(some_ids(12))
    second.prefill(some_ids(50, seed=3))
    assert np.array_equal(first.step(7), alone[1])


def partings(demo: Demo, model: TextGenerator | onnxruntime.TextGenerator, prompt: str) -> list[str]:
    """Where the greedy choice of `model` along torch's own continuation is another one.

    Another choice must be a near tie of torch's logits: closer than twice the error that the runtime is allowed.
    """
    where: list[str] = []
    ids = model.encode(prompt)
    tokens = list(ids)
    for _ in range(NEW_TOKENS):
        tokens.append(int(demo.reference(tokens)[-1].argmax()))
    logits = demo.reference(tokens)
    found = model.prefill(tokens[:-1], keep=0)
    for position in range(len(ids) - 1, len(tokens) - 1):
        chosen, best = int(found[position].argmax()), tokens[position + 1]
        margin = float(logits[position, best] - logits[position, chosen])
        size = float(np.sqrt(np.mean(logits[position] ** 2)))
        assert margin <= 2 * TOLERANCE * size, f"{prompt!r}: token {chosen} instead of {best} at {position}"
        if chosen != best:
            where.append(f"{prompt!r} parts after {position + 1 - len(ids)} tokens at {margin:.3g} of {size:.3g}")
    return where


@pytest.mark.parametrize("prompt", PROMPTS)
def test_three_runtimes_write_the_same_or_part_at_a_near_tie(demo: Demo, prompt: str) -> None:
    for model in (demo.generator(), demo.onnx_generator()):
        for where in partings(demo, model, prompt):
            print(f"{type(model).__module__}: {where}")


def test_the_runner_that_apps_use_writes_the_same(demo: Demo) -> None:
    import_executorch()
    from executorch.extension.llm.runner import GenerationConfig, TextLLMRunner

    model = demo.generator()
    runner = TextLLMRunner(str(demo.pte.directory / demo.pte.entry), str(demo.tokenizer))
    config = GenerationConfig(echo=False, max_new_tokens=NEW_TOKENS, temperature=0.0)
    for prompt in PROMPTS:
        pieces: list[str] = []
        counts: list[int] = []
        runner.reset()
        runner.generate(prompt, config, pieces.append, lambda stats, into=counts: into.append(stats.num_prompt_tokens))
        assert "".join(pieces) == model.generate(prompt, max_new_tokens=NEW_TOKENS)
        assert counts == [len(model.encode(prompt))]


def test_a_batch_of_sentences_equals_single_ones(encoder: Encoder) -> None:
    texts = ["She", "A tokenizer needs a little text", "The boat left the harbour before the fog had lifted"]
    together = encoder.encode(texts)
    alone = np.concatenate([encoder.encode([text]) for text in texts])
    assert together.shape == (3, encoder.interface.dimension or together.shape[1])
    assert np.abs(together - alone).max() < 1e-2
    assert encoder.forward([[5]]).shape[0] == 1


def test_planned_memory_is_what_executorch_s_own_reader_says(demo: Demo) -> None:
    from executorch.exir._serialize._program import deserialize_pte_binary

    path = demo.pte.directory / demo.pte.entry
    planned = planned_memory(path)
    file = deserialize_pte_binary(path.read_bytes())
    plan = next(plan for plan in file.program.execution_plan if plan.name == "forward")
    assert planned.arena_bytes == sum(plan.non_const_buffer_sizes)
    assert planned.delegate_bytes == sum(len(delegate.data) for delegate in file.program.backend_delegate_data)
    assert planned.constant_bytes == sum(len(buffer.storage) for buffer in file.program.constant_buffer)
    assert planned.named_bytes == sum(len(buffer) for buffer in file.named_data.buffers)
    caches = sum(2 * 4 * demo.pte.interface.context_length * heads * size for heads, size in demo.pte.interface.cache)
    assert planned.arena_bytes > caches > 0


@pytest.mark.parametrize("damage", ["empty", "text", "flipped", "half", "last bytes"])
def test_a_damaged_file_is_refused(demo: Demo, tmp_path: Path, damage: str) -> None:
    contents = (demo.pte.directory / demo.pte.entry).read_bytes()
    damaged = {
        "empty": b"",
        "text": b"no program",
        "flipped": contents[:200] + bytes([contents[200] ^ 255]) + contents[201:],
        "half": contents[: len(contents) // 2],
        "last bytes": contents[:-100],
    }
    path = tmp_path / "model.pte"
    path.write_bytes(damaged[damage])
    with pytest.raises(CorruptInputError, match="ExecuTorch refuses model"):
        TextGenerator(path, demo.pte.interface)
    with pytest.raises(CorruptInputError, match="ExecuTorch refuses model"):
        planned_memory(path)
