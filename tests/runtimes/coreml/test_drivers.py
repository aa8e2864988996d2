"""The drivers on packages whose results can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeq.errors import CorruptInputError, UsageError
from edgeq.runtimes.coreml import Encoder, TextGenerator
from tests.runtimes.coreml import models
from tests.runtimes.coreml.models import CHUNK, CONTEXT, ENCODER, GENERATOR, TABLE, logits
from tests.runtimes.coreml.programs import function, save

IDS = [3, 1, 4, 1, 5, 2, 6, 5, 3, 0, 2, 6]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.save_generator(tmp_path_factory.mktemp("generator") / "model.mlpackage")


@pytest.fixture
def generator(package: Path) -> TextGenerator:
    return TextGenerator(package, GENERATOR, threads=1)


@pytest.mark.parametrize("count", range(1, CONTEXT + 1))
@pytest.mark.parametrize("keep", [0, 1, 2, 5])
def test_a_prompt_of_any_length_is_read_whole(generator: TextGenerator, count: int, keep: int) -> None:
    """Chunks, padded chunks, and single tokens where a chunk would reach beyond the context."""
    np.testing.assert_array_equal(generator.prefill(IDS[:count], keep=keep), logits(IDS[:count])[-keep:])


@pytest.mark.parametrize("first", range(1, CONTEXT))
def test_a_prompt_in_two_parts_is_the_same_prompt(generator: TextGenerator, first: int) -> None:
    generator.prefill(IDS[:first])
    np.testing.assert_array_equal(generator.forward(IDS[first:]), logits(IDS)[-1:])
    assert generator.length == CONTEXT


def test_steps_go_on_behind_a_padded_chunk(generator: TextGenerator) -> None:
    generator.prefill(IDS[: CHUNK + 2])
    for index in range(CHUNK + 2, CONTEXT):
        np.testing.assert_array_equal(generator.step(IDS[index]), logits(IDS)[index])


def test_a_reset_forgets(generator: TextGenerator) -> None:
    generator.prefill(IDS[:5])
    generator.reset()
    np.testing.assert_array_equal(generator.forward(IDS[:1]), logits(IDS[:1]))


def test_greedy_tokens_follow_the_logits(generator: TextGenerator) -> None:
    ids = [1, 2]
    for token in generator.generate_tokens(list(ids), max_new_tokens=5):
        assert token == int(logits(ids)[-1].argmax())
        ids.append(token)
    assert len(ids) == 7


def test_more_than_the_context_is_refused(generator: TextGenerator) -> None:
    with pytest.raises(UsageError, match="do not fit"):
        generator.prefill([*IDS, 1])


def test_says_who_computes(generator: TextGenerator) -> None:
    assert generator.executed_by == "reference (MIL interpreter)"


def test_decode_alone_suffices(tmp_path: Path) -> None:
    generator = TextGenerator(models.save_decoder(tmp_path / "model.mlpackage"), GENERATOR)
    np.testing.assert_array_equal(generator.prefill(IDS), logits(IDS)[-1:])


def test_without_decode_it_is_refused(tmp_path: Path) -> None:
    path = models.save_decoder(tmp_path / "model.mlpackage", name="main")
    with pytest.raises(CorruptInputError, match="no function 'decode'"):
        TextGenerator(path, GENERATOR)


def test_a_generator_with_other_inputs_is_refused(tmp_path: Path) -> None:
    from coremltools.converters.mil.mil import Builder as mb  # noqa: N813

    decode = function({"x": TABLE}, lambda given: [mb.relu(x=given["x"])], names=["logits"])
    path = save(tmp_path / "model.mlpackage", {"decode": decode})
    with pytest.raises(CorruptInputError, match="no sequence of input_ids"):
        TextGenerator(path, GENERATOR)


def test_an_unknown_output_is_refused(package: Path) -> None:
    generator = TextGenerator(package, replace(GENERATOR, outputs=("scores",)))
    with pytest.raises(CorruptInputError, match="gives no 'scores'"):
        generator.prefill([1])


BATCH = [[1, 2, 3], [4], [5, 6]]


@pytest.mark.parametrize("length", [None, 5])
def test_an_encoder_takes_a_padded_batch(tmp_path: Path, length: int | None) -> None:
    encoder = Encoder(models.save_encoder(tmp_path / "model.mlpackage", length=length), ENCODER, threads=1)
    expected = np.stack([TABLE[ids].mean(0) for ids in BATCH])
    np.testing.assert_allclose(encoder.forward(BATCH), expected, rtol=1e-6)


@pytest.mark.parametrize("length", [None, 5])
def test_an_encoder_without_pooling_gives_the_tokens_of_the_longest(tmp_path: Path, length: int | None) -> None:
    path = models.save_encoder(tmp_path / "model.mlpackage", length=length, pooled=False)
    vectors = Encoder(path, replace(ENCODER, inputs=("input_ids", "attention_mask"))).forward(BATCH)
    assert vectors.shape == (3, 3, 2)
    np.testing.assert_array_equal(vectors[2, :2], TABLE[BATCH[2]])


def test_an_encoder_with_other_inputs_is_refused(tmp_path: Path) -> None:
    path = models.save_encoder(tmp_path / "model.mlpackage", length=5)
    with pytest.raises(CorruptInputError, match="it takes input_ids, attention_mask, not input_ids"):
        Encoder(path, replace(ENCODER, inputs=("input_ids",)))
