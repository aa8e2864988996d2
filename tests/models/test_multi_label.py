"""A classifier whose classes are true or not each on its own: from its configuration to its reference."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeq.models.reference import ReferenceRequest, compute
from edgeq.models.source import load
from edgeq.validation.reference_set import ReferenceSet
from tests.tiny_tasks import tiny_bert_classifier


@pytest.mark.parametrize("kind", ["multi_label_classification", "single_label_classification", None])
def test_the_reference_knows_what_the_configuration_says(kind: str | None, tmp_path: Path) -> None:
    source = tiny_bert_classifier(tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "problem_type": kind}))
    expected = kind == "multi_label_classification"
    assert load(source).info.multi_label is expected
    output = tmp_path / "reference"
    sequences = ((2, 5, 6, 3), (2, 7, 3))
    compute(
        ReferenceRequest(
            source=str(source), store=None, task="text-classification", sequences=sequences, output=str(output)
        )
    )
    (output / "float").rename(output / "dequantized")
    (output / "float").mkdir()
    for path in (output / "dequantized").iterdir():
        (output / "float" / path.name).write_bytes(path.read_bytes())
    references = ReferenceSet.open(output)
    assert references.multi_label is expected
    references.write_subset(tmp_path / "subset")
    assert ReferenceSet.open(tmp_path / "subset").multi_label is expected
