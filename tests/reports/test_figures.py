"""Numbers as people read them."""

from __future__ import annotations

import dataclasses

import pytest

from edgeq.core.report import EmbeddingDrift, Gate, OutputDrift, Verdict
from edgeq.reports import figures
from tests.reports.samples import encoder_report, killed_report, passed_report, unvalidated_report


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 * 2**20, "5.0 MiB"), (3 * 2**40, "3072.0 GiB")],
)
def test_size(count: int, text: str) -> None:
    assert figures.size(count) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        ("yes", "yes"),
        ("ab" * 32, "abababababab.."),
        (0.0, "0"),
        (0.00012346, "0.0001235"),
        (0.0000012, "1.20e-06"),
        (1234567.0, "1.23e+06"),
        (54321.0, "54321"),
        (float("inf"), "inf"),
    ],
)
def test_number(value: float | str | None, text: str) -> None:
    assert figures.number(value) == text


def test_gates_over_bytes_are_shown_as_sizes() -> None:
    gate = Gate(name="bundle_bytes", value=2.0**21, limit=2.0**22, verdict=Verdict.NOT_VALIDATED)
    assert figures.gate_cells(gate) == ("2.0 MiB", "4.0 MiB", "not validated")


def test_recipe_in_words() -> None:
    report = passed_report()
    assert figures.recipe(report) == "search, 4 bits, groups of 32, symmetric; embeddings 8 bits"
    recipe = dataclasses.replace(report.recipe, group_size=None, symmetric=False)
    text = figures.recipe(dataclasses.replace(report, recipe=recipe))
    assert text == "search, 4 bits, one scale per channel, zero points; embeddings 8 bits"
    palettes = dataclasses.replace(recipe, codebook="palette")
    text = figures.recipe(dataclasses.replace(report, recipe=palettes))
    assert text == "search, 4 bits, palettes; embeddings 8 bits"
    normal = dataclasses.replace(report.recipe, codebook="nf4")
    text = figures.recipe(dataclasses.replace(report, recipe=normal))
    assert text == "search, 4 bits, groups of 32, NormalFloat; embeddings 8 bits"


def test_sixteen_bits_have_no_groups() -> None:
    report = passed_report()
    recipe = dataclasses.replace(report.recipe, bits=16, group_size=None)
    assert figures.recipe(dataclasses.replace(report, recipe=recipe)) == "float16, not quantized"


def test_memory_without_a_limit_has_no_bar() -> None:
    report = killed_report()
    assert report.memory is not None
    unlimited = dataclasses.replace(report, memory=dataclasses.replace(report.memory, limit_bytes=0, survived=True))
    assert figures.memory(unlimited) == (None, "30.0 MiB of 0 B")
    assert figures.memory(report)[0] == 1.5


def test_the_process_and_its_baseline() -> None:
    assert figures.process(passed_report()) == "process 754.0 MiB, of which baseline 274.0 MiB"
    assert figures.process(unvalidated_report()) == ""


def test_nothing_ran() -> None:
    report = killed_report()
    assert figures.drift(report) is None
    assert figures.drift_sample(report) == ""
    assert figures.speed(report.speed) == "not measured"


def test_a_module_s_drift_names_each_output() -> None:
    report = encoder_report()
    assert report.drift is not None
    assert isinstance(report.drift.total, EmbeddingDrift)
    assert figures.drift_sample(report) == f"over {report.drift.total.sentences} sentences"
    outputs = {
        name: OutputDrift(cosine_mean=1.0, cosine_min=1.0, relative_error=error, max_abs=1.0)
        for name, error in (("hidden", 0.0125), ("score", 0.5))
    }
    total = dataclasses.replace(report.drift.total, outputs=outputs)
    said = figures.drift_sample(dataclasses.replace(report, drift=dataclasses.replace(report.drift, total=total)))
    assert said == (
        f"of the worst output, over {total.sentences} answers; total relative error of each: hidden 0.0125, score 0.5"
    )
