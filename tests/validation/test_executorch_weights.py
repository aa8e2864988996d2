"""Codes read back from a `.pte`: the digest is the store's, and a changed bit is seen. The files are made by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from executorch.exir._serialize._named_data_store import NamedDataStore
from executorch.exir._serialize._program import PTEFile, deserialize_pte_binary, serialize_pte_binary
from executorch.exir.schema import Buffer, Program, SubsegmentOffsets

from edgeq.core.artifact import TABLE_SUFFIX
from edgeq.core.digest import tensor_digest, weights_digest
from edgeq.core.scheme import Scheme
from edgeq.core.tensor import QuantizedTensor
from edgeq.errors import CorruptInputError
from edgeq.validation.executorch_weights import ExecuTorchWeights, artifact_digest
from edgeq.validation.onnx_weights import read_entries

Entry = dict[str, Any]
Parts = dict[str, bytes]
OUTPUTS, INPUTS = 6, 64
LINEARS = [
    Scheme(bits=4, group_size=group_size, symmetric=symmetric, scale_dtype="bfloat16")
    for group_size in (None, 32)
    for symmetric in (True, False)
] + [Scheme(bits=8, group_size=None, symmetric=symmetric) for symmetric in (True, False)]
TABLES = [
    Scheme(bits=bits, group_size=group_size, symmetric=symmetric, scale_dtype="bfloat16")
    for bits in (2, 4, 8)
    for group_size in (None, 16)
    for symmetric in (True, False)
]
FEW_BITS = [
    Scheme(bits=bits, group_size=group_size, symmetric=symmetric, scale_dtype="bfloat16")
    for bits in (2, 3)
    for group_size in (None, 32)
    for symmetric in (True, False)
]
"""In 4-bit codes: products, and tables of 3 bits."""


def random_tensor(scheme: Scheme, inputs: int = INPUTS, seed: int = 0) -> QuantizedTensor:
    rng = np.random.default_rng(seed)
    shape = (OUTPUTS, scheme.groups(inputs))
    scales = rng.random(shape, dtype=np.float32) + np.float32(0.5)
    return QuantizedTensor(
        scheme=scheme,
        codes=rng.integers(0, scheme.levels, (OUTPUTS, inputs), dtype=np.uint8),
        scales=(scales.view(np.uint32) & 0xFFFF0000).view(np.float32) if scheme.scale_dtype == "bfloat16" else scales,
        zero_points=None if scheme.symmetric else rng.integers(0, scheme.levels, shape, dtype=np.uint8),
    )


def parts_of(tensor: QuantizedTensor, *, table: bool) -> Parts:
    """XNNPACK's layout or the embedding kernel's, after their documents."""
    middle = tensor.scheme.default_zero_point
    if tensor.scheme.bits == 2 and table:
        quads = tensor.codes.reshape(-1, 4)
        codes = bytes(int(a) | int(b) << 2 | int(c) << 4 | int(d) << 6 for a, b, c, d in quads)
    elif tensor.scheme.bits == 8:
        codes = bytes((int(code) - middle) % 256 for code in tensor.codes.ravel())
    else:
        first, second = (4, 0) if table else (0, 4)
        pairs = tensor.codes.reshape(-1, 2)
        codes = bytes(int(a) << first | int(b) << second for a, b in pairs)
    scales = tensor.scales.astype("<f4").tobytes()
    if tensor.scheme.bits == 4 and not table:
        scales = b"".join(scales[i + 2 : i + 4] for i in range(0, len(scales), 4))
    parts = {"codes": codes, "scales": scales}
    if tensor.zero_points is not None:
        zeros = tensor.zero_points.astype(np.float32) - middle
        parts["zero_points"] = (zeros if table else -(tensor.scales * zeros)).astype("<f4").tobytes()
    return parts


def in_four_bits(tensor: QuantizedTensor, *, table: bool) -> QuantizedTensor:
    """A product's codes are differences to their zero points; a table's keep them."""
    zeros = np.full(tensor.scales.shape, tensor.scheme.default_zero_point) if tensor.zero_points is None else None
    zeros = tensor.zero_points.astype(int) if tensor.zero_points is not None else zeros
    assert zeros is not None
    keeps = table and tensor.zero_points is not None
    size = tensor.scheme.group_size or tensor.shape[1]
    moved = 0 if keeps else 8 - np.repeat(zeros, size, axis=1)
    return QuantizedTensor(
        scheme=replace(tensor.scheme, bits=4, symmetric=not keeps),
        codes=(tensor.codes + moved).astype(np.uint8),
        scales=tensor.scales,
        zero_points=tensor.zero_points if keeps else None,
    )


def entry_of(tensor: QuantizedTensor, places: dict[str, str]) -> Entry:
    scheme = tensor.scheme
    return {
        "bits": scheme.bits,
        "group_size": scheme.group_size,
        "symmetric": scheme.symmetric,
        "scale_dtype": scheme.scale_dtype,
        "shape": list(tensor.shape),
        "codes": places["codes"],
        "scales": places["scales"],
        "zero_points": places.get("zero_points"),
        "rows": [0, tensor.shape[0]],
    }


def save(path: Path, named: Parts, constants: list[bytes]) -> None:
    """A program without methods: nothing but buffers."""
    store = NamedDataStore()
    for key, value in named.items():
        store.add_named_data(key, value)
    program = Program(
        version=0,
        execution_plan=[],
        constant_buffer=[Buffer(storage=value) for value in (b"", *constants)],
        backend_delegate_data=[],
        segments=[],
        constant_segment=SubsegmentOffsets(segment_index=0, offsets=[]),
    )
    file = PTEFile(program=program, named_data=store.get_named_data_store_output())
    path.write_bytes(bytes(serialize_pte_binary(file, extract_delegate_segments=True)))


def save_tensor(path: Path, tensor: QuantizedTensor, *, table: bool, change: str = "") -> Entry:
    """One weight in a file, its first byte of the part `change` flipped in the lowest bit."""
    parts = parts_of(tensor, table=table)
    if change:
        parts[change] = bytes([parts[change][0] ^ 1]) + parts[change][1:]
    places = {part: f"constant:{index + 1}" if table else f"named:{part}" for index, part in enumerate(parts)}
    save(path, {} if table else parts, list(parts.values()) if table else [])
    return entry_of(tensor, places)


def digest_of(tensor: QuantizedTensor) -> str:
    return weights_digest([("w", tensor_digest("w", tensor))])


every_layout = pytest.mark.parametrize(
    ("scheme", "table"),
    [(scheme, False) for scheme in LINEARS] + [(scheme, True) for scheme in TABLES],
    ids=lambda value: value.label() if isinstance(value, Scheme) else ("linear", "table")[value],
)


@every_layout
def test_what_was_packed_is_read_back(scheme: Scheme, table: bool, tmp_path: Path) -> None:
    tensor = random_tensor(scheme)
    entry = save_tensor(tmp_path / "model.pte", tensor, table=table)
    found = ExecuTorchWeights(tmp_path / "model.pte").tensor(read_entries({"w": entry})["w"])
    np.testing.assert_array_equal(found.dequantize(), tensor.dequantize())
    assert artifact_digest(tmp_path / "model.pte", {"w": entry}) == digest_of(tensor)


@pytest.mark.parametrize("table", [True, False])
@pytest.mark.parametrize("scheme", FEW_BITS, ids=Scheme.label)
def test_few_bits_are_read_back_from_four(scheme: Scheme, table: bool, tmp_path: Path) -> None:
    tensor = random_tensor(scheme)
    held = in_four_bits(tensor, table=table)
    for change in ("", "codes"):
        places = save_tensor(tmp_path / "model.pte", held, table=table, change=change)
        entry = places | {"bits": scheme.bits, "symmetric": scheme.symmetric, "container_bits": 4}
        if not change:
            found = ExecuTorchWeights(tmp_path / "model.pte").tensor(read_entries({"w": entry})["w"])
            np.testing.assert_array_equal(found.dequantize(), tensor.dequantize())
        try:
            digest = artifact_digest(tmp_path / "model.pte", {"w": entry})
        except CorruptInputError:
            assert change
            continue
        assert (digest == digest_of(tensor)) is not bool(change)


@pytest.mark.parametrize("bits", [2, 3])
def test_groups_that_span_more_than_the_bits_are_refused(bits: int, tmp_path: Path) -> None:
    held = random_tensor(LINEARS[2])
    assert int(held.codes.max()) - int(held.codes.min()) >= 1 << bits
    entry = save_tensor(tmp_path / "model.pte", held, table=False)
    for symmetric in (True, False):
        with pytest.raises(CorruptInputError):
            artifact_digest(
                tmp_path / "model.pte", {"w": entry | {"bits": bits, "symmetric": symmetric, "container_bits": 4}}
            )


@pytest.mark.parametrize("change", ["codes", "scales", "zero_points"])
@every_layout
def test_one_changed_bit_is_seen(scheme: Scheme, table: bool, change: str, tmp_path: Path) -> None:
    tensor = random_tensor(scheme)
    if change == "zero_points" and tensor.zero_points is None:
        change = "codes"
    entry = save_tensor(tmp_path / "model.pte", tensor, table=table, change=change)
    try:
        found = artifact_digest(tmp_path / "model.pte", {"w": entry})
    except CorruptInputError:
        return
    assert found != digest_of(tensor)


def test_a_padded_last_group_is_cut_off(tmp_path: Path) -> None:
    full = random_tensor(LINEARS[2], inputs=96)
    tensor = QuantizedTensor(
        scheme=full.scheme, codes=np.ascontiguousarray(full.codes[:, :80]), scales=full.scales, zero_points=None
    )
    entry = save_tensor(tmp_path / "model.pte", full, table=False) | {"shape": [OUTPUTS, 80]}
    assert artifact_digest(tmp_path / "model.pte", {"w": entry}) == digest_of(tensor)


def both_copies(path: Path, linear: QuantizedTensor, table: QuantizedTensor) -> dict[str, Entry]:
    named, constants = parts_of(linear, table=False), list(parts_of(table, table=True).values())
    save(path, named, constants)
    places = {"codes": "constant:1", "scales": "constant:2"}
    return {
        "w": entry_of(linear, {part: f"named:{part}" for part in named}),
        f"w{TABLE_SUFFIX}": entry_of(table, places),
    }


def test_the_second_copy_of_a_tied_weight_counts_once_and_must_be_equal(tmp_path: Path) -> None:
    tensor, other = (random_tensor(LINEARS[2], seed=seed) for seed in (0, 1))
    entries = both_copies(tmp_path / "model.pte", tensor, tensor)
    assert artifact_digest(tmp_path / "model.pte", entries) == digest_of(tensor)
    entries = both_copies(tmp_path / "model.pte", tensor, other)
    with pytest.raises(CorruptInputError, match="two copies of w differ"):
        artifact_digest(tmp_path / "model.pte", entries)


def test_a_correction_that_no_zero_point_makes_is_refused(tmp_path: Path) -> None:
    tensor = random_tensor(LINEARS[3])
    parts = parts_of(tensor, table=False)
    parts["zero_points"] = (np.frombuffer(parts["zero_points"], np.float32) * np.float32(1.01)).tobytes()
    save(tmp_path / "model.pte", parts, [])
    entry = entry_of(tensor, {part: f"named:{part}" for part in parts})
    with pytest.raises(CorruptInputError):
        artifact_digest(tmp_path / "model.pte", {"w": entry})


@pytest.mark.parametrize(
    "change",
    [
        {"codes": "named:nothing"},
        {"codes": "constant:1000"},
        {"codes": "constant:x"},
        {"codes": "constant:-1"},
        {"codes": "elsewhere:1"},
        {"codes": "named:scales"},
        {"scales": "named:codes"},
        {"shape": [OUTPUTS + 1, INPUTS]},
        {"shape": [OUTPUTS, INPUTS * 2]},
        {"rows": [1, OUTPUTS]},
        {"bits": 8},
        {"bits": 5},
        {"bits": 3},
        {"container_bits": 2},
        {"container_bits": 5},
        {"group_size": 16},
        {"symmetric": False},
        {"zero_points": "named:scales"},
        {"extra": 1},
    ],
)
def test_entries_that_do_not_fit_are_refused(change: Entry, tmp_path: Path) -> None:
    entry = save_tensor(tmp_path / "model.pte", random_tensor(LINEARS[2]), table=False)
    with pytest.raises(CorruptInputError):
        artifact_digest(tmp_path / "model.pte", {"w": entry | change})


@pytest.mark.parametrize("content", [None, b"", b"not a program", bytes(100)], ids=["none", "empty", "text", "zeros"])
def test_what_is_no_program_is_refused(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "model.pte").write_bytes(content)
    tensor = random_tensor(TABLES[0])
    with pytest.raises(CorruptInputError):
        artifact_digest(
            tmp_path / "model.pte", {"w": entry_of(tensor, {"codes": "constant:1", "scales": "constant:2"})}
        )


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    entry = save_tensor(tmp_path / "model.pte", random_tensor(LINEARS[2]), table=False)
    data = (tmp_path / "model.pte").read_bytes()
    assert deserialize_pte_binary(data).named_data is not None
    (tmp_path / "model.pte").write_bytes(data[:-200])
    with pytest.raises(CorruptInputError):
        artifact_digest(tmp_path / "model.pte", {"w": entry})


def test_no_quantized_weights_have_the_empty_digest(tmp_path: Path) -> None:
    save(tmp_path / "model.pte", {}, [])
    assert artifact_digest(tmp_path / "model.pte", {}) == weights_digest([])
