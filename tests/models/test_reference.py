"""The reference process against a plain forward, and what it says when it fails."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM

from edgeq.core.details import ReferenceDetails
from edgeq.core.model import Task
from edgeq.core.recipe import Assignment, Plan
from edgeq.core.records import from_plain
from edgeq.core.scheme import Scheme
from edgeq.errors import CorruptInputError, EdgeqError, InternalError, UsageError
from edgeq.models.reference import (
    CONTINUED_TOKENS,
    PROMPT_TOKENS,
    PROMPTS,
    ReferenceRequest,
    _child_error,
    compute,
    run_reference,
)
from edgeq.models.source import load
from edgeq.quantization import quantize
from edgeq.store import QuantizedModel

SEQUENCES = ((1, 5, 9, 200, 17), (3, 4))


def make_store(source: Path, directory: Path) -> QuantizedModel:
    """Every matrix at 4 bits, the rest float."""
    model = load(source)
    assignment = Assignment(scheme=Scheme(bits=4), method="rtn")
    matrices = [name for name, weight in model.info.weights.items() if weight.is_matrix]
    return quantize(model, Plan(assignments=dict.fromkeys(matrices, assignment)), directory)


def request(source: Path, store: Path | None, task: Task, output: Path) -> ReferenceRequest:
    name = None if store is None else str(store)
    return ReferenceRequest(source=str(source), store=name, task=task, sequences=SEQUENCES, output=str(output))


def read(output: Path, part: str) -> list[npt.NDArray[Any]]:
    return [np.load(path) for path in sorted((output / part).glob("*.npy"))]


@pytest.mark.parametrize("fixture", ["llama", "qwen2", "gpt2"])
def test_logits_are_those_of_transformers_with_and_without_quantized_weights(
    fixture: str, request_of: pytest.FixtureRequest, tmp_path: Path
) -> None:
    source = request_of.getfixturevalue(fixture)
    store = make_store(source, tmp_path / "store")
    compute(request(source, store.directory, "text-generation", tmp_path / "out"))
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    plain = [model(torch.tensor([ids])).logits[0].detach().numpy() for ids in SEQUENCES]
    weights = {name: torch.from_numpy(store.dequantized(name)) for name in store.names()}
    model.load_state_dict(weights, strict=False)
    quantized = [model(torch.tensor([ids])).logits[0].detach().numpy() for ids in SEQUENCES]
    for index, logits in enumerate(read(tmp_path / "out", "float")):
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, plain[index], rtol=1e-4, atol=1e-4)
    for index, logits in enumerate(read(tmp_path / "out", "dequantized")):
        np.testing.assert_allclose(logits, quantized[index], rtol=1e-4, atol=1e-4)
        assert np.abs(logits - plain[index]).max() > 0.01


@pytest.fixture
def request_of(request: pytest.FixtureRequest) -> pytest.FixtureRequest:
    return request


def test_embeddings_are_pooled_and_normalised(bert: Path, tmp_path: Path) -> None:
    store = make_store(bert, tmp_path / "store")
    compute(request(bert, store.directory, "feature-extraction", tmp_path / "out"))
    model = AutoModel.from_pretrained(bert)
    for index, embedding in enumerate(read(tmp_path / "out", "float")):
        hidden = model(torch.tensor([SEQUENCES[index]])).last_hidden_state[0].detach().numpy()
        mean = hidden.mean(0)
        np.testing.assert_allclose(embedding, mean / np.linalg.norm(mean), rtol=1e-4, atol=1e-5)
    floats, quantized = read(tmp_path / "out", "float"), read(tmp_path / "out", "dequantized")
    assert all(0.5 < float(a @ b) < 0.9999 for a, b in zip(floats, quantized, strict=True))


def test_run_reference_does_the_same_in_another_process(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    store = make_store(llama, tmp_path / "store")
    output = tmp_path / "out"
    run_reference(source=llama, store=store.directory, task="text-generation", sequences=SEQUENCES, output=output)
    compute(request(llama, store.directory, "text-generation", tmp_path / "here"))
    inputs = json.loads((output / "inputs.json").read_text())
    assert inputs == {"task": "text-generation", "sequences": [list(ids) for ids in SEQUENCES]}
    for part in ("float", "dequantized"):
        for child, here in zip(read(output, part), read(tmp_path / "here", part), strict=True):
            np.testing.assert_allclose(child, here, rtol=1e-5, atol=1e-5)


def test_without_a_store_only_the_float_model_runs(llama: Path, tmp_path: Path) -> None:
    compute(request(llama, None, "text-generation", tmp_path / "out"))
    assert not (tmp_path / "out" / "dequantized").exists()
    assert len(read(tmp_path / "out", "float")) == len(SEQUENCES)


@pytest.mark.parametrize("fixture", ["llama", "gpt2"])
def test_beginnings_are_continued_as_transformers_does(
    fixture: str, request_of: pytest.FixtureRequest, tmp_path: Path
) -> None:
    source = request_of.getfixturevalue(fixture)
    asked = request(source, None, "text-generation", tmp_path / "out")
    long = tuple(range(3, 3 + PROMPT_TOKENS + 5))
    compute(dataclasses.replace(asked, sequences=(long, long[1:], *[long] * PROMPTS)))
    found = from_plain(ReferenceDetails, json.loads((tmp_path / "out" / "details.json").read_text()), "details")
    model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    assert [one.prompt for one in found.continuations[:2]] == [long[:PROMPT_TOKENS], long[1 : PROMPT_TOKENS + 1]]
    assert len(found.continuations) == PROMPTS
    for one in found.continuations[:2]:
        prompt = torch.tensor([one.prompt])
        expected = model.generate(
            prompt, do_sample=False, min_new_tokens=CONTINUED_TOKENS, max_new_tokens=CONTINUED_TOKENS, eos_token_id=None
        )
        assert one.tokens == tuple(expected[0, PROMPT_TOKENS:].tolist())
    assert found.layers == ()


def test_encoders_continue_nothing(bert: Path, tmp_path: Path) -> None:
    compute(request(bert, None, "feature-extraction", tmp_path / "out"))
    assert json.loads((tmp_path / "out" / "details.json").read_text())["continuations"] == []


def test_a_store_of_another_model_is_refused(llama: Path, qwen2: Path, tmp_path: Path) -> None:
    store = make_store(qwen2, tmp_path / "store")
    with pytest.raises(CorruptInputError, match="disagree"):
        compute(request(llama, store.directory, "text-generation", tmp_path / "out"))


def test_a_damaged_model_is_reported_by_the_child(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    source = tmp_path / "model"
    shutil.copytree(llama, source)
    (source / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CorruptInputError, match="cannot load"):
        run_reference(source=source, store=None, task="text-generation", sequences=SEQUENCES, output=tmp_path / "out")


@pytest.mark.parametrize(
    ("code", "stderr", "error", "words"),
    [
        (-9, "", InternalError, "signal 9"),
        (1, "Traceback\nValueError: odd\n\n", InternalError, "ValueError: odd"),
        (5, "", InternalError, "said nothing"),
        (2, "noise\nNo such thing.\tDo this.\n", UsageError, r"No such thing\. Do this\."),
        (4, "Broken.\tFetch it.", CorruptInputError, "Broken"),
    ],
)
def test_failures_of_the_child_have_one_line(code: int, stderr: str, error: type[EdgeqError], words: str) -> None:
    failure = _child_error(code, stderr)
    assert type(failure) is error
    assert "\n" not in str(failure)
    with pytest.raises(error, match=words):
        raise failure
