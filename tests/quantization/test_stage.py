"""From a model to a store: what is stored how, and what happens when it is interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from edgeq.core.digest import tensor_digest, weights_digest
from edgeq.core.recipe import Assignment, Plan, Recipe, Rule
from edgeq.core.scheme import Scheme
from edgeq.errors import CorruptInputError, InternalError, UnsupportedModelError, UsageError
from edgeq.quantization import METHODS, allocate, quantize
from edgeq.quantization.methods import function_for, plain_method
from edgeq.quantization.stage import to_float32
from edgeq.store import QuantizedModel
from tests.quantization.fake_model import FakeModel, fake_model, target

UP, DOWN = "layers.1.up.weight", "layers.1.down.weight"


@pytest.fixture
def model(tmp_path: Path) -> FakeModel:
    return fake_model(tmp_path / "model")


def plan_of(model: FakeModel, recipe: Recipe | None = None) -> Plan:
    return allocate(model, recipe or Recipe(), target())


def files_of(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def float32(model: FakeModel, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return model.arrays[name].astype(np.float32)


# -- what is stored ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["rtn", "mse"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_linears_hold_what_the_method_gave(tmp_path: Path, method: str, dtype: str) -> None:
    model = fake_model(tmp_path / "model", dtype=dtype)
    plan = plan_of(model, Recipe(method=method))
    store = quantize(model, plan, tmp_path / "store")
    scheme = plan.assignments[UP].scheme
    expected = METHODS[method](float32(model, UP), scheme, UP)
    actual = store.quantized(UP)
    np.testing.assert_array_equal(actual.codes, expected.codes)
    np.testing.assert_array_equal(actual.scales, expected.scales)
    assert actual.zero_points is not None
    np.testing.assert_array_equal(actual.zero_points, expected.zero_points)
    np.testing.assert_array_equal(store.dequantized(UP), expected.dequantize())


def test_conv1d_is_quantized_as_its_transpose(model: FakeModel, tmp_path: Path) -> None:
    plan = plan_of(model)
    store = quantize(model, plan, tmp_path / "store")
    transposed = np.ascontiguousarray(float32(model, DOWN).T)
    expected = METHODS["mse"](transposed, plan.assignments[DOWN].scheme, DOWN)
    assert store.quantized(DOWN).shape == (64, 172)
    np.testing.assert_array_equal(store.quantized(DOWN).codes, expected.codes)
    assert store.dequantized(DOWN).shape == (172, 64)
    np.testing.assert_array_equal(store.dequantized(DOWN), expected.dequantize().T)


def test_rows_are_quantized_in_pieces_without_a_seam(
    model: FakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = quantize(model, plan_of(model), tmp_path / "whole")
    monkeypatch.setattr("edgeq.quantization.stage.CHUNK", 1000)
    pieces = quantize(model, plan_of(model), tmp_path / "pieces")
    assert pieces.weights_digest == whole.weights_digest


NF4 = Scheme(bits=4, group_size=32, symmetric=True, codebook="nf4")
PALETTE = Scheme(bits=4, group_size=None, symmetric=True, scale_dtype="float16", codebook="palette", palette_rows=16)
every_codebook = pytest.mark.parametrize(
    "scheme", [NF4, PALETTE, replace(PALETTE, palette_rows=None), replace(PALETTE, bits=8)], ids=Scheme.label
)


def codebook_plan(model: FakeModel, scheme: Scheme) -> Plan:
    """The default plan with `scheme` for all linears; up has 172 rows, down 64."""
    linears = [name for name in model.info.weights if name.endswith(("up.weight", "down.weight"))]
    chosen = Assignment(scheme=scheme, method=plain_method(scheme))
    return Plan(assignments={**plan_of(model).assignments, **dict.fromkeys(linears, chosen)})


@every_codebook
@pytest.mark.parametrize("chunk", [1 << 18, 1000])
def test_codebooks_are_stored_as_the_method_gave_them(
    model: FakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: Scheme, chunk: int
) -> None:
    monkeypatch.setattr("edgeq.quantization.stage.CHUNK", chunk)
    plan = codebook_plan(model, scheme)
    store = quantize(model, plan, tmp_path / "store")
    method = function_for(plan.assignments[UP].method, scheme)
    for name, matrix in ((UP, float32(model, UP)), (DOWN, float32(model, DOWN).T)):
        expected, actual = method(np.ascontiguousarray(matrix), scheme, name), store.quantized(name)
        assert tensor_digest(name, actual) == tensor_digest(name, expected) == store.tensor_digest(name)
        assert expected.codebook is not None
        np.testing.assert_array_equal(store.codebook(name), expected.codebook)
    assert store.recipe.method == plain_method(scheme)


@every_codebook
def test_an_interrupted_store_with_codebooks_is_continued(model: FakeModel, tmp_path: Path, scheme: Scheme) -> None:
    plan = codebook_plan(model, scheme)
    quantize(model, plan, tmp_path / "whole")
    with pytest.raises(StopHere):
        quantize(model, plan, tmp_path / "store", progress=lambda done, total, name: stop_at(name))
    quantize(model, plan, tmp_path / "store")
    assert files_of(tmp_path / "store") == files_of(tmp_path / "whole")


def test_a_plan_whose_method_does_not_make_the_scheme_is_refused(model: FakeModel, tmp_path: Path) -> None:
    plan = codebook_plan(model, NF4)
    assignments = {**plan.assignments, UP: Assignment(scheme=NF4, method="mse")}
    with pytest.raises(UsageError, match="mse"):
        quantize(model, Plan(assignments=assignments), tmp_path / "store")


def test_the_rest_stays_float(model: FakeModel, tmp_path: Path) -> None:
    store = quantize(model, plan_of(model), tmp_path / "store")
    for name in ("layers.0.norm.weight", "layers.0.up.bias", "norm.weight", "types.weight"):
        assert not store.is_quantized(name)
        assert store.floating(name).dtype == np.float32
        assert store.floating_dtype(name) == np.float32
        np.testing.assert_array_equal(store.floating(name), float32(model, name))
    np.testing.assert_array_equal(store.floating("positions"), np.arange(16))
    assert store.floating_dtype("positions") == np.int64


def test_sixteen_bits_are_float16(model: FakeModel, tmp_path: Path) -> None:
    store = quantize(model, plan_of(model, Recipe(bits=16)), tmp_path / "store")
    assert store.floating(UP).dtype == np.float16
    assert store.floating(DOWN).shape == (172, 64)
    np.testing.assert_allclose(store.dequantized(UP), float32(model, UP), rtol=1e-3, atol=1e-7)
    assert store.floating("layers.0.norm.weight").dtype == np.float32
    assert (store.recipe.bits, store.recipe.method, store.recipe.group_size) == (16, "none", None)


def test_a_tied_copy_reads_what_is_stored_for_it(model: FakeModel, tmp_path: Path) -> None:
    store = quantize(model, plan_of(model), tmp_path / "store")
    assert "head.weight" not in store.names()
    np.testing.assert_array_equal(store.dequantized("head.weight"), store.dequantized("embed.weight"))
    assert store.is_quantized("head.weight")


def test_bytes_recipe_and_digest(model: FakeModel, tmp_path: Path) -> None:
    plan = plan_of(model)
    store = quantize(model, plan, tmp_path / "store")
    quantized = [name for name in store.names() if store.is_quantized(name)]
    stored = sum(plan.assignments[name].scheme.stored_bytes(*store.quantized(name).shape) for name in quantized)
    floats = sum(store.floating(name).nbytes for name in store.names() if name not in quantized)
    assert store.weights_bytes == stored + floats
    assert store.weights_digest == weights_digest(
        (name, tensor_digest(name, store.quantized(name))) for name in quantized
    )
    recipe = store.recipe
    assert (recipe.bits, recipe.method, recipe.group_size, recipe.symmetric) == (4, "mse", 64, False)
    assert recipe.embedding_bits == 8


def test_every_weight_is_read_once_and_progress_ends_at_the_total(model: FakeModel, tmp_path: Path) -> None:
    calls: list[tuple[int, int, str]] = []
    quantize(model, plan_of(model), tmp_path / "store", progress=lambda *call: calls.append(call))
    assert sorted(model.reads) == sorted(model.info.weights)
    assert [name for _, _, name in calls] == [
        "embed-weight", "block-0", "block-1", "block-2", "norm-weight", "types-weight", "positions",
    ]  # fmt: skip
    assert calls[-1][0] == calls[-1][1] == model.info.parameters
    assert [done for done, _, _ in calls] == sorted(done for done, _, _ in calls)


def test_torch_gets_its_threads_back(model: FakeModel, tmp_path: Path) -> None:
    import torch

    before = torch.get_num_threads()
    quantize(model, plan_of(model), tmp_path / "store")
    assert torch.get_num_threads() == before


def test_bfloat16_becomes_the_same_numbers() -> None:
    values = np.array([[1.5, -3e38, 1e-40, 0.0, np.inf]], ml_dtypes.bfloat16)
    np.testing.assert_array_equal(to_float32(values), values.astype(np.float32))
    assert to_float32(values).dtype == np.float32


# -- bad weights ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_matrix_with_nan_or_infinity_is_refused_by_name(
    model: FakeModel, tmp_path: Path, bits: int, bad: float
) -> None:
    model.arrays[UP][100, 3] = bad
    with pytest.raises(CorruptInputError, match=UP):
        quantize(model, plan_of(model, Recipe(bits=bits)), tmp_path / "store")


def test_a_vector_with_nan_is_refused_but_a_mask_may_hold_infinity(model: FakeModel, tmp_path: Path) -> None:
    model.arrays["norm.weight"][3] = -np.inf
    store = quantize(model, plan_of(model), tmp_path / "store")
    assert store.floating("norm.weight")[3] == -np.inf
    model.arrays["layers.1.up.bias"][3] = np.nan
    with pytest.raises(CorruptInputError, match=r"layers\.1\.up\.bias"):
        quantize(model, plan_of(model), tmp_path / "other")


def test_values_that_float16_cannot_hold_are_refused_not_turned_into_infinity(model: FakeModel, tmp_path: Path) -> None:
    model.arrays[UP][0, 0] = 1e5
    with pytest.raises(UnsupportedModelError, match=UP):
        quantize(model, plan_of(model, Recipe(bits=16)), tmp_path / "store")
    rule = Rule(tensors=UP, scheme=Scheme(bits=8), method="auto")
    store = quantize(model, plan_of(model, Recipe(bits=16, rules=(rule,))), tmp_path / "other")
    assert store.is_quantized(UP)


def test_a_plan_for_another_model_is_a_defect(model: FakeModel, tmp_path: Path) -> None:
    plan = plan_of(model)
    with pytest.raises(InternalError):
        quantize(model, Plan(assignments={**plan.assignments, "nothing": plan.assignments[UP]}), tmp_path / "store")


# -- resuming ---------------------------------------------------------------------------------------------------------


class StopHere(Exception):  # noqa: N818 - not a failure of the library
    pass


def stop_at(unit: str) -> None:
    raise StopHere(unit)


def test_the_same_call_gives_the_same_bytes(model: FakeModel, tmp_path: Path) -> None:
    quantize(model, plan_of(model), tmp_path / "one")
    quantize(model, plan_of(model), tmp_path / "two")
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


@pytest.mark.parametrize("unit", ["embed-weight", "block-1", "positions"])
def test_an_interrupted_store_is_continued(model: FakeModel, tmp_path: Path, unit: str) -> None:
    quantize(model, plan_of(model), tmp_path / "whole")
    with pytest.raises(StopHere):
        quantize(
            model,
            plan_of(model),
            tmp_path / "store",
            progress=lambda done, total, name: stop_at(name) if name == unit else None,
        )
    assert not (tmp_path / "store" / "store.json").exists()
    model.reads.clear()
    quantize(model, plan_of(model), tmp_path / "store")
    assert files_of(tmp_path / "store") == files_of(tmp_path / "whole")
    assert "embed.weight" not in model.reads
    assert ("layers.0.up.weight" in model.reads) == (unit == "embed-weight")


def test_a_finished_store_is_not_written_again(model: FakeModel, tmp_path: Path) -> None:
    store = tmp_path / "store"
    quantize(model, plan_of(model), store)
    before = files_of(store)
    model.reads.clear()
    quantize(model, plan_of(model), store)
    assert files_of(store) == before
    assert model.reads == []


@pytest.mark.parametrize("damage", [b"", b"x" * 100, None])
def test_a_damaged_block_is_written_again(model: FakeModel, tmp_path: Path, damage: bytes | None) -> None:
    store = tmp_path / "store"
    quantize(model, plan_of(model), store)
    before = files_of(store)
    block = next((store / "blocks").glob("*block-1*"))
    if damage is None:
        block.unlink()
    else:
        block.write_bytes(damage)
    quantize(model, plan_of(model), store)
    assert files_of(store) == before


def test_another_plan_starts_anew(model: FakeModel, tmp_path: Path) -> None:
    quantize(model, plan_of(model, Recipe(bits=8)), tmp_path / "store")
    quantize(model, plan_of(model), tmp_path / "store")
    quantize(model, plan_of(model), tmp_path / "fresh")
    assert files_of(tmp_path / "store") == files_of(tmp_path / "fresh")


def test_new_weights_under_the_old_name_start_anew(model: FakeModel, tmp_path: Path) -> None:
    weights = model.directory / "model.safetensors"
    weights.write_bytes(b"old")
    old = quantize(model, plan_of(model), tmp_path / "store").weights_digest
    retrained = fake_model(model.directory, seed=1)
    weights.write_bytes(b"new")
    os.utime(weights, ns=(1, 1))
    assert quantize(retrained, plan_of(retrained), tmp_path / "store").weights_digest != old


KILLED = """
import os, signal, sys
from pathlib import Path
from edgeq.core.recipe import Recipe
from edgeq.quantization import allocate, quantize
from tests.quantization.fake_model import fake_model, target

def kill(done, total, name):
    if name == "block-1":
        os.kill(os.getpid(), signal.SIGKILL)

model = fake_model(Path(sys.argv[1]))
quantize(model, allocate(model, Recipe(), target()), Path(sys.argv[2]), progress=kill)
"""


def test_kill_9_and_the_same_command_again(model: FakeModel, tmp_path: Path) -> None:
    store = tmp_path / "store"
    command = [sys.executable, "-c", KILLED, str(model.directory), str(store)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == -signal.SIGKILL
    (store / "blocks" / ".0003-block-2.safetensors.1.tmp").write_bytes(b"half")
    with (store / "partial.jsonl").open("a") as journal:
        journal.write('{"file": {"path"')  # a torn last line
    model.reads.clear()
    quantize(model, plan_of(model), store)
    quantize(model, plan_of(model), tmp_path / "whole")
    assert files_of(store) == files_of(tmp_path / "whole")
    assert QuantizedModel.open(store).names() == tuple(model.info.weights)
