"""The reference on disk, and its small copy for a bundle."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from edgeq.core.details import Continuation, LayerDivergence, ReferenceDetails
from edgeq.core.records import to_plain
from edgeq.errors import CorruptInputError
from edgeq.validation.drift import language_drift, log_softmax
from edgeq.validation.reference_set import DETAILS_NAME, ReferenceSet


def write_language(directory: Path, *, lengths: tuple[int, ...] = (70, 50, 60), vocabulary: int = 40) -> ReferenceSet:
    rng = np.random.default_rng(0)
    sequences = [[int(token) for token in rng.integers(0, vocabulary, length)] for length in lengths]
    for part in ("float", "dequantized"):
        (directory / part).mkdir(parents=True)
        for index, length in enumerate(lengths):
            values = rng.standard_normal((length, vocabulary)).astype(np.float32)
            np.save(directory / part / f"{index:04d}.npy", values)
    (directory / "inputs.json").write_text(json.dumps({"task": "text-generation", "sequences": sequences}))
    return ReferenceSet.open(directory)


def write_embeddings(directory: Path, *, count: int = 50, dimension: int = 8) -> ReferenceSet:
    rng = np.random.default_rng(1)
    for part in ("float", "dequantized"):
        (directory / part).mkdir(parents=True)
        for index in range(count):
            np.save(directory / part / f"{index:04d}.npy", rng.standard_normal(dimension).astype(np.float32))
    sequences = [[1, 2, 3]] * count
    (directory / "inputs.json").write_text(json.dumps({"task": "feature-extraction", "sequences": sequences}))
    return ReferenceSet.open(directory)


def size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*.npy"))


def test_values_are_read_as_written(tmp_path: Path) -> None:
    reference = write_language(tmp_path)
    assert [len(sequence) for sequence in reference.sequences] == [70, 50, 60]
    assert reference.float_values(1).shape == reference.dequantized_values(1).shape == (50, 40)
    assert reference.float_values(0).dtype == np.float32


def test_a_subset_is_the_same_reference_but_smaller(tmp_path: Path) -> None:
    whole = write_language(tmp_path / "whole")
    whole.write_subset(tmp_path / "small", max_bytes=100 * 40 * 6)
    small = ReferenceSet.open(tmp_path / "small")
    assert [len(sequence) for sequence in small.sequences] == [34, 34, 34]
    for index, sequence in enumerate(small.sequences):
        assert sequence == whole.sequences[index][:34]
        assert np.array_equal(small.dequantized_values(index), whole.dequantized_values(index)[:34])
        assert small.float_values(index).dtype == np.float16
        expected = log_softmax(whole.float_values(index)[:34])
        assert np.abs(small.float_values(index) - expected).max() < 0.005
    assert size(tmp_path / "small") < 100 * 40 * 6 * 1.1


def test_a_subset_measures_the_same_drift(tmp_path: Path) -> None:
    whole = write_language(tmp_path / "whole")
    whole.write_subset(tmp_path / "small", max_bytes=10**6)
    small = ReferenceSet.open(tmp_path / "small")

    def measure(reference: ReferenceSet) -> float:
        return language_drift(
            (reference.float_values(i), reference.dequantized_values(i), ids)
            for i, ids in enumerate(reference.sequences)
        ).kld_mean

    assert measure(small) == pytest.approx(measure(whole), rel=1e-3)


def test_a_subset_has_at_least_32_positions(tmp_path: Path) -> None:
    write_language(tmp_path / "whole").write_subset(tmp_path / "small", max_bytes=1)
    assert [len(sequence) for sequence in ReferenceSet.open(tmp_path / "small").sequences] == [32]


def test_a_subset_of_embeddings_keeps_whole_sentences(tmp_path: Path) -> None:
    whole = write_embeddings(tmp_path / "whole")
    whole.write_subset(tmp_path / "small", max_bytes=40 * 2 * 8 * 4)
    small = ReferenceSet.open(tmp_path / "small")
    assert len(small.sequences) == 40
    assert np.array_equal(small.float_values(39), whole.float_values(39))
    whole.write_subset(tmp_path / "all", max_bytes=10**6)
    assert len(ReferenceSet.open(tmp_path / "all").sequences) == 50


def test_a_subset_has_the_same_bytes_each_time(tmp_path: Path) -> None:
    whole = write_language(tmp_path / "whole")
    for name in ("one", "two"):
        whole.write_subset(tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files)
    assert len(files) == 8


@pytest.mark.parametrize(
    "inputs",
    [
        "",
        "[]",
        '{"task": "text-generation"}',
        '{"task": "text-generation", "sequences": []}',
        '{"task": "text-generation", "sequences": [[]]}',
        '{"task": "text-generation", "sequences": [["x"]]}',
        '{"task": "painting", "sequences": [[1]]}',
    ],
)
def test_unreadable_inputs_are_refused(tmp_path: Path, inputs: str) -> None:
    (tmp_path / "inputs.json").write_text(inputs)
    with pytest.raises(CorruptInputError):
        ReferenceSet.open(tmp_path)


def test_missing_inputs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptInputError, match="inputs"):
        ReferenceSet.open(tmp_path / "nowhere")


def test_arrays_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    reference = write_language(tmp_path)
    np.save(tmp_path / "float" / "0000.npy", np.zeros((3, 40), dtype=np.float32))
    np.save(tmp_path / "float" / "0001.npy", np.zeros((50, 40), dtype=np.int64))
    (tmp_path / "float" / "0002.npy").write_bytes(b"\x93NUMPY")
    (tmp_path / "dequantized" / "0000.npy").unlink()
    for index in range(3):
        with pytest.raises(CorruptInputError):
            reference.float_values(index)
    with pytest.raises(CorruptInputError, match="dequantized/0000"):
        reference.dequantized_values(0)


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    reference = write_language(tmp_path)
    np.save(tmp_path / "float" / "0000.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(CorruptInputError):
        reference.float_values(0)


def test_leading_keeps_whole_sequences(tmp_path: Path) -> None:
    references = ReferenceSet(directory=tmp_path, task="text-generation", sequences=((1, 2, 3), (4,), (5, 6)))
    assert references.leading(None) is references
    assert references.leading(3).sequences == ((1, 2, 3),)
    assert references.leading(4).sequences == ((1, 2, 3), (4,))
    assert references.leading(100).sequences == references.sequences


def test_what_is_shown_beside_the_outputs_goes_into_a_subset(tmp_path: Path) -> None:
    whole = write_language(tmp_path / "whole")
    assert whole.details() == ReferenceDetails()
    details = ReferenceDetails(
        layers=(LayerDivergence(layer=0, relative_error=math.inf, cosine=0.5),),
        continuations=tuple(Continuation(prompt=ids[:20], tokens=(1, 2)) for ids in whole.sequences),
    )
    (whole.directory / DETAILS_NAME).write_text(json.dumps(to_plain(details)))
    whole.write_subset(tmp_path / "subset")
    assert ReferenceSet.open(tmp_path / "subset").details() == details
    whole.write_subset(tmp_path / "small", max_bytes=6 * 40 * 64)
    small = ReferenceSet.open(tmp_path / "small")
    assert small.details().continuations == details.continuations[: len(small.sequences)]
    assert len(small.sequences) == 2
    other = '{"continuations": [{"prompt": [999], "tokens": []}]}'
    for broken in ("{", '{"layers": 1}', '{"later": []}', other):
        (whole.directory / DETAILS_NAME).write_text(broken)
        with pytest.raises(CorruptInputError):
            whole.details()


def test_a_picture_counts_as_a_text(tmp_path: Path) -> None:
    numbers = tuple((number,) for number in range(32))
    references = ReferenceSet(directory=tmp_path, task="image-classification", sequences=numbers)
    assert references.leading(512).sequences == numbers[:8]  # two of each kind
