"""A hand-built quantized language model and encoder in ONNX, and the same arithmetic in numpy."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeq.core.artifact import FileEntry, Interface
from edgeq.core.digest import tensor_digest, weights_digest
from edgeq.core.packing import pack_groups, pack_rows
from edgeq.core.records import to_plain
from edgeq.core.scheme import Scheme
from edgeq.core.tensor import QuantizedTensor
from edgeq.files import sha256_file

VOCABULARY, HIDDEN, HEADS, KV_HEADS, HEAD_SIZE, CONTEXT = 96, 64, 4, 2, 16, 48
SHAPES = {
    "embedding": (VOCABULARY, HIDDEN),
    "q": (HEADS * HEAD_SIZE, HIDDEN),
    "k": (KV_HEADS * HEAD_SIZE, HIDDEN),
    "v": (KV_HEADS * HEAD_SIZE, HIDDEN),
    "o": (HIDDEN, HEADS * HEAD_SIZE),
    "head": (VOCABULARY, HIDDEN),
}
LANGUAGE = Interface(
    task="text-generation",
    inputs=("input_ids", "attention_mask", "num_logits_to_keep", "past_key_values.0.key", "past_key_values.0.value"),
    outputs=("logits", "present.0.key", "present.0.value"),
    vocabulary=VOCABULARY,
    context_length=CONTEXT,
    cache=((KV_HEADS, HEAD_SIZE),),
    end_of_text_ids=(1,),
)
ENCODER = Interface(
    task="feature-extraction",
    inputs=("input_ids", "attention_mask"),
    outputs=("sentence_embedding",),
    vocabulary=VOCABULARY,
    context_length=CONTEXT,
    pooling="mean",
    dimension=HIDDEN,
)
Floats = npt.NDArray[np.float32]
Weights = dict[str, QuantizedTensor]


def round_to_nearest(weight: Floats, scheme: Scheme) -> QuantizedTensor:
    """The plainest quantizer: for tests of what comes after it."""
    outputs, inputs = weight.shape
    size = scheme.group_size or inputs
    padded = np.pad(weight, ((0, 0), (0, -inputs % size))).reshape(outputs, -1, size)
    if scheme.symmetric:
        scales = np.abs(padded).max(axis=2) / (scheme.levels / 2 - 1)
        zero = np.full(scales.shape, scheme.default_zero_point, dtype=np.uint8)
    else:
        low, high = np.minimum(padded.min(axis=2), 0), np.maximum(padded.max(axis=2), 0)
        scales = (high - low) / (scheme.levels - 1)
        zero = np.round(-low / scales).astype(np.uint8)
    scales = scales.astype(np.float32)
    codes = np.clip(np.round(padded / scales[..., None]) + zero[..., None], 0, scheme.levels - 1)
    return QuantizedTensor(
        scheme=scheme,
        codes=codes.astype(np.uint8).reshape(outputs, -1)[:, :inputs],
        scales=scales,
        zero_points=None if scheme.symmetric else zero,
    )


def random_floats(seed: int = 0) -> dict[str, Floats]:
    """Weights whose model has opinions: its perplexity is far below the vocabulary."""
    rng = np.random.default_rng(seed)
    return {name: (rng.standard_normal(shape) * 0.35).astype(np.float32) for name, shape in SHAPES.items()}


def language_logits(weights: dict[str, Floats], ids: list[int]) -> Floats:
    """The model in numpy: one attention layer without positions, residual, head. `[tokens, vocabulary]`."""
    x = weights["embedding"][ids]
    n = len(ids)
    q = (x @ weights["q"].T).reshape(n, HEADS, HEAD_SIZE)
    k = np.repeat((x @ weights["k"].T).reshape(n, KV_HEADS, HEAD_SIZE), HEADS // KV_HEADS, axis=1)
    v = np.repeat((x @ weights["v"].T).reshape(n, KV_HEADS, HEAD_SIZE), HEADS // KV_HEADS, axis=1)
    scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(HEAD_SIZE)
    scores[:, np.triu(np.ones((n, n), dtype=bool), 1)] = -np.inf
    shares = np.exp(scores - scores.max(axis=2, keepdims=True))
    shares /= shares.sum(axis=2, keepdims=True)
    mixed = np.einsum("hqk,khd->qhd", shares, v).reshape(n, -1)
    return np.asarray((x + mixed @ weights["o"].T) @ weights["head"].T, dtype=np.float32)


def embedding_of(weights: dict[str, Floats], ids: list[int]) -> Floats:
    """The encoder in numpy: projected tokens, mean over the sentence. `[HIDDEN]`."""
    hidden = weights["embedding"][ids] @ weights["q"].T
    return np.asarray(hidden.mean(axis=0), dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Nodes and initializers as they are put together; `weights` is the manifest's map."""

    nodes: list[onnx.NodeProto]
    initializers: list[onnx.TensorProto]
    weights: dict[str, Any]
    accuracy_level: int

    def node(self, operator: str, inputs: list[str], outputs: list[str], domain: str = "", **attributes: Any) -> None:  # noqa: ANN401
        self.nodes.append(helper.make_node(operator, inputs, outputs, domain=domain, **attributes))

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def linear(self, source: str, name: str, tensor: QuantizedTensor, target: str) -> None:
        """MatMulNBits: `target = source @ dequantize(tensor).T`."""
        outputs, inputs = tensor.shape
        bits, size = tensor.scheme.bits, tensor.scheme.group_size or 1 << (inputs - 1).bit_length()
        names = [
            self.constant(f"{name}.codes", pack_groups(tensor.codes, bits, size)),
            self.constant(f"{name}.scales", tensor.scales),
        ]
        if tensor.zero_points is not None:
            names.append(self.constant(f"{name}.zero", pack_rows(tensor.zero_points, bits).ravel()))
        attributes = {"K": inputs, "N": outputs, "bits": bits, "block_size": size}
        self.node(
            "MatMulNBits",
            [source, *names],
            [target],
            "com.microsoft",
            **attributes,
            accuracy_level=self.accuracy_level,
        )
        self._remember(name, tensor, names)

    def gather(self, ids: str, name: str, tensor: QuantizedTensor, target: str) -> None:
        """GatherBlockQuantized: `target = dequantize(tensor)[ids]`."""
        bits = tensor.scheme.bits
        names = [
            self.constant(f"{name}.codes", pack_rows(tensor.codes, bits)),
            self.constant(f"{name}.scales", tensor.scales),
        ]
        if tensor.zero_points is not None:
            names.append(self.constant(f"{name}.zero", pack_rows(tensor.zero_points, bits)))
        self.node(
            "GatherBlockQuantized",
            [names[0], ids, *names[1:]],
            [target],
            "com.microsoft",
            bits=bits,
            block_size=tensor.scheme.group_size,
            gather_axis=0,
            quantize_axis=1,
        )
        self._remember(name, tensor, names)

    def save(self, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto], path: Path) -> None:
        """Write the model, its larger tensors as external data."""
        graph = helper.make_graph(self.nodes, "tiny", inputs, outputs, self.initializers)
        opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save_model(model, path, save_as_external_data=True, location=f"{path.name}_data", size_threshold=128)

    def _remember(self, name: str, tensor: QuantizedTensor, names: list[str]) -> None:
        scheme = tensor.scheme
        self.weights[name] = {
            "bits": scheme.bits,
            "group_size": scheme.group_size,
            "symmetric": scheme.symmetric,
            "scale_dtype": scheme.scale_dtype,
            "shape": list(tensor.shape),
            "codes": names[0],
            "scales": names[1],
            "zero_points": names[2] if len(names) > 2 else None,
            "rows": [0, tensor.shape[0]],
        }


