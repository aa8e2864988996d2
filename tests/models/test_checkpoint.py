"""Safetensors files, honest and lying."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save_file

from edgeq.errors import CorruptInputError, SourceNotFoundError, UnsafeInputError, UnsupportedModelError
from edgeq.models.checkpoint import INDEX_FILE, LARGEST_JSON, SINGLE_FILE, hub_commit, open_checkpoint, read_json


def write_raw(path: Path, header: dict[str, Any] | bytes, data: bytes = b"", length: int | None = None) -> None:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded) if length is None else length) + encoded + data)


def entry(start: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@settings(max_examples=30, deadline=None)
@given(
    values=hnp.arrays(
        dtype=st.sampled_from([np.float32, np.float16, np.int64, np.uint8, ml_dtypes.bfloat16]).map(np.dtype),
        shape=hnp.array_shapes(max_dims=3, max_side=5),
        elements=st.integers(0, 100),
    )
)
def test_read_gives_back_what_was_saved(tmp_path_factory: pytest.TempPathFactory, values: np.ndarray[Any, Any]) -> None:
    directory = tmp_path_factory.mktemp("checkpoint")
    save_file({"x": np.zeros(3, np.uint8), "y": values}, directory / SINGLE_FILE)
    read = open_checkpoint(directory).read("y")
    assert read.dtype == values.dtype
    assert read.shape == values.shape
    assert read.tobytes() == values.tobytes()


def test_read_maps_the_file_which_no_caller_can_change(tmp_path: Path) -> None:
    save_file({"w": np.ones((4, 4), np.float32)}, tmp_path / SINGLE_FILE)
    before = (tmp_path / SINGLE_FILE).read_bytes()
    checkpoint = open_checkpoint(tmp_path)
    values = checkpoint.read("w")
    assert not values.flags.owndata
    values[:] = 7
    assert checkpoint.read("w").tolist() == np.ones((4, 4)).tolist()
    del values
    assert (tmp_path / SINGLE_FILE).read_bytes() == before


def test_an_empty_tensor_has_its_shape(tmp_path: Path) -> None:
    save_file({"w": np.ones((0, 4), np.float32)}, tmp_path / SINGLE_FILE)
    assert open_checkpoint(tmp_path).read("w").shape == (0, 4)


def test_a_dtype_without_numpy_is_named(tmp_path: Path) -> None:
    write_raw(tmp_path / SINGLE_FILE, {"w": entry(0, 4, [4], "F8_E8M0")}, bytes(4))
    with pytest.raises(UnsupportedModelError, match="F8_E8M0"):
        open_checkpoint(tmp_path).read("w")


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ({"w": entry(0, 16, [4])}, bytes(12)),
        ({"w": entry(0, 1 << 40, [1 << 38])}, bytes(16)),
        ({"a": entry(0, 16, [4]), "b": entry(8, 24, [4])}, bytes(24)),
        ({"a": entry(0, 16, [4]), "b": entry(32, 48, [4])}, bytes(48)),
        ({"w": entry(0, 16, [5])}, bytes(16)),
        ({"w": entry(0, 16, [1 << 62, 1 << 62])}, bytes(16)),
        ({"w": entry(16, 0, [4])}, bytes(16)),
        ({"w": entry(0, 16, [4])}, bytes(20)),
        ({"w": entry(-16, 0, [4])}, bytes(16)),
        ({"w": entry(0, 16, [-4])}, bytes(16)),
        ({"w": entry(0, 16, [4], "F33")}, bytes(16)),
        (b"not json", b""),
        (b"[]", b""),
    ],
    ids=[
        "truncated", "past the end", "overlap", "hole", "shape", "overflow", "reversed", "trailing bytes",
        "negative offset", "negative shape", "dtype", "not json", "not an object",
    ],
)  # fmt: skip
def test_a_header_that_lies_is_refused(tmp_path: Path, header: dict[str, Any] | bytes, data: bytes) -> None:
    write_raw(tmp_path / SINGLE_FILE, header, data)
    with pytest.raises(CorruptInputError, match=SINGLE_FILE):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("length", [0, 101 * 2**20, 2**63, 2**64 - 1])
def test_a_header_of_impossible_length_is_refused(tmp_path: Path, length: int) -> None:
    write_raw(tmp_path / SINGLE_FILE, {"w": entry(0, 16, [4])}, bytes(16), length=length)
    with pytest.raises(CorruptInputError):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("size", [0, 5])
def test_a_stump_is_refused(tmp_path: Path, size: int) -> None:
    (tmp_path / SINGLE_FILE).write_bytes(bytes(size))
    with pytest.raises(CorruptInputError):
        open_checkpoint(tmp_path)


def write_shards(directory: Path, weight_map: object) -> None:
    save_file({"a": np.arange(4, dtype=np.float32)}, directory / "one.safetensors")
    save_file({"b": np.arange(6, dtype=np.float32), "extra": np.zeros(1)}, directory / "two.safetensors")
    (directory / INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_shards_are_read_through_the_index(tmp_path: Path) -> None:
    write_shards(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})
    checkpoint = open_checkpoint(tmp_path)
    assert set(checkpoint.tensors) == {"a", "b"}
    assert [path.name for path in checkpoint.files] == ["one.safetensors", "two.safetensors"]
    assert checkpoint.read("b").tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("shard", ["../outside.safetensors", "/etc/passwd", "a/../../b.safetensors", "C:\\x", ""])
def test_an_index_that_leaves_the_directory_is_refused(tmp_path: Path, shard: str) -> None:
    write_shards(tmp_path, {"a": shard})
    with pytest.raises(UnsafeInputError):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "weight_map",
    [None, [], {"a": 3}, {"a": "missing.safetensors"}, {"a": "one.safetensors", "c": "two.safetensors"}],
    ids=["none", "list", "number", "missing shard", "missing tensor"],
)
def test_a_broken_index_is_refused(tmp_path: Path, weight_map: object) -> None:
    write_shards(tmp_path, weight_map)
    with pytest.raises(CorruptInputError):
        open_checkpoint(tmp_path)


def test_a_link_out_of_the_directory_is_refused(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    save_file({"a": np.zeros(4, np.float32)}, tmp_path / "elsewhere.safetensors")
    (model / SINGLE_FILE).symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(UnsafeInputError, match="link"):
        open_checkpoint(model)


def hub_snapshot(tmp_path: Path) -> Path:
    snapshot = tmp_path / "models--owner--name" / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--owner--name" / "blobs").mkdir()
    return snapshot


def test_the_links_of_a_hub_cache_are_followed_into_its_blobs_alone(tmp_path: Path) -> None:
    snapshot = hub_snapshot(tmp_path)
    assert hub_commit(snapshot) == "abc123"
    save_file({"a": np.ones(4, np.float32)}, snapshot.parent.parent / "blobs" / "f00d")
    (snapshot / SINGLE_FILE).symlink_to(Path("../../blobs/f00d"))
    assert open_checkpoint(snapshot).read("a").tolist() == [1, 1, 1, 1]

    (snapshot / SINGLE_FILE).unlink()
    save_file({"a": np.ones(4, np.float32)}, tmp_path / "outside")
    (snapshot / SINGLE_FILE).symlink_to(tmp_path / "outside")
    with pytest.raises(UnsafeInputError):
        open_checkpoint(snapshot)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_a_pickle_is_refused_with_the_way_out(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04")
    with pytest.raises(UnsafeInputError, match="safetensors") as caught:
        open_checkpoint(tmp_path)
    assert name in caught.value.what


def test_a_directory_without_weights_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match="no weights"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[1]", '"x"', "[" * 100_000])
def test_json_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(CorruptInputError, match=r"config\.json"):
        read_json(path)


def test_json_of_absurd_size_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with path.open("wb") as stream:
        stream.truncate(LARGEST_JSON + 1)
    with pytest.raises(CorruptInputError, match="bytes"):
        read_json(path)
