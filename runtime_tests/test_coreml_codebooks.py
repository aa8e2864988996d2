"""Whole models with codebooks, which Core ML alone holds: from the checkpoint to a judged iOS bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgeq.api import export
from edgeq.bundle.manifest import read_manifest
from edgeq.core.records import to_plain
from edgeq.core.report import Report, Verdict
from edgeq.pipeline import quantize
from edgeq.runtimes.coreml.package import open_package
from edgeq.validation.coreml_weights import artifact_digest
from tests.tiny_models import tiny_bert, tiny_llama

TEXT = "The boat left the harbour before the fog had lifted, and nobody on the quay waved. " * 4
MODELS: dict[str, Callable[[Path], Path]] = {
    "llama": lambda directory: tiny_llama(directory, layers=1),
    "bert": tiny_bert,
}
TABLE, BLOCKS = "constexpr_lut_to_dense", "constexpr_blockwise_shift_scale"
JUDGED = ("weights_digest", "completed", "lowering_relative_error")


def constants(package: Path) -> list[str]:
    """How each quantized weight of the first function is stored, outermost last."""
    opened = open_package(package)
    operations = opened.function(next(iter(opened.inputs))).operations
    return [operation.op_type for operation in operations if operation.op_type.startswith("constexpr_")]


def verdicts(report: Report) -> dict[str, Verdict]:
    return {gate.name: gate.verdict for gate in report.gates if gate.name in JUDGED}


@pytest.mark.parametrize("method", ["nf4", "kmeans"])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_with_codebooks_becomes_a_judged_bundle(name: str, method: str, tmp_path: Path) -> None:
    """All of a palette's matrices are tables; NF4 has 4 bits only, so that embeddings of 8 bits stay blocks."""
    text = tmp_path / "evaluation.txt"
    text.write_text(TEXT)
    source = MODELS[name](tmp_path / "model")
    store = quantize(source, target="ios", method=method, output=tmp_path / "store")
    report = export(source, target="ios", method=method, evaluation=text, output=tmp_path / "bundle")
    assert report.verdict is Verdict.PASSED, report.reason
    assert verdicts(report) == dict.fromkeys(JUDGED, Verdict.PASSED)
    assert report.weights.digest == store.weights_digest
    manifest = read_manifest(tmp_path / "bundle")
    package = tmp_path / "bundle" / manifest.model
    weights = {weight: to_plain(location) for weight, location in manifest.weights.items()}
    assert artifact_digest(package, weights) == store.weights_digest
    schemes = [scheme for weight in store.names() if (scheme := store.scheme(weight)) is not None]
    stored = constants(package)
    tables = sum(scheme.codebook is not None for scheme in schemes)
    assert tables > 0
    assert stored.count(TABLE) == tables
    assert stored.count(BLOCKS) == sum(scheme.has_scales for scheme in schemes)
    assert {scheme.codebook for scheme in schemes} == ({"palette"} if method == "kmeans" else {"nf4", None})
