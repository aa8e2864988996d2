"""The terminal summary fits 80 columns, needs no colours, and says what a reader must know."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from edgeq.core.report import Report
from edgeq.reports.columns import print_report, print_target, print_targets, report_summary
from edgeq.targets.profiles import available_profiles, load_profile
from tests.reports.samples import (
    arm64_report,
    browser_report,
    classifier_report,
    encoder_report,
    killed_report,
    passed_report,
    unvalidated_report,
)


def printed(report: Report) -> str:
    file = io.StringIO()
    print_report(report, file=file)
    return file.getvalue()


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("FORCE_COLOR", raising=False)


@pytest.mark.parametrize(
    "report",
    [passed_report(), classifier_report(), encoder_report(), killed_report(), unvalidated_report(), browser_report()],
)
def test_summary_fits_eighty_columns_without_colours(report: Report) -> None:
    text = printed(report)
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text


def test_summary_of_a_language_model() -> None:
    lines = [line.rstrip() for line in printed(passed_report()).splitlines()]
    assert "weights   11.3 MiB at 16 bits -> 3.7 MiB (33 %)" in lines
    assert "          5.21 bits per weight, all counted" in lines
    assert "memory    [ ━━━━━                ] 512.0 MiB of 2.0 GiB (25 %)" in lines
    assert "speed     load 0.12 s, prefill 1,812 tokens/s, decode 233 tokens/s" in lines
    assert "lowering       0.0004      0.008   0.016     94.12 %    x 1.0258" in lines
    assert "          process 754.0 MiB, of which baseline 274.0 MiB" in lines
    assert "peak_dirty_bytes      512.0 MiB  2.0 GiB  passed" in lines
    assert lines[-1] == "verdict  passed"


def test_summary_of_a_classifier_counts_answers() -> None:
    text = printed(classifier_report())
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "drift KL mean KL max same top-1 max |diff|" in lines
    assert "total 0.0012 0.043 96.88 % 0.31" in lines
    assert "KL divergence of class probabilities in nats over 32 answers" in text


def test_summary_of_a_failed_encoder_names_the_reason() -> None:
    text = printed(encoder_report())
    assert "cosine mean" in text
    assert "4.25 ms per input" in text
    assert "failed: one sentence moved" in text
    assert "verdict  failed: drift_total_cosine_min 0.9123 is below 0.95" in text


def test_every_run_has_its_own_figures() -> None:
    text = printed(browser_report())
    words = " ".join(text.split())
    assert "q4 on wasm, 2 1.41 s 0.53 s 23.9 512.0 MiB 0.0004 0.0317 passed threads" in words
    assert "q4f16 on - - - - - - not validated webgpu" in words
    assert "q4 on webgpu: host Chromium 156.0.8078.79; adapter google/swiftshader; fallback nodes Range x2" in words
    assert "q4f16 on webgpu: The adapter has no shader-f16." in words


def test_both_kernels_are_rows() -> None:
    words = " ".join(printed(arm64_report()).split())
    assert "kernels lowering total from x86_64 relative verdict" in words
    assert "x86_64 0.0004 0.0317 - - passed" in words
    assert "arm64, cortex-a76 0.0003 0.0316 0.0001 0.00469 passed" in words
    assert "arm64: onnxruntime 1.32.0, qemu 10.0.2" in words
    assert "of which baseline 274.0 MiB, measured on x86_64" in words
    assert "kernels" not in printed(passed_report())


def test_kernels_that_did_not_run_are_a_line() -> None:
    words = " ".join(printed(arm64_report(ran=False)).split())
    assert "arm64, cortex-a76 was not run: It is not there." in words
    assert "measured on" not in words
    assert "kernels" not in words


def test_a_target_shows_its_cpus() -> None:
    file = io.StringIO()
    print_target(load_profile("android"), file=file)
    assert "validate_cpus       cortex-a76, cortex-a53, cortex-a710: arm64" in file.getvalue()


def test_killed_at_the_limit_is_said() -> None:
    text = " ".join(printed(killed_report()).split())
    assert "30.0 MiB of 20.0 MiB (150 %), killed at the limit" in text
    assert "drift" not in text
    assert text.endswith("verdict failed: killed at the limit")


def test_what_was_not_run_is_never_shown_as_passed() -> None:
    text = printed(unvalidated_report())
    assert "memory    not measured" in text
    assert "passed" not in text
    assert "verdict  not validated: --no-validate was given" in text


def test_colours_where_the_terminal_has_them() -> None:
    file = io.StringIO()
    Console(file=file, force_terminal=True, width=80, color_system="standard").print(report_summary(passed_report()))
    assert "\x1b[1;32mpassed" in file.getvalue()


def test_ascii_terminals_get_an_ascii_bar() -> None:
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding="ascii") as file:
        print_report(passed_report(), file=file)
        file.flush()
        assert b"[ -----                ]" in raw.getvalue()


def test_markup_in_names_is_not_obeyed() -> None:
    import dataclasses

    report = dataclasses.replace(passed_report(), reason="[red]x[/red]")
    assert "[red]x[/red]" in printed(report)


def test_targets_are_one_line_each() -> None:
    file = io.StringIO()
    print_targets([load_profile(name) for name in available_profiles()], file=file)
    lines = [line.rstrip() for line in file.getvalue().splitlines()]
    assert len(lines) == 1 + len(available_profiles())
    assert lines[0] == "target                  memory  for model  device"
    assert lines[1] == "android               2304 MiB   2048 MiB  Android phone, 8 GB, foreground app"


def test_one_target_shows_every_source() -> None:
    file = io.StringIO()
    profile = load_profile("android")
    print_target(profile, file=file)
    text = " ".join(file.getvalue().split())
    assert max(map(len, file.getvalue().splitlines())) <= 80
    for provenance in profile.provenance.values():
        assert f"{provenance.confidence}, {provenance.source_date}: {provenance.source}" in text
    assert "bundle_limit_mib 1430 MiB" in text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ios", "increased_memory_limit (an entitlement): without it"),
        ("ios-6gb-entitled", "increased_memory_limit (an entitlement): with it; the app must declare it"),
        ("android", None),
    ],
)
def test_a_target_says_whether_it_counts_on_the_entitlement(name: str, words: str | None) -> None:
    file = io.StringIO()
    print_target(load_profile(name), file=file)
    lines = [line.rstrip() for line in file.getvalue().splitlines()]
    assert [line for line in lines if "increased_memory_limit" in line] == ([] if words is None else [words])


def test_android_lists_both_of_its_formats() -> None:
    file = io.StringIO()
    print_target(load_profile("android"), file=file)
    assert "android bundle, formats: onnx, executorch, on the CPU" in file.getvalue()


def test_a_target_without_a_bundle_limit_says_so() -> None:
    file = io.StringIO()
    print_target(load_profile("edge"), file=file)
    assert "bundle_limit_mib    none" in file.getvalue()
