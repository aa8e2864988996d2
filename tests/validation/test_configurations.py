"""How often and where a bundle is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgeq.errors import CorruptInputError, UnsafeInputError
from edgeq.validation.configurations import FEWER_TOKENS, configurations_of
from edgeq.validation.subject import Subject
from tests.validation.test_subject import make_manifest

VARIANTS = [
    {"dtype": "q4f16", "entry": "onnx/model_q4f16.onnx", "float_dtype": "float16"},
    {"dtype": "q4", "entry": "onnx/model_q4.onnx", "float_dtype": "float32"},
]


def browser_subject(directory: Path, **changes: Any) -> Subject:  # noqa: ANN401 - manifest entries
    profile = {"compute_unit": "cpu", "execution_providers": ["wasm", "webgpu"], "file_limit_mib": 512}
    manifest = make_manifest(directory) | {"format": "transformersjs", "variants": VARIANTS, "profile": profile}
    return Subject.from_manifest(directory, manifest | changes)


def test_a_bundle_is_run_once(tmp_path: Path) -> None:
    (only,) = configurations_of(Subject.from_manifest(tmp_path, make_manifest(tmp_path)))
    assert (only.name, only.model, only.tokens, only.is_required) == ("", tmp_path / "model.onnx", None, True)


def test_a_browser_runs_each_variant_on_each_provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeq.validation.configurations.available_cores", lambda: 2)
    runs = configurations_of(browser_subject(tmp_path))
    assert [(run.name, run.threads, run.tokens, run.is_required) for run in runs] == [
        ("q4 on wasm, 1 thread", 1, None, True),
        ("q4 on wasm, 2 threads", 2, FEWER_TOKENS, True),
        ("q4 on webgpu", 1, FEWER_TOKENS, True),
        ("q4f16 on wasm, 1 thread", 1, FEWER_TOKENS, True),
        ("q4f16 on webgpu", 1, FEWER_TOKENS, False),
    ]
    assert {run.model for run in runs} == {tmp_path / "onnx" / f"model_{name}.onnx" for name in ("q4", "q4f16")}


def test_one_core_has_no_second_wasm_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeq.validation.configurations.available_cores", lambda: 1)
    assert [run.name for run in configurations_of(browser_subject(tmp_path))][:2] == [
        "q4 on wasm, 1 thread",
        "q4 on webgpu",
    ]


def test_a_profile_names_the_providers(tmp_path: Path) -> None:
    subject = browser_subject(tmp_path, profile={"compute_unit": "cpu", "execution_providers": ["webgpu"]})
    runs = configurations_of(subject)
    assert {run.execution_provider for run in runs} == {"webgpu"}
    assert runs[0].tokens is None


def test_a_variant_that_leaves_the_bundle_is_refused(tmp_path: Path) -> None:
    variants = [{**VARIANTS[1], "entry": "../model.onnx"}]
    with pytest.raises(UnsafeInputError):
        configurations_of(browser_subject(tmp_path, variants=variants))


@pytest.mark.parametrize("providers", [["cuda"], "wasm"])
def test_providers_without_sense_are_refused(tmp_path: Path, providers: object) -> None:
    with pytest.raises(CorruptInputError):
        browser_subject(tmp_path, profile={"compute_unit": "cpu", "execution_providers": providers})
