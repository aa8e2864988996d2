"""The browser's bundle from export to verdict, in Chromium."""

from __future__ import annotations

from pathlib import Path

import pytest

import edgeq
from edgeq.core.report import LanguageDrift, Report, Verdict
from runtime_tests.browser_page import require_browser


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    require_browser()
    output = tmp_path_factory.mktemp("browser") / "bundle"
    return output, edgeq.export(target="browser", bits=4, method="mse", output=output)


def test_the_demo_passes_on_wasm_and_on_webgpu(bundle: tuple[Path, Report]) -> None:
    report = bundle[1]
    assert (report.verdict, report.reason) == (Verdict.PASSED, "")
    verdicts = {(run.dtype, run.execution_provider): run.verdict for run in report.backends}
    assert verdicts[("q4", "wasm")] is verdicts[("q4", "webgpu")] is verdicts[("q4f16", "wasm")] is Verdict.PASSED
    for run in report.backends:
        if run.verdict is Verdict.PASSED:
            assert run.memory is not None
            assert run.memory.peak_dirty_bytes > run.memory.baseline_dirty_bytes > 0
            assert run.drift is not None
            assert isinstance(run.drift.lowering, LanguageDrift)
            # WebGPU's kernels round activations to int8, WASM's do not.
            assert run.drift.lowering.kld_mean < (1e-3 if run.execution_provider == "webgpu" else 1e-5)
        else:
            assert "shader-f16" in run.reason


def test_a_limit_below_the_peak_fails(bundle: tuple[Path, Report]) -> None:
    directory, report = bundle
    assert report.memory is not None
    again = edgeq.validate(directory, memory_limit=int(0.5 * report.memory.peak_dirty_bytes))
    assert again.verdict is Verdict.FAILED
    assert again.memory is not None
    assert not again.memory.survived
    assert "killed at the limit" in again.reason
