"""Strings in, answers out: whole exports with text graphs, beside torch and the tokenizers themselves, and mutants."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from tokenizers import Tokenizer, normalizers

from edgeq import pipeline
from edgeq.api import export
from edgeq.bundle.manifest import MANIFEST, file_entry, manifest_bytes, read_manifest
from edgeq.core.report import Report, Verdict
from edgeq.errors import RuntimeUnavailableError, UnsupportedModelError, UsageError
from edgeq.reports.json import read_report
from edgeq.runtimes.hard_texts import HARD_TEXTS
from edgeq.runtimes.onnxruntime import open_session
from edgeq.runtimes.text import DetokenizerGraph, TextEncoder, TokenizerGraph
from edgeq.validation.reference_set import ReferenceSet
from tests.lowering.tokenizers_built_here import saved, wordpiece
from tests.tiny_models import tiny_bert, tiny_llama
from tests.tiny_tasks import tiny_bert_classifier

Values = npt.NDArray[np.floating[Any]]


def tiny_wordpiece_bert(directory: Path) -> Path:
    """With a tokenizer as BERT's instead of its own."""
    tokenizer = wordpiece()
    return saved(tokenizer, tiny_bert(directory, vocabulary=tokenizer.get_vocab_size()))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tiny_wordpiece_bert, tmp_path_factory.mktemp("encoder"), target="rpi5-8gb")


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tiny_llama, tmp_path_factory.mktemp("decoder"), target="android")


def exported(model: Callable[[Path], Path], folder: Path, *, target: str) -> Path:
    report = export(
        model(folder / "model"), target=target, bits=8, method="mse", tokenizer="graph", output=folder / "bundle"
    )
    assert report.verdict is Verdict.PASSED, report.reason
    return folder / "bundle"


def failed(report: Report) -> set[str]:
    return {gate.name for gate in report.gates if gate.verdict is Verdict.FAILED}


def graphs(bundle: Path) -> dict[str, Path]:
    text = read_manifest(bundle).text
    assert text is not None
    return {Path(path).stem: bundle / path for path in text.files}


def test_an_encoder_reads_text_as_torch_does_with_the_tokenizer(encoder: Path) -> None:
    """The raw graph against the dequantized model's answers in torch, which were made from ids."""
    model = TextEncoder(graphs(encoder)["model_text"])
    tokenizer = Tokenizer.from_file(str(encoder / "tokenizer" / "tokenizer.json"))
    tokenizer.no_padding()
    references = ReferenceSet.open(encoder / "validation")
    compared = 0
    for index, row in enumerate(references.sequences):
        sentence = tokenizer.decode(list(row), skip_special_tokens=True)
        if tokenizer.encode(sentence).ids == list(row):
            answer, wanted = model.encode([sentence])[0], references.dequantized_values(index)
            assert float(answer @ wanted) > 0.999 * float(np.linalg.norm(answer) * np.linalg.norm(wanted))
            compared += 1
    assert compared >= 16


def test_an_encoder_shares_its_weights_and_is_small(encoder: Path) -> None:
    path = graphs(encoder)["model_text"]
    graph = onnx.load(path, load_external_data=False).graph
    assert [one.name for one in graph.input] == ["text"]
    places = {item.value for tensor in graph.initializer for item in tensor.external_data if item.key == "location"}
    assert places == {"model.onnx_data"}


def test_the_report_counts_equal_strings(encoder: Path, decoder: Path) -> None:
    for bundle in (encoder, decoder):
        section = read_report(bundle / "report.json").tokenizer
        assert (section.form, section.equal) == ("graph", section.strings)
        assert section.strings > len(HARD_TEXTS)
        assert section.peak_dirty_bytes
        assert f"{section.strings} of {section.strings} strings equal" in (bundle / "report.md").read_text()


def test_a_decoder_reads_and_writes_text(decoder: Path) -> None:
    paths = graphs(decoder)
    tokenizer, detokenizer = TokenizerGraph(paths["tokenizer"]), DetokenizerGraph(paths["detokenizer"])
    text = "café 北京 👩‍👩‍👧 don't"
    assert detokenizer.decode(tokenizer.encode(text)) == text


def classifier_of(kind: str, directory: Path) -> Path:
    """With that `problem_type`."""
    source = tiny_bert_classifier(directory)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "problem_type": kind}))
    return source


def softmax(logits: Values) -> Values:
    shares: Values = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    return shares


def sigmoid(logits: Values) -> Values:
    chances: Values = 1 / (1 + np.exp(-logits))
    return chances


@pytest.mark.parametrize(
    ("kind", "chances_of"), [("single_label_classification", softmax), ("multi_label_classification", sigmoid)]
)
def test_a_classifier_answers_with_a_label_and_its_score(
    kind: str, chances_of: Callable[[Values], Values], tmp_path: Path
) -> None:
    bundle = exported(partial(classifier_of, kind), tmp_path, target="rpi5-8gb")
    interface = read_manifest(bundle).interface
    session = open_session(graphs(bundle)["model_text"], extensions=True)
    names = [one.name for one in session.get_outputs()]
    answers = dict(zip(names, session.run(names, {"text": np.array(["Good.", "so bad"], dtype=object)}), strict=True))
    chances = chances_of(answers["logits"])
    best = chances.argmax(axis=-1)
    assert answers["label"].tolist() == [interface.labels[index] for index in best]
    assert np.allclose(answers["score"], chances.max(axis=-1))


