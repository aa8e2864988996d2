"""What the driver asks of its runtime, with a runtime made of numpy."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from edgeq.core.artifact import Interface
from edgeq.errors import CorruptInputError, RuntimeUnavailableError, UsageError
from edgeq.runtimes import generation
from edgeq.runtimes import onnxruntime as driver
from edgeq.runtimes.onnxruntime import Encoder, TextGenerator

INTERFACE = Interface(
    task="text-generation",
    inputs=("input_ids", "attention_mask", "num_logits_to_keep", "past_key_values.0.key", "past_key_values.0.value"),
    outputs=("logits", "present.0.key", "present.0.value"),
    vocabulary=10,
    context_length=8,
    cache=((1, 1),),
    end_of_text_ids=(9,),
)
ENCODER = Interface(
    task="feature-extraction",
    inputs=("input_ids", "attention_mask"),
    outputs=("sentence_embedding",),
    vocabulary=10,
    context_length=4,
    pooling="mean",
    dimension=1,
)


class Value:
    """An OrtValue."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.array = array

    @staticmethod
    def ortvalue_from_numpy(array: np.ndarray[Any, Any]) -> Value:
        return Value(array)

    @staticmethod
    def ortvalue_from_shape_and_type(shape: list[int], dtype: type, _: str) -> Value:
        return Value(np.zeros(shape, dtype))

    def numpy(self) -> np.ndarray[Any, Any]:
        return self.array


