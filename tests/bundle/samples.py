"""A bundle's ingredients: a bigram language model and a word-count encoder that ONNX Runtime really runs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from edgeq.bundle.golden import Golden, build_golden, text_decoder
from edgeq.bundle.seal import seal
from edgeq.bundle.stage import StagedBundle, stage
from edgeq.core.artifact import Artifact, Interface, Variant, WeightLocation
from edgeq.core.model import ModelInfo
from edgeq.core.target import Format, Provenance, Surface, TargetProfile
from edgeq.summary import report_texts
from tests.reports.samples import DIGEST, passed_report

WORDS = ("<s>", "</s>", "once", "upon", "a", "time", "there", "was")
HEADS, SIZE = 2, 4
LOCATION = WeightLocation(
    bits=4,
    group_size=32,
    symmetric=True,
    scale_dtype="float32",
    shape=(8, 8),
    codes="table",
    scales="table_scales",
    zero_points=None,
    rows=(0, 8),
)

Table = np.ndarray[tuple[int, int], np.dtype[np.float32]]


@dataclass(frozen=True, kw_only=True)
class FakeQuantized:
    """Stands for a QuantizedModel, of which a bundle needs just this."""

    info: ModelInfo
    source_directory: Path


FORMATS: dict[Surface, tuple[Format, ...]] = {
    "android": ("onnx", "executorch"),
    "edge": ("onnx",),
    "ios": ("coreml", "executorch"),
    "browser": ("transformersjs",),
}
INPUTS: dict[Format, tuple[str, ...]] = {
    "executorch": ("tokens", "input_pos"),
    "coreml": ("input_ids", "position", "last"),
}
FILES: dict[Format, tuple[str, ...]] = {
    "onnx": ("model.onnx", "model.onnx_data"),
    "transformersjs": ("model_q4.onnx", "model_q4.onnx_data", "model_q4f16.onnx", "model_q4f16.onnx_data"),
    "executorch": ("model.pte",),
    "coreml": ("model.mlpackage/Manifest.json", "model.mlpackage/Data/com.apple.CoreML/weights/weight.bin"),
}
ENTRIES: dict[Format, str] = {
    "onnx": "model.onnx",
    "executorch": "model.pte",
    "coreml": "model.mlpackage",
    "transformersjs": "model_q4.onnx",
}
VARIANTS = (
    Variant(dtype="q4", entry="model_q4.onnx", float_dtype="float32"),
    Variant(dtype="q4f16", entry="model_q4f16.onnx", float_dtype="float16"),
)
"""Of the samples both compute in float32."""


def profile(surface: Surface = "android", accuracy_level: int = 4) -> TargetProfile:
    return TargetProfile(
        name="test",
        description="A device for tests",
        surface=surface,
        formats=FORMATS[surface],
        memory_limit_mib=1024,
        memory_reserve_mib=256,
        bundle_limit_mib=None,
        threads=2,
        context_length=64,
        accuracy_level=accuracy_level,
        compute_unit="gpu" if surface == "ios" else "cpu",
        execution_providers=("wasm", "webgpu") if surface == "browser" else (),
        provenance={"memory_limit_mib": Provenance(source="a test", source_date="2026-11-23", confidence="estimated")},
    )


def bigram_table() -> Table:
    """Logits `[vocabulary, vocabulary]`: each word is followed by the next one, the last by the end of text."""
    table: Table = np.random.default_rng(0).normal(size=(len(WORDS), len(WORDS))).astype(np.float32)
    for word in range(2, len(WORDS)):
        table[word, word + 1 if word + 1 < len(WORDS) else 1] = 9.0
    return table


def generator_interface() -> Interface:
    return Interface(
        task="text-generation",
        inputs=(
            "input_ids",
            "attention_mask",
            "num_logits_to_keep",
            "past_key_values.0.key",
            "past_key_values.0.value",
        ),
        outputs=("logits", "present.0.key", "present.0.value"),
        vocabulary=len(WORDS),
        context_length=64,
        cache=((HEADS, SIZE),),
        end_of_text_ids=(1,),
        begin_of_text_id=0,
    )


def stateful_interface(format: Format) -> Interface:
    """The generator's interface where the runtime holds the cache itself."""
    return dataclasses.replace(generator_interface(), inputs=INPUTS[format], outputs=("logits",))


def encoder_interface() -> Interface:
    return Interface(
        task="feature-extraction",
        inputs=("input_ids", "attention_mask"),
        outputs=("sentence_embedding",),
        vocabulary=len(WORDS),
        context_length=64,
        pooling="mean",
        dimension=len(WORDS),
    )


