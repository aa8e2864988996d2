"""Codes read back from a model file: the digest is the store's, and nothing else is read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from edgeq.core.digest import tensor_digest, weights_digest
from edgeq.core.packing import pack_groups, pack_rows
from edgeq.core.scheme import Scheme
from edgeq.core.tensor import QuantizedTensor
from edgeq.errors import CorruptInputError, EdgeqError, UnsafeInputError
from edgeq.validation.onnx_weights import OnnxWeights, artifact_digest, read_entries

Entry = dict[str, Any]


def random_tensor(scheme: Scheme, outputs: int, inputs: int, seed: int = 0) -> QuantizedTensor:
    rng = np.random.default_rng(seed)
    shape = (outputs, scheme.groups(inputs))
    return QuantizedTensor(
        scheme=scheme,
        codes=rng.integers(0, scheme.levels, (outputs, inputs), dtype=np.uint8),
        scales=rng.random(shape, dtype=np.float32),
        zero_points=None if scheme.symmetric else rng.integers(0, scheme.levels, shape, dtype=np.uint8),
    )


def entry_of(tensor: QuantizedTensor, name: str, rows: list[int] | None = None, container: int | None = None) -> Entry:
    scheme = tensor.scheme
    return {
        "bits": scheme.bits,
        "group_size": scheme.group_size,
        "symmetric": scheme.symmetric,
        "scale_dtype": scheme.scale_dtype,
        "shape": list(tensor.shape),
        "codes": f"{name}.codes",
        "scales": f"{name}.scales",
        "zero_points": None if tensor.zero_points is None else f"{name}.zero",
        "rows": rows or [0, tensor.shape[0]],
        "container_bits": container,
    }


def digest_of(tensor: QuantizedTensor) -> str:
    return weights_digest([("w", tensor_digest("w", tensor))])


def packed(tensor: QuantizedTensor, layout: str) -> dict[str, np.ndarray[Any, Any]]:
    bits, inputs = tensor.scheme.bits, tensor.shape[1]
    size = tensor.scheme.group_size or max(16, 1 << (inputs - 1).bit_length())
    matmul = layout == "matmul"
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "codes": pack_groups(tensor.codes, bits, size) if matmul else pack_rows(tensor.codes, bits),
        "scales": tensor.scales.ravel() if matmul else tensor.scales,
    }
    if tensor.zero_points is not None:
        zero = pack_rows(tensor.zero_points, bits)
        arrays["zero"] = zero.ravel() if matmul else zero
    return arrays


def save(path: Path, arrays: dict[str, np.ndarray[Any, Any]]) -> None:
    initializers = [numpy_helper.from_array(value, name) for name, value in arrays.items()]
    graph = helper.make_graph([], "weights", [], [], initializers)
    onnx.save_model(
        helper.make_model(graph), path, save_as_external_data=True, location="model.onnx_data", size_threshold=16
    )


def save_tensor(path: Path, tensor: QuantizedTensor, layout: str, container: int | None = None) -> Entry:
    """container: pack codes of fewer bits as those of a kernel that takes so many."""
    held = tensor if container is None else in_container(tensor, container)
    save(path, {f"w.{part}": value for part, value in packed(held, layout).items()})
    return entry_of(tensor, "w", container=container)


def in_container(tensor: QuantizedTensor, bits: int) -> QuantizedTensor:
    """Without a zero point in the file, the kernel subtracts the middle of its own codes."""
    scheme = replace(tensor.scheme, bits=bits)
    moved = scheme.default_zero_point - tensor.scheme.default_zero_point if scheme.symmetric else 0
    return replace(tensor, scheme=scheme, codes=tensor.codes + np.uint8(moved))


SCHEMES = st.builds(
    Scheme, bits=st.sampled_from([2, 3, 4, 8]), group_size=st.sampled_from([16, 32, None]), symmetric=st.booleans()
)


@given(SCHEMES, st.sampled_from(["matmul", "gather"]), st.integers(1, 5), st.integers(1, 70))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_packed_is_read_back(tmp_path: Path, scheme: Scheme, layout: str, outputs: int, inputs: int) -> None:
    tensor = random_tensor(scheme, outputs, inputs)
    (tmp_path / "model.onnx_data").unlink(missing_ok=True)
    entry = save_tensor(tmp_path / "model.onnx", tensor, layout)
    found = artifact_digest(tmp_path / "model.onnx", {"w": entry})
    assert found == digest_of(tensor)


@given(SCHEMES.filter(lambda scheme: scheme.bits < 4), st.sampled_from(["matmul", "gather"]), st.sampled_from([4, 8]))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_codes_in_a_container_are_read_back(tmp_path: Path, scheme: Scheme, layout: str, container: int) -> None:
    tensor = random_tensor(scheme, 3, 40)
    (tmp_path / "model.onnx_data").unlink(missing_ok=True)
    entry = save_tensor(tmp_path / "model.onnx", tensor, layout, container)
    found = OnnxWeights(tmp_path / "model.onnx").tensor(read_entries({"w": entry})["w"])
    np.testing.assert_array_equal(found.codes, tensor.codes)
    np.testing.assert_array_equal(found.dequantize(), tensor.dequantize())
    assert artifact_digest(tmp_path / "model.onnx", {"w": entry}) == digest_of(tensor)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3])
def test_codes_that_the_scheme_does_not_have_are_refused(tmp_path: Path, bits: int, symmetric: bool) -> None:
    """Below its codes and above them: a container has room for both."""
    tensor = random_tensor(Scheme(bits=bits, symmetric=symmetric), 3, 64)
    for wrong in (0, 15) if symmetric else (1 << bits, 15):
        held = in_container(tensor, 4)
        held.codes[1, 5] = wrong
        save(tmp_path / "model.onnx", {f"w.{part}": value for part, value in packed(held, "matmul").items()})
        entry = entry_of(tensor, "w", container=4)
        with pytest.raises(CorruptInputError):
            artifact_digest(tmp_path / "model.onnx", {"w": entry})


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_scales_in_two_bytes(tmp_path: Path, dtype: str) -> None:
    import ml_dtypes

    kind = np.dtype(np.float16 if dtype == "float16" else ml_dtypes.bfloat16)
    scheme = Scheme(bits=4, scale_dtype=dtype)  # type: ignore[arg-type]
    raw = random_tensor(scheme, 3, 40)
    scales = raw.scales.astype(kind).astype(np.float32)
    tensor = QuantizedTensor(scheme=scheme, codes=raw.codes, scales=scales, zero_points=raw.zero_points)
    arrays = {f"w.{part}": value for part, value in packed(tensor, "matmul").items()}
    save(tmp_path / "model.onnx", arrays | {"w.scales": tensor.scales.ravel().astype(kind)})
    found = artifact_digest(tmp_path / "model.onnx", {"w": entry_of(tensor, "w")})
    assert found == digest_of(tensor)


@pytest.mark.parametrize(("bits", "inputs"), [(4, 40), (8, 40), (4, 33)])
def test_fused_rows_are_told_apart(tmp_path: Path, bits: int, inputs: int) -> None:
    scheme = Scheme(bits=bits)
    tensors = {"q": random_tensor(scheme, 6, inputs, 1), "k": random_tensor(scheme, 3, inputs, 2)}
    parts = [packed(tensor, "matmul") for tensor in tensors.values()]
    save(tmp_path / "model.onnx", {f"w.{part}": np.concatenate([one[part] for one in parts]) for part in parts[0]})
    weights = {
        "q": entry_of(tensors["q"], "w", [0, 6]),
        "k": entry_of(tensors["k"], "w", [6, 9]),
    }
    expected = weights_digest((name, tensor_digest(name, tensor)) for name, tensor in tensors.items())
    assert artifact_digest(tmp_path / "model.onnx", weights) == expected


@pytest.mark.parametrize("part", ["codes", "scales", "zero"])
def test_one_changed_byte_changes_the_digest(tmp_path: Path, part: str) -> None:
    tensor = random_tensor(Scheme(bits=4), 3, 64)
    entry = save_tensor(tmp_path / "model.onnx", tensor, "matmul")
    before = artifact_digest(tmp_path / "model.onnx", {"w": entry})
    graph = onnx.load(tmp_path / "model.onnx", load_external_data=False).graph
    where = next(one for one in graph.initializer if one.name == f"w.{part}")
    if where.external_data:
        offset = int({item.key: item.value for item in where.external_data}.get("offset", "0"))
        data = bytearray((tmp_path / "model.onnx_data").read_bytes())
        data[offset] ^= 1
        (tmp_path / "model.onnx_data").write_bytes(data)
    else:
        content = (tmp_path / "model.onnx").read_bytes()
        changed = bytes([where.raw_data[0] ^ 1]) + where.raw_data[1:]
        (tmp_path / "model.onnx").write_bytes(content.replace(where.raw_data, changed))
    assert artifact_digest(tmp_path / "model.onnx", {"w": entry}) != before


def test_no_quantized_weights_have_the_empty_digest(tmp_path: Path) -> None:
    save(tmp_path / "model.onnx", {"x": np.zeros(3, dtype=np.float32)})
    assert artifact_digest(tmp_path / "model.onnx", {}) == weights_digest([])


def test_a_truncated_data_file_is_refused(tmp_path: Path) -> None:
    entry = save_tensor(tmp_path / "model.onnx", random_tensor(Scheme(bits=4), 8, 64), "matmul")
    data = tmp_path / "model.onnx_data"
    data.write_bytes(data.read_bytes()[:-1000])
    with pytest.raises(CorruptInputError, match="beyond the end"):
        artifact_digest(tmp_path / "model.onnx", {"w": entry})
    data.unlink()
    with pytest.raises(CorruptInputError, match="missing"):
        artifact_digest(tmp_path / "model.onnx", {"w": entry})


@pytest.mark.parametrize("location", ["../outside", "/etc/hostname", "C:\\file", ""])
def test_data_outside_of_the_directory_is_refused(tmp_path: Path, location: str) -> None:
    entry = save_tensor(tmp_path / "model.onnx", random_tensor(Scheme(bits=4), 8, 64), "matmul")
    (tmp_path.parent / "outside").write_bytes(b"\0" * 100_000)
    model = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for item in tensor.external_data:
            if item.key == "location":
                item.value = location
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UnsafeInputError):
        artifact_digest(tmp_path / "model.onnx", {"w": entry})


def test_a_link_out_of_the_directory_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "bundle"
    directory.mkdir()
    entry = save_tensor(directory / "model.onnx", random_tensor(Scheme(bits=4), 8, 64), "matmul")
    (directory / "model.onnx_data").rename(tmp_path / "elsewhere")
    (directory / "model.onnx_data").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeInputError):
        artifact_digest(directory / "model.onnx", {"w": entry})


@pytest.mark.parametrize(
    "change",
    [
        {"codes": "nothing"},
        {"shape": [9, 64]},
        {"shape": [8, 640]},
        {"rows": [4, 12]},
        {"rows": [5, 5]},
        {"bits": 8},
        {"bits": 5},
        {"group_size": 16},
        {"symmetric": True},
        {"scales": "w.codes"},
        {"codes": "w.scales"},
        {"container_bits": 2},
        {"container_bits": 5},
        {"container_bits": 8},
        {"extra": 1},
    ],
)
def test_entries_that_do_not_fit_are_refused(tmp_path: Path, change: Entry) -> None:
    entry = save_tensor(tmp_path / "model.onnx", random_tensor(Scheme(bits=4), 8, 64), "matmul")
    with pytest.raises(CorruptInputError):
        artifact_digest(tmp_path / "model.onnx", {"w": entry | change})


@pytest.mark.parametrize("content", [None, b"", b"\xff\xff not a model"])
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(EdgeqError):
        OnnxWeights(tmp_path / "model.onnx").array("w")