def test_an_android_app_passes_strings(decoder: Path) -> None:
    kotlin = (decoder / "android" / "EdgeqText.kt").read_text(encoding="utf-8")
    assert 'TOKENIZER = "model/tokenizer.onnx"' in kotlin
    assert "registerCustomOpLibrary(OrtxPackage.getLibraryPath())" in kotlin
    assert "onnxruntime-extensions-android:" in (decoder / "android" / "build.gradle.kts").read_text(encoding="utf-8")
    cases = json.loads(next(decoder.rglob("golden/texts.json")).read_text())["cases"]
    assert {case["text"] for case in cases} >= set(HARD_TEXTS)


def test_a_board_is_told_what_to_install(encoder: Path) -> None:
    assert "onnxruntime-extensions==" in (encoder / "requirements.txt").read_text()


def test_a_tokenizer_that_would_not_be_equal_is_refused_before_any_work(tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "model")
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.save(str(model / "tokenizer.json"))
    with pytest.raises(UnsupportedModelError, match="cannot go into a graph: of 'cafe"):
        export(model, method="mse", tokenizer="graph", output=tmp_path / "bundle")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_other_formats_and_a_missing_package_are_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="format transformersjs cannot have its tokenizer in a graph"):
        export(target="browser", tokenizer="graph", output=tmp_path / "bundle")
    monkeypatch.setattr("edgeq.runtimes.extensions.find_spec", lambda _: None)
    with pytest.raises(RuntimeUnavailableError, match=r"pip install 'edgeq\[tokenizer\]'"):
        export(tokenizer="graph", output=tmp_path / "bundle")


def swap_words(bundle: Path) -> None:
    """Two words of the graph's own vocabulary exchange their ids."""
    path = graphs(bundle)["model_text"]
    model = onnx.load(path, load_external_data=False)
    node = found(model.graph, "BertTokenizer")
    attribute = next(one for one in node.attribute if one.name == "vocab_file")
    words = attribute.s.decode().split("\n")
    letters = [index for index, word in enumerate(words) if len(word) == 1 and word.isalpha()]
    first, second = letters[0], letters[-1]
    words[first], words[second] = words[second], words[first]
    attribute.s = "\n".join(words).encode()
    onnx.save(model, path)


def keep_an_accent(bundle: Path) -> None:
    """The table of characters maps one letter with an accent to itself."""
    path = graphs(bundle)["model_text"]
    model = onnx.load(path, load_external_data=False)
    node = found(model.graph, "LabelEncoder")
    keys, values = (
        next(one for one in node.attribute if one.name == name) for name in ("keys_strings", "values_strings")
    )
    values.strings[list(keys.strings).index("É".encode())] = "É".encode()
    onnx.save(model, path)


def found(graph: onnx.GraphProto, operator: str) -> onnx.NodeProto:
    """The first node of a kind, also within loops."""
    return next(node for node in nodes(graph) if node.op_type == operator)


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes(attribute.g)


def forge(bundle: Path) -> None:
    """List the files as they are now, and seal the manifest anew."""
    manifest = read_manifest(bundle)
    manifest = replace(manifest, files=tuple(file_entry(bundle, entry.path) for entry in manifest.files))
    (bundle / MANIFEST).write_bytes(manifest_bytes(manifest))


@pytest.mark.parametrize("mutate", [swap_words, keep_an_accent])
def test_a_changed_encoder_fails_even_where_its_manifest_is_forged(
    encoder: Path, mutate: Callable[[Path], None], tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(encoder, tmp_path / "bundle"))
    mutate(bundle)
    assert failed(pipeline.validate(bundle)) == {"files"}
    forge(bundle)
    report = pipeline.validate(bundle)
    assert "tokenizer_graph" in failed(report)
    assert report.tokenizer.equal < report.tokenizer.strings
    assert "the graph makes" in report.reason


def test_a_changed_detokenizer_fails(decoder: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(decoder, tmp_path / "bundle"))
    path = graphs(bundle)["detokenizer"]
    model = onnx.load(path)
    table = next(one for one in model.graph.initializer if one.data_type == onnx.TensorProto.UINT8)
    table.raw_data = table.raw_data.replace(b"e", b"\xff")
    onnx.save(model, path)
    forge(bundle)
    report = pipeline.validate(bundle)
    assert failed(report) == {"tokenizer_graph"}
    assert "the graph writes" in report.reason


def test_without_the_extensions_there_is_no_verdict(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child's interpreter does not find them: the model ran, what reads text did not."""
    blocked = encoder.parent / "blocked" / "onnxruntime_extensions"
    blocked.mkdir(parents=True, exist_ok=True)
    (blocked / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(blocked.parent))
    report = pipeline.validate(encoder)
    assert report.verdict is Verdict.NOT_VALIDATED
    assert "edgeq[tokenizer]" in report.reason