def write_generator(directory: Path, name: str = "model.onnx") -> None:
    """The bigram table as an ONNX model with a cache, its weights in a file beside it."""
    cache: list[str | int | None] = ["batch_size", HEADS, "past_sequence_length", SIZE]
    longer: list[str | int | None] = ["batch_size", HEADS, "total_sequence_length", SIZE]
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["all"]),
        helper.make_node("Neg", ["num_logits_to_keep"], ["start"]),
        helper.make_node("Reshape", ["start", "one"], ["starts"]),
        helper.make_node("Slice", ["all", "starts", "end", "one"], ["logits"]),  # the last input: axis 1
        helper.make_node("Cast", ["input_ids"], ["ids"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["ids", "axes"], ["column"]),
        helper.make_node("Expand", ["column", "shape"], ["new"]),
        helper.make_node("Concat", ["past_key_values.0.key", "new"], ["present.0.key"], axis=2),
        helper.make_node("Concat", ["past_key_values.0.value", "new"], ["present.0.value"], axis=2),
    ]
    constants = {
        "one": np.array([1]),
        "end": np.array([2**31 - 1]),
        "axes": np.array([1, 3]),
        "shape": np.array([1, HEADS, 1, SIZE]),
    }
    graph = helper.make_graph(
        nodes,
        "bigrams",
        [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch_size", "sequence_length"]),
            helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch_size", "total_sequence_length"]),
            helper.make_tensor_value_info("num_logits_to_keep", TensorProto.INT64, []),
            helper.make_tensor_value_info("past_key_values.0.key", TensorProto.FLOAT, cache),
            helper.make_tensor_value_info("past_key_values.0.value", TensorProto.FLOAT, cache),
        ],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch_size", "kept", len(WORDS)]),
            helper.make_tensor_value_info("present.0.key", TensorProto.FLOAT, longer),
            helper.make_tensor_value_info("present.0.value", TensorProto.FLOAT, longer),
        ],
        [numpy_helper.from_array(bigram_table(), "table")]
        + [numpy_helper.from_array(value.astype(np.int64), name) for name, value in constants.items()],
    )
    _save(graph, directory, name)


def write_encoder(directory: Path, name: str = "model.onnx") -> None:
    """Mean of table rows as an ONNX model."""
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("ReduceMean", ["rows", "one"], ["sentence_embedding"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "words",
        [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch_size", "sequence_length"]),
            helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch_size", "sequence_length"]),
        ],
        [helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch_size", len(WORDS)])],
        [numpy_helper.from_array(bigram_table(), "table"), numpy_helper.from_array(np.array([1]), "one")],
    )
    _save(graph, directory, name)


def _save(graph: onnx.GraphProto, directory: Path, name: str) -> None:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save_model(
        model,
        str(directory / name),
        save_as_external_data=True,
        location=f"{name}_data",
        size_threshold=100,
    )


def write_source(directory: Path, *, licence: str | None = "Do what you like.\n") -> None:
    """The companion files of a checkpoint."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<s>"))  # noqa: S106
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text("{}\n")
    # transformers.js has no bigrams, but models of this type with as many layers look the same from outside.
    (directory / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 1}\n')
    (directory / "model.safetensors").write_bytes(b"must not be shipped")
    if licence is not None:
        (directory / "LICENSE.txt").write_text(licence)


def info(source: str = "models/My Model") -> ModelInfo:
    return ModelInfo(
        source=source,
        revision="0" * 40,
        task="text-generation",
        architecture="Bigram",
        model_type="bigram",
        parameters=64,
        weights={},
        tied={},
        licence="apache-2.0",
    )


def golden(interface: Interface, tokenizer: Path, accuracy_level: int = 4) -> Golden:
    """Golden cases computed from the table itself."""
    table = bigram_table()
    sequences = [[2, 3, 4, 5, 6, 7, 2, 3], [4, 5, 6, 7], [7, 6, 5], [2]]
    if interface.task == "text-generation":
        outputs = [table[sequence] for sequence in sequences]
    else:
        outputs = [table[sequence].mean(axis=0) for sequence in sequences]
    return build_golden(
        interface.task, sequences, outputs, decode=text_decoder(tokenizer), accuracy_level=accuracy_level
    )


def staged_bundle(
    work: Path,
    out: Path,
    *,
    surface: Surface = "android",
    format: Format = "onnx",
    target: TargetProfile | None = None,
    interface: Interface | None = None,
    force: bool = False,
    licence: str | None = "Do what you like.\n",
) -> StagedBundle:
    """A staged bundle of the bigram model, or of the word encoder where `interface` is its.

    ONNX models can be run: those of other formats are files with a few bytes.
    """
    is_run = format in ("onnx", "transformersjs")
    interface = interface or (generator_interface() if is_run else stateful_interface(format))
    artifact_directory = work / "artifact"
    artifact_directory.mkdir(parents=True, exist_ok=True)
    write_source(work / "source", licence=licence)
    _write_model(artifact_directory, format, interface)
    return stage(
        Artifact(
            format=format,
            directory=artifact_directory,
            entry=ENTRIES[format],
            files=FILES[format],
            interface=interface,
            weights_digest=DIGEST,
            weights={"table": LOCATION},
            variants=VARIANTS if format == "transformersjs" else (),
        ),
        FakeQuantized(info=dataclasses.replace(info(), task=interface.task), source_directory=work / "source"),
        target or profile(surface),
        golden(interface, work / "source" / "tokenizer.json"),
        out,
        force=force,
    )


def _write_model(directory: Path, format: Format, interface: Interface) -> None:
    if format in ("onnx", "transformersjs"):
        write = write_generator if interface.task == "text-generation" else write_encoder
        for name in [name for name in FILES[format] if name.endswith(".onnx")]:
            write(directory, name)
    else:
        for index, name in enumerate(FILES[format]):
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_bytes(bytes(1000 + index))


def sealed_bundle(
    work: Path,
    out: Path,
    *,
    surface: Surface = "android",
    format: Format = "onnx",
    interface: Interface | None = None,
    force: bool = False,
) -> Path:
    """A finished bundle."""
    return seal_sample(staged_bundle(work, out, surface=surface, format=format, interface=interface, force=force))


def seal_sample(staged: StagedBundle) -> Path:
    report = passed_report()
    return seal(staged, report, report_texts(report, staged.manifest))
