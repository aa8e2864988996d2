"""The store on disk: refusals, damage, a full disk."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from edgeq.core.recipe import Assignment, Plan, Recipe
from edgeq.core.scheme import Scheme
from edgeq.errors import CorruptInputError, EdgeqError, InternalError, OutputError, SourceNotFoundError
from edgeq.quantization import allocate, quantize
from edgeq.quantization.methods import plain_method
from edgeq.store import QuantizedModel
from edgeq.store.shards import read_tensor, write_shard
from tests.quantization.fake_model import FakeModel, fake_model, target

UP = "layers.1.up.weight"


@pytest.fixture
def model(tmp_path: Path) -> FakeModel:
    return fake_model(tmp_path / "model")


@pytest.fixture
def store(model: FakeModel, tmp_path: Path) -> Path:
    quantize(model, allocate(model, Recipe(), target()), tmp_path / "store")
    return tmp_path / "store"


def block_file(store: Path) -> Path:
    return next((store / "blocks").glob("*block-1*"))


# -- what a reader gets -----------------------------------------------------------------------------------------------


def test_opening_gives_what_was_written(model: FakeModel, store: Path) -> None:
    written = quantize(model, allocate(model, Recipe(), target()), store)
    opened = QuantizedModel.open(store)
    assert (opened.info, opened.plan, opened.weights_digest) == (written.info, written.plan, written.weights_digest)
    for name in opened.names():
        np.testing.assert_array_equal(opened.dequantized(name), written.dequantized(name))


def test_blocks_are_plain_safetensors_with_packed_codes(store: Path) -> None:
    arrays = load_file(block_file(store))
    assert arrays[f"{UP}.codes"].shape == (172, 32)
    assert arrays[f"{UP}.codes"].dtype == np.uint8
    assert arrays[f"{UP}.scales"].shape == (172, 1)
    assert arrays[f"{UP}.zero_points"].shape == (172, 1)
    assert arrays["layers.1.norm.weight"].dtype == np.float32


def test_companion_files_are_copied(model: FakeModel, store: Path) -> None:
    opened = QuantizedModel.open(store)
    assert [entry.path for entry in opened.source_files] == ["1_Pooling/config.json", "config.json"]
    for entry in opened.source_files:
        assert (opened.source_directory / entry.path).read_bytes() == (model.directory / entry.path).read_bytes()


def test_asking_for_the_wrong_kind_is_a_defect(store: Path) -> None:
    opened = QuantizedModel.open(store)
    for call, name in (
        (opened.floating, UP),
        (opened.floating_dtype, UP),
        (opened.quantized, "norm.weight"),
        (opened.dequantized, "no.such.weight"),
    ):
        with pytest.raises(InternalError):
            call(name)


def test_packed_is_what_lies_on_disk(store: Path) -> None:
    codes, scales, zero_points = QuantizedModel.open(store).packed(UP)
    arrays = load_file(block_file(store))
    np.testing.assert_array_equal(codes, arrays[f"{UP}.codes"])
    np.testing.assert_array_equal(scales, arrays[f"{UP}.scales"])
    assert zero_points is not None
    np.testing.assert_array_equal(zero_points, arrays[f"{UP}.zero_points"])


def codebook_store(model: FakeModel, directory: Path, scheme: Scheme) -> QuantizedModel:
    """The default store, but for UP, which gets `scheme`."""
    assert scheme.codebook is not None
    plan = allocate(model, Recipe(), target())
    chosen = Assignment(scheme=scheme, method=plain_method(scheme))
    quantize(model, Plan(assignments={**plan.assignments, UP: chosen}), directory)
    return QuantizedModel.open(directory)


NF4 = Scheme(bits=4, group_size=64, symmetric=True, codebook="nf4")
PALETTE = Scheme(bits=4, group_size=None, symmetric=True, codebook="palette", palette_rows=16)


def test_normal_levels_lie_beside_their_codes(model: FakeModel, tmp_path: Path) -> None:
    store = codebook_store(model, tmp_path / "store", NF4)
    arrays = load_file(block_file(tmp_path / "store"))
    assert {name.removeprefix(UP) for name in arrays if name.startswith(UP)} == {".codes", ".scales", ".codebook"}
    np.testing.assert_array_equal(store.codebook(UP), arrays[f"{UP}.codebook"])
    assert arrays[f"{UP}.codebook"].shape == (1, 16)
    codes, scales, zero_points = store.packed(UP)
    np.testing.assert_array_equal(codes, arrays[f"{UP}.codes"])
    np.testing.assert_array_equal(scales, arrays[f"{UP}.scales"])
    assert zero_points is None
    assert store.scheme(UP) == NF4
    assert store.weights_bytes == stored_bytes(store)


def test_a_palette_has_tables_and_no_scales(model: FakeModel, tmp_path: Path) -> None:
    store = codebook_store(model, tmp_path / "store", PALETTE)
    arrays = load_file(block_file(tmp_path / "store"))
    assert {name.removeprefix(UP) for name in arrays if name.startswith(UP)} == {".codes", ".codebook"}
    assert arrays[f"{UP}.codebook"].shape == (11, 16)
    np.testing.assert_array_equal(store.packed(UP)[1], np.ones((172, 1), np.float32))
    assert store.weights_bytes == stored_bytes(store)


def stored_bytes(store: QuantizedModel) -> int:
    return sum(
        store.floating(name).nbytes
        if (scheme := store.scheme(name)) is None
        else scheme.stored_bytes(*store.quantized(name).shape)
        for name in store.names()
    )


def test_equally_spaced_levels_have_no_codebook(store: Path) -> None:
    opened = QuantizedModel.open(store)
    assert opened.codebook(UP) is None
    assert opened.codebook("head.weight") is None
    with pytest.raises(InternalError):
        opened.codebook("norm.weight")


def test_a_codebook_of_another_shape_is_refused(model: FakeModel, tmp_path: Path) -> None:
    codebook_store(model, tmp_path / "store", PALETTE)
    document = tmp_path / "store" / "store.json"
    document.write_text(document.read_text().replace('"palette_rows": 16', '"palette_rows": 8'))
    with pytest.raises(CorruptInputError, match="shape"):
        QuantizedModel.open(tmp_path / "store").quantized(UP)


# -- damage -----------------------------------------------------------------------------------------------------------


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError):
        QuantizedModel.open(tmp_path / "nothing")


def test_an_unfinished_store_says_so(store: Path) -> None:
    (store / "store.json").rename(store / "partial.jsonl")
    with pytest.raises(SourceNotFoundError, match="unfinished"):
        QuantizedModel.open(store)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [truncate, Path.unlink, flip])
def test_a_damaged_block_is_refused(store: Path, damage: Callable[[Path], None]) -> None:
    damage(block_file(store))
    with pytest.raises(CorruptInputError, match="block-1") as caught:
        QuantizedModel.open(store).quantized(UP)
    assert "again" in caught.value.remedy


def test_a_block_that_changes_its_header_is_refused(store: Path) -> None:
    data = block_file(store).read_bytes()
    block_file(store).write_bytes(b"\xff" * 8 + data[8:])
    with pytest.raises(CorruptInputError):
        read_tensor(block_file(store), UP)


def test_a_missing_companion_is_refused(store: Path) -> None:
    (store / "source" / "config.json").unlink()
    with pytest.raises(CorruptInputError, match=r"config\.json"):
        QuantizedModel.open(store)


def change(store: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    document = json.loads((store / "store.json").read_text())
    edit(document)
    (store / "store.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    "edit",
    [
        lambda document: document.update(schema=99),
        lambda document: document.update(surprise=1),
        lambda document: document.pop("weights_digest"),
        lambda document: document["blocks"].pop(),
        lambda document: document["blocks"][0]["tensors"]["embed.weight"]["scheme"].update(bits=5),
        lambda document: document["blocks"][0]["tensors"]["embed.weight"]["scheme"].update(bits="4"),
    ],
)
def test_a_changed_document_is_refused(store: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    change(store, edit)
    with pytest.raises(CorruptInputError):
        QuantizedModel.open(store)


def test_a_document_that_lies_about_a_shape_is_refused(store: Path) -> None:
    change(store, lambda document: document["blocks"][2]["tensors"][UP].update(shape=[172, 128]))
    with pytest.raises(CorruptInputError):
        QuantizedModel.open(store).quantized(UP)


def test_paths_that_leave_the_store_are_refused(store: Path) -> None:
    change(store, lambda document: document["blocks"][0]["file"].update(path="../model/config.json"))
    with pytest.raises(EdgeqError) as caught:
        QuantizedModel.open(store)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00\x01"])
def test_a_document_that_is_no_json_is_refused(store: Path, text: str) -> None:
    (store / "store.json").write_text(text)
    with pytest.raises(CorruptInputError):
        QuantizedModel.open(store)


# -- writing ----------------------------------------------------------------------------------------------------------


def test_a_directory_with_other_things_in_it_is_left_alone(model: FakeModel, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(OutputError):
        quantize(model, allocate(model, Recipe(), target()), tmp_path / "photos")
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.jpg"]


def test_a_file_in_the_way_is_refused(model: FakeModel, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("in the way")
    with pytest.raises(OutputError):
        quantize(model, allocate(model, Recipe(), target()), tmp_path / "store")


def test_shards_have_the_same_bytes_whatever_the_order(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        "b": np.arange(3, dtype=np.uint8),
        "a": np.ones((2, 2), np.float32),
        "c": np.ones(1, np.float16),
    }
    one = write_shard(tmp_path, "one.safetensors", arrays)
    two = write_shard(tmp_path, "two.safetensors", dict(reversed(arrays.items())))
    assert (one.bytes, one.sha256) == (two.bytes, two.sha256)
    assert one.bytes == (tmp_path / "one.safetensors").stat().st_size
    for name, array in load_file(tmp_path / "one.safetensors").items():
        np.testing.assert_array_equal(array, arrays[name])
        np.testing.assert_array_equal(read_tensor(tmp_path / "two.safetensors", name), arrays[name])


FULL_DISK = """
import resource, sys
from pathlib import Path
from edgeq.core.recipe import Assignment, Plan, Recipe
from edgeq.core.scheme import Scheme
from edgeq.errors import OutputError
from edgeq.quantization import allocate, quantize
from tests.quantization.fake_model import fake_model, target

