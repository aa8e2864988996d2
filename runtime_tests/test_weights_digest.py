"""One weights digest: what the store holds is what every artifact holds, for each scheme that a format can be given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest

from edgeq.core.artifact import TABLE_SUFFIX, Artifact, WeightLocation
from edgeq.core.recipe import Recipe, Rule
from edgeq.core.records import to_plain
from edgeq.core.scheme import ScaleDtype, Scheme
from edgeq.core.target import Format
from edgeq.errors import CorruptInputError
from edgeq.lowering import lower
from edgeq.models.source import load
from edgeq.progress import SilentProgress
from edgeq.quantization import allocate, quantize
from edgeq.quantization.methods import plain_method
from edgeq.store import QuantizedModel
from edgeq.targets.profiles import load_profile
from edgeq.validation.coreml_weights import _HEADER, CoremlWeights
from edgeq.validation.weights import artifact_digest
from tests.tiny_models import tiny_bert

FORMATS: tuple[Format, ...] = get_args(Format)
TARGETS: dict[Format, str] = {"onnx": "edge", "executorch": "android", "coreml": "ios", "transformersjs": "browser"}
SCALES: dict[Format, ScaleDtype] = {
    "onnx": "float32",
    "executorch": "bfloat16",
    "coreml": "float16",
    "transformersjs": "float16",
}
LINEARS = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
TABLE = "embeddings.word_embeddings.weight"


def integers(bits: int, group_size: int | None, *, symmetric: bool, format: Format) -> Scheme:
    return Scheme(
        bits=bits,
        group_size=group_size,
        symmetric=symmetric,
        scale_dtype=SCALES[format],
        signed_scales=format != "executorch",
    )


def every(bits: tuple[int, ...], group_sizes: tuple[int | None, ...], format: Format) -> tuple[Scheme, ...]:
    return tuple(
        integers(width, size, symmetric=symmetric, format=format)
        for width in bits
        for size in group_sizes
        for symmetric in (True, False)
    )


def palette(bits: int, rows: int | None) -> Scheme:
    return Scheme(
        bits=bits, group_size=None, symmetric=True, scale_dtype="float16", codebook="palette", palette_rows=rows
    )


NF4 = Scheme(bits=4, group_size=32, symmetric=True, scale_dtype="float16", codebook="nf4")
# What allocation can give to linears, and to tables: groups of 32 stand for all that the kernels take.
SCHEMES: dict[Format, tuple[tuple[Scheme, ...], tuple[Scheme, ...]]] = {
    "onnx": (every((2, 3, 4, 8), (32, None), "onnx"), every((4, 8), (32,), "onnx")),
    "executorch": (
        # 4-bit groups and channels, zero points by the correction; 8 bits have channels only.
        (*every((2, 3, 4), (32,), "executorch"), *every((4, 8), (None,), "executorch")),
        every((4, 8), (32,), "executorch"),
    ),
    "coreml": (
        (
            *every((2, 3, 4, 8), (32, None), "coreml"),
            NF4,
            *(palette(bits, 8) for bits in (2, 3, 4, 8)),
            palette(4, None),
        ),
        (*every((4, 8), (32,), "coreml"), NF4, palette(4, 8)),
    ),
    "transformersjs": (every((2, 3, 4, 8), (32,), "transformersjs"), every((4, 8), (32,), "transformersjs")),
}


@dataclass(frozen=True, kw_only=True)
class Lowered:
    """A model whose weights have one scheme each."""

    store: QuantizedModel
    artifact: Artifact
    schemes: dict[str, Scheme]

    @property
    def path(self) -> Path:
        return self.artifact.directory / self.artifact.entry

    def digest(self) -> str:
        return artifact_digest(self.artifact.format, self.path, to_plain(self.artifact.weights))


def assigned(linears: tuple[Scheme, ...], table: Scheme) -> tuple[int, dict[str, Scheme]]:
    """How many layers it takes, and each weight's scheme; the first projections share one, and may be joined."""
    schemes = (*linears[:1] * (len(LINEARS) // 2 - 1), *linears)
    layers = -(-len(schemes) // len(LINEARS))
    names = [f"encoder.layer.{layer}.{part}.weight" for layer in range(layers) for part in LINEARS]
    return layers, {name: schemes[index % len(schemes)] for index, name in enumerate(names)} | {TABLE: table}


def prepare(format: Format, part: int, directory: Path) -> Lowered:
    """The linears' schemes all at once with the first table's; the other tables' in models of one layer."""
    linears, tables = SCHEMES[format]
    layers, schemes = assigned(linears if part == 0 else linears[-1:], tables[part])
    source = tiny_bert(directory / "source", hidden=64, intermediate=96, layers=layers, pooling="none")
    methods = {name: plain_method(scheme) if scheme.codebook else "rtn" for name, scheme in schemes.items()}
    rules = tuple(Rule(tensors=name, scheme=scheme, method=methods[name]) for name, scheme in schemes.items())
    target = replace(load_profile(TARGETS[format]), compute_unit="gpu" if format == "coreml" else "cpu")
    model = load(source, task="feature-extraction")
    store = quantize(model, allocate(model, Recipe(rules=rules), target, (format,)), directory / "store")
    (directory / "artifact").mkdir()
    artifact = lower(store, target, format, directory / "artifact", SilentProgress())
    return Lowered(store=store, artifact=artifact, schemes=schemes)


PARTS = [
    pytest.param((format, part), id=f"{format}-{part}") for format in FORMATS for part in range(len(SCHEMES[format][1]))
]


@pytest.fixture(scope="module", params=PARTS)
def lowered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Lowered:
    format, part = request.param
    return prepare(format, part, tmp_path_factory.mktemp("digest"))


def onnx_place(path: Path, name: str) -> tuple[Path, int]:
    graph = onnx.load(path, load_external_data=False).graph
    where = next(one for one in graph.initializer if one.name == name)
    entries = {item.key: item.value for item in where.external_data}
    return path.with_name(entries["location"]), int(entries["offset"])


def executorch_place(path: Path, place: str) -> tuple[Path, int]:
    from executorch.exir._serialize._program import deserialize_pte_binary

    data = path.read_bytes()
    file = deserialize_pte_binary(data)
    kind, _, name = place.partition(":")
    named = kind == "named"
    stored = file.named_data.buffers[file.named_data.pte_data[name].buffer_index] if named else None
    stored = bytes(stored or file.program.constant_buffer[int(name)].storage)
    assert data.count(stored) == 1, place
    return path, data.index(stored)


def coreml_place(path: Path, reference: str) -> tuple[Path, int]:
    source = CoremlWeights(path)
    name, _, argument = reference.rpartition(".")
    blob = source._functions[0][name].inputs[argument].arguments[0].value.blobFileValue
    assert blob.fileName, f"{reference} is in the program"
    weights = next(path.rglob("weight.bin"))
    header = np.frombuffer(weights.read_bytes(), _HEADER, count=1, offset=blob.offset)[0]
    return weights, int(header["offset"])


PLACES: dict[Format, Callable[[Path, str], tuple[Path, int]]] = {
    "onnx": onnx_place,
    "executorch": executorch_place,
    "coreml": coreml_place,
    "transformersjs": onnx_place,
}


def first_row(format: Format, location: WeightLocation, part: str) -> int:
    """Bytes before the weight's own: ONNX may keep several below one another."""
    if format not in ("onnx", "transformersjs") or location.rows[0] == 0:
        return 0
    inputs = location.shape[1]
    scheme = Scheme(bits=location.container_bits or location.bits, group_size=location.group_size)
    groups = scheme.groups(inputs)
    row = groups * 4 if part == "scales" else groups * (location.group_size or inputs) * scheme.bits // 8
    return location.rows[0] * row


def parts_of(location: WeightLocation) -> Iterator[tuple[str, str]]:
    """What to flip a bit in: the codes, and the scales or the palette that stands for them."""
    yield "codes", location.codes
    palette = location.codebook if location.codebook_kind == "palette" else None
    yield ("scales", location.scales) if palette is None else ("codebook", palette)


def test_the_digest_is_the_store_s_for_every_scheme(lowered: Lowered) -> None:
    assert {name.removesuffix(TABLE_SUFFIX) for name in lowered.artifact.weights} >= set(lowered.schemes)
    for name, scheme in lowered.schemes.items():
        assert lowered.store.quantization(name) == scheme
        assert lowered.artifact.weights[name].bits == scheme.bits
    assert lowered.digest() == lowered.artifact.weights_digest == lowered.store.weights_digest


def test_one_bit_of_any_weight_s_codes_or_scales_changes_it(lowered: Lowered) -> None:
    """What then reads as no weight at all is refused, which no less keeps it from passing."""
    format, unnoticed = lowered.artifact.format, []
    for name, location in lowered.artifact.weights.items():
        for part, place in parts_of(location):
            path, offset = PLACES[format](lowered.path, place)
            with flipped(path, offset + first_row(format, location, part)):
                try:
                    changed = lowered.digest()
                except CorruptInputError:
                    continue
            if changed == lowered.store.weights_digest:
                unnoticed.append((name, part))
    assert unnoticed == []


class flipped:  # noqa: N801 - a context manager
    """A file with the lowest bit of one byte turned over, for a while."""

    def __init__(self, path: Path, offset: int) -> None:
        self.path, self.offset = path, offset

    def _turn(self) -> None:
        with self.path.open("r+b") as file:
            file.seek(self.offset)
            (byte,) = file.read(1)
            file.seek(self.offset)
            file.write(bytes([byte ^ 1]))

    def __enter__(self) -> Any:  # noqa: ANN401
        self._turn()

    def __exit__(self, *_: object) -> None:
        self._turn()