def value(name: str, kind: int, shape: list[str | int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def save_language_model(path: Path, weights: Weights, *, accuracy_level: int = 1) -> dict[str, Any]:
    """Write the language model; returns the manifest's weights map."""
    graph = Graph(nodes=[], initializers=[], weights={}, accuracy_level=accuracy_level)
    graph.gather("input_ids", "embedding", weights["embedding"], "x")
    for name in ("q", "k", "v"):
        graph.linear("x", name, weights[name], f"{name}_out")
    graph.node(
        "Attention",
        ["q_out", "k_out", "v_out", "", "past_key_values.0.key", "past_key_values.0.value"],
        ["mixed", "present.0.key", "present.0.value"],
        is_causal=1,
        q_num_heads=HEADS,
        kv_num_heads=KV_HEADS,
    )
    graph.linear("mixed", "o", weights["o"], "projected")
    graph.node("Add", ["x", "projected"], ["y"])
    # starts = -keep: 0 keeps all positions.
    graph.node("Neg", ["num_logits_to_keep"], ["from"])
    graph.node("Reshape", ["from", graph.constant("one", np.array([1]))], ["starts"])
    end = graph.constant("end", np.array([2**31]))
    graph.node("Slice", ["y", "starts", end, graph.constant("axis", np.array([1]))], ["kept"])
    graph.linear("kept", "head", weights["head"], "logits")
    cache: list[str | int] = ["batch_size", KV_HEADS, "past", HEAD_SIZE]
    graph.save(
        [
            value("input_ids", TensorProto.INT64, ["batch_size", "sequence"]),
            value("attention_mask", TensorProto.INT64, ["batch_size", "total"]),
            value("num_logits_to_keep", TensorProto.INT64, []),
            value("past_key_values.0.key", TensorProto.FLOAT, cache),
            value("past_key_values.0.value", TensorProto.FLOAT, cache),
        ],
        [
            value("logits", TensorProto.FLOAT, ["batch_size", "kept", VOCABULARY]),
            value("present.0.key", TensorProto.FLOAT, ["batch_size", KV_HEADS, "total", HEAD_SIZE]),
            value("present.0.value", TensorProto.FLOAT, ["batch_size", KV_HEADS, "total", HEAD_SIZE]),
        ],
        path,
    )
    return graph.weights


def save_encoder(path: Path, weights: Weights, *, accuracy_level: int = 1, masked: bool = True) -> dict[str, Any]:
    """Write the encoder; `masked=False` forgets the attention mask, a mistake that only a padded batch shows."""
    graph = Graph(nodes=[], initializers=[], weights={}, accuracy_level=accuracy_level)
    graph.gather("input_ids", "embedding", weights["embedding"], "x")
    graph.linear("x", "q", weights["q"], "hidden")
    axis = graph.constant("axis", np.array([1]))
    if masked:
        graph.node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT)
        graph.node("Unsqueeze", ["mask", graph.constant("last", np.array([2]))], ["column"])
        graph.node("Mul", ["hidden", "column"], ["kept"])
        graph.node("ReduceSum", ["kept", axis], ["sum"], keepdims=0)
        graph.node("ReduceSum", ["column", axis], ["count"], keepdims=0)
        graph.node("Div", ["sum", "count"], ["sentence_embedding"])
    else:
        graph.node("ReduceMean", ["hidden", axis], ["sentence_embedding"], keepdims=0)
    graph.save(
        [
            value("input_ids", TensorProto.INT64, ["batch_size", "sequence"]),
            value("attention_mask", TensorProto.INT64, ["batch_size", "sequence"]),
        ],
        [value("sentence_embedding", TensorProto.FLOAT, ["batch_size", HIDDEN])],
        path,
    )
    return graph.weights


def tokenizer_json(words: str) -> str:
    """A word-level tokenizer whose word n is `words` + n."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {f"{words}{number}": number for number in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=f"{words}0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return str(tokenizer.to_str())


def make_bundle(directory: Path, *, task: str = "text-generation", bits: int = 4, accuracy_level: int = 1) -> Path:
    """A whole bundle without its surface: model, tokenizer, golden, reference and manifest."""
    scheme = Scheme(bits=bits, group_size=32)
    floats = random_floats()
    quantized = {name: round_to_nearest(weight, scheme) for name, weight in floats.items()}
    rng = np.random.default_rng(1)
    sequences = [[int(token) for token in rng.integers(2, VOCABULARY, length)] for length in (40, 33, 21, 7)]
    language = task == "text-generation"
    save, answer = (save_language_model, language_logits) if language else (save_encoder, embedding_of)
    model = directory / "model" / "model.onnx"
    weights = save(model, quantized, accuracy_level=accuracy_level)
    (directory / "tokenizer").mkdir()
    (directory / "tokenizer" / "tokenizer.json").write_text(tokenizer_json("w"))
    (directory / "golden").mkdir()
    cases = [{"input_ids": ids[:5], "text": " ".join(f"w{token}" for token in ids[:5])} for ids in sequences]
    (directory / "golden" / "golden.json").write_text(json.dumps({"cases": cases}))
    dequantized = {name: tensor.dequantize() for name, tensor in quantized.items()}
    for part, values in (("float", floats), ("dequantized", dequantized)):
        (directory / "validation" / part).mkdir(parents=True)
        for index, ids in enumerate(sequences):
            np.save(directory / "validation" / part / f"{index:04d}.npy", answer(values, ids))
    (directory / "validation" / "inputs.json").write_text(json.dumps({"task": task, "sequences": sequences}))
    write_manifest(directory, LANGUAGE if language else ENCODER, weights, quantized)
    return directory


def write_manifest(directory: Path, interface: Interface, weights: dict[str, Any], quantized: Weights) -> None:
    """`edgeq.json` of what lies in `directory` now; the digest is that of `quantized`."""
    manifest = {
        "format": "onnx",
        "root": ".",
        "model": "model/model.onnx",
        "tokenizer": "tokenizer",
        "golden": "golden/golden.json",
        "interface": to_plain(interface),
        "weights": weights,
        "weights_digest": weights_digest((name, tensor_digest(name, quantized[name])) for name in weights),
        "runtime": {"name": "onnxruntime", "threads": 1, "accuracy_level": 1},
        "profile": {"compute_unit": "cpu"},
        "files": to_plain(list_files(directory)),
        "report": {"verdict": "not_validated", "files": []},
    }
    (directory / "edgeq.json").write_text(json.dumps(manifest))


def relist(directory: Path) -> None:
    """Make the manifest's list of files true again: what a careful forger would do."""
    path = directory / "edgeq.json"
    manifest = json.loads(path.read_text())
    manifest["files"] = to_plain(list_files(directory))
    path.write_text(json.dumps(manifest))


def list_files(directory: Path) -> tuple[FileEntry, ...]:
    paths = sorted(path for path in directory.rglob("*") if path.is_file() and path.name != "edgeq.json")
    return tuple(
        FileEntry(path=path.relative_to(directory).as_posix(), bytes=path.stat().st_size, sha256=sha256_file(path))
        for path in paths
    )