model = fake_model(Path(sys.argv[1]))
plan = allocate(model, Recipe(), target())
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
try:
    quantize(model, plan, Path(sys.argv[2]))
except OutputError as error:
    sys.exit(f"{error.what}|{error.remedy}")
"""


@pytest.mark.parametrize("limit", [2000, 10_000])  # not even the embedding; no block
def test_a_full_disk_leaves_no_half_written_block(model: FakeModel, tmp_path: Path, limit: int) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    store = tmp_path / "store"
    command = [sys.executable, "-c", FULL_DISK, str(model.directory), str(store), str(limit)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "disk is full" in done.stderr
    assert "Traceback" not in done.stderr
    written = sorted(path.name for path in (store / "blocks").iterdir())
    assert written == ([] if limit == 2000 else ["0000-embed-weight.safetensors"])
    quantize(model, allocate(model, Recipe(), target()), store)
    whole = tmp_path / "whole"
    quantize(model, allocate(model, Recipe(), target()), whole)
    assert QuantizedModel.open(store).weights_digest == QuantizedModel.open(whole).weights_digest
    assert (store / "store.json").read_bytes() == (whole / "store.json").read_bytes()


def test_a_moved_store_still_opens(store: Path, tmp_path: Path) -> None:
    shutil.move(store, tmp_path / "elsewhere")
    assert QuantizedModel.open(tmp_path / "elsewhere").dequantized(UP).shape == (172, 64)