class Counting:
    """A session whose next token is the last one plus one; its cache holds the tokens that it has seen."""

    OrtValue = Value

    def __init__(self) -> None:
        self.calls: list[dict[str, np.ndarray[Any, Any]]] = []

    def run_with_ort_values(self, outputs: list[str], feeds: dict[str, Value]) -> list[Value]:
        arrays = {name: value.array for name, value in feeds.items()}
        self.calls.append(arrays)
        ids = arrays["input_ids"]
        logits = np.eye(10, dtype=np.float32)[(ids + 1) % 10]
        keep = int(arrays["num_logits_to_keep"])
        seen = ids[:, None, :, None].astype(np.float32)
        cache = np.concatenate([arrays["past_key_values.0.key"], seen], axis=2)
        assert outputs == list(INTERFACE.outputs)
        return [Value(logits[:, -keep:] if keep else logits), Value(cache), Value(cache)]

    def run(self, outputs: list[str], feeds: dict[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        assert outputs == ["sentence_embedding"]
        self.calls.append(feeds)
        total = (feeds["input_ids"] * feeds["attention_mask"]).sum(axis=1, keepdims=True)
        return [total.astype(np.float32)]


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Counting:
    counting = Counting()
    monkeypatch.setattr(driver, "import_onnxruntime", lambda: counting)
    monkeypatch.setattr(driver, "open_session", lambda *_, **__: counting)
    return counting


@pytest.fixture
def words(tmp_path: Path) -> Path:
    tokenizer = Tokenizer(models.WordLevel({f"w{number}": number for number in range(10)}, unk_token="w0"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.enable_padding(length=6)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def generator(interface: Interface = INTERFACE, tokenizer: Path | None = None) -> TextGenerator:
    return TextGenerator(Path("model.onnx"), interface, tokenizer_path=tokenizer)


def encoder(interface: Interface = ENCODER, tokenizer: Path | None = None) -> Encoder:
    return Encoder(Path("model.onnx"), interface, tokenizer_path=tokenizer)


def test_the_cache_goes_in_as_it_came_out(session: Counting) -> None:
    model = generator()
    assert model.prefill([3, 4]).shape == (1, 10)
    assert int(model.step(5).argmax()) == 6
    first, second = session.calls
    assert first["past_key_values.0.key"].shape == (1, 1, 0, 1)
    assert second["past_key_values.0.value"].ravel().tolist() == [3.0, 4.0]
    assert [call["attention_mask"].shape for call in session.calls] == [(1, 2), (1, 3)]
    assert second["input_ids"].tolist() == [[5]]
    assert model.length == 3


def test_keep_chooses_the_logits(session: Counting) -> None:
    model = generator()
    assert model.prefill([1, 2, 3], keep=0).shape == (3, 10)
    assert model.prefill([1, 2, 3], keep=2).shape == (2, 10)
    assert session.calls[1]["past_key_values.0.key"].shape[2] == 0


@pytest.mark.parametrize(
    ("ids", "message"), [([], "no token"), ([1] * 9, "do not fit"), ([10], "0..9"), ([-1], "0..9")]
)
def test_ids_that_cannot_be_fed_are_refused(session: Counting, ids: list[int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        generator().prefill(ids)
    assert not session.calls


def test_a_full_context_refuses_another_token(session: Counting) -> None:
    model = generator()
    model.prefill([0] * 8)
    with pytest.raises(UsageError, match="9 tokens do not fit a context of 8"):
        model.step(1)


def test_generation_stops_at_the_end_of_text(session: Counting) -> None:
    assert list(generator().generate_tokens([6])) == [7, 8]


def test_generation_stops_after_enough_tokens(session: Counting) -> None:
    assert list(generator().generate_tokens([1], max_new_tokens=3)) == [2, 3, 4]
    assert len(session.calls) == 3  # nothing is computed for a token that nobody asked for
    assert list(generator().generate_tokens([1], max_new_tokens=0)) == []


def test_generation_stops_where_the_context_is_full(session: Counting) -> None:
    endless = replace(INTERFACE, end_of_text_ids=())
    assert len(list(generator(endless).generate_tokens([1, 2, 3]))) == 5


def test_a_prompt_without_room_is_refused(session: Counting) -> None:
    with pytest.raises(UsageError, match="fit a context of 8"):
        list(generator().generate_tokens([1] * 8))


def test_text_in_and_out(session: Counting, words: Path) -> None:
    model = generator(tokenizer=words)
    assert model.encode("w3 w4") == [3, 4]
    assert model.generate("w3 w4", max_new_tokens=3).split() == ["w5", "w6", "w7"]
    assert list(model.stream("w3", max_new_tokens=2)) == [" w4", " w5"]


def test_an_empty_prompt_begins_the_text(session: Counting, words: Path) -> None:
    assert generator(replace(INTERFACE, begin_of_text_id=2), words).encode("") == [2]
    with pytest.raises(UsageError, match="no token"):
        generator(tokenizer=words).generate("")


def test_sampling_depends_on_the_seed_alone(session: Counting) -> None:
    model = generator(replace(INTERFACE, end_of_text_ids=()))

    def sample(seed: int) -> list[int]:
        return list(model.generate_tokens([1], temperature=5.0, seed=seed))

    assert sample(1) == sample(1)
    assert len({tuple(sample(seed)) for seed in range(5)}) > 1


def test_without_a_tokenizer_there_is_no_text(session: Counting) -> None:
    with pytest.raises(UsageError, match="without a tokenizer"):
        generator().generate("w1")
    with pytest.raises(UsageError, match="without a tokenizer"):
        encoder().encode(["w1"])


def test_batches_are_padded_on_the_right(session: Counting) -> None:
    output = encoder().forward([[1, 2, 3], [4]])
    assert output.tolist() == [[6.0], [4.0]]
    assert session.calls[0]["input_ids"].tolist() == [[1, 2, 3], [4, 0, 0]]
    assert session.calls[0]["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert set(session.calls[0]) == {"input_ids", "attention_mask"}


def test_token_types_are_given_where_they_are_asked_for(session: Counting) -> None:
    interface = replace(ENCODER, inputs=(*ENCODER.inputs, "token_type_ids"))
    encoder(interface).forward([[1, 2]])
    assert session.calls[0]["token_type_ids"].tolist() == [[0, 0]]


def test_texts_come_back_in_their_order(session: Counting, words: Path) -> None:
    texts = ["w1 w2 w3", "w4", "w5 w1", "w9 w9 w9 w9 w9 w9"]
    output = encoder(tokenizer=words).encode(texts, batch_size=2)
    assert output.tolist() == [[6.0], [4.0], [6.0], [36.0]]  # the last one is cut at four tokens
    assert output.dtype == np.float32
    assert [len(call["input_ids"]) for call in session.calls] == [2, 2]
    assert encoder(tokenizer=words).encode([]).shape == (0, 1)


@pytest.mark.parametrize(
    ("batch", "message"),
    [([], "nothing"), ([[1], []], "nothing"), ([[1] * 5], "do not fit"), ([[1], [10]], "0..9"), ([[-1]], "0..9")],
)
def test_batches_that_cannot_be_fed_are_refused(
    session: Counting, batch: Sequence[Sequence[int]], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        encoder().forward(batch)


def test_one_text_is_no_list_of_texts(session: Counting, words: Path) -> None:
    with pytest.raises(UsageError, match="list of texts"):
        encoder(tokenizer=words).encode("w1")


def test_a_model_that_pools_nothing_gives_no_embeddings(session: Counting, words: Path) -> None:
    with pytest.raises(UsageError, match="pooling"):
        encoder(replace(ENCODER, pooling="none"), words).encode(["w1"])


def test_a_missing_runtime_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *arguments: Any) -> Any:  # noqa: ANN401
        if name == "onnxruntime":
            raise ImportError("No module named 'onnxruntime'")
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(RuntimeUnavailableError, match="pip install onnxruntime"):
        driver.import_onnxruntime()


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CorruptInputError, match="not a tokenizer"):
        generation.load_tokenizer(tmp_path / "tokenizer.json")
    with pytest.raises(CorruptInputError):
        generation.load_tokenizer(tmp_path / "missing.json")
