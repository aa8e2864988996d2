"""What the quality benchmark counts, chooses and draws; the quantizers themselves are run by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from benchmarks import quality
from benchmarks.quality_autoround import rounded, samples
from benchmarks.quality_candidates import REQUIREMENTS, TITLES, Candidate, edgeq_candidates, identity, peer_candidates
from benchmarks.quality_job import Inputs, Job, Matrix, all_grid_bytes, grid_bytes, read_inputs, write_json
from benchmarks.quality_prepare import long_lines, matrices, sequences
from benchmarks.quality_report import Result, markdown_table, plot
from edgeq.core.scheme import Scheme
from edgeq.models.demo_model import demo_directory
from edgeq.models.source import load


def test_grid_bytes_are_those_of_edgeq_own_grid() -> None:
    for bits in (2, 3, 4, 8):
        for symmetric in (False, True):
            scheme = Scheme(bits=bits, group_size=32, symmetric=symmetric, scale_dtype="float16")
            counted = grid_bytes(48, 176, bits=bits, group_size=32, zero_bits=0 if symmetric else bits)
            assert counted == scheme.stored_bytes(48, 176)


def test_inputs_survive_their_file(tmp_path: Path) -> None:
    inputs = _inputs()
    write_json(tmp_path / "inputs.json", inputs)
    assert read_inputs(tmp_path / "inputs.json") == inputs
    assert inputs.weights == 64 * 32 + 32 * 96
    assert all_grid_bytes(inputs, bits=4, group_size=32, zero_bits=16) == inputs.weights * 5 // 8


def test_sentences_are_the_first_long_lines() -> None:
    text = "\n".join(["short", " " + "a" * 81 + " ", "b" * 80, "c" * 200, "d" * 100])
    assert long_lines(text, 2) == ["a" * 81, "c" * 200]


def test_language_models_get_windows_of_one_length(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The river ran past the old mill and the fields beyond it. " * 200, encoding="utf-8")
    found = sequences(demo_directory(), "text-generation", text, 4)
    assert [len(ids) for ids in found] == [256] * 4
    with pytest.raises(ValueError, match="fewer than 1000 windows"):
        sequences(demo_directory(), "text-generation", text, 1000)


def test_encoders_get_every_matrix_and_language_models_their_linears() -> None:
    info = load(None).info
    chosen = matrices(info)
    assert set(chosen) == {name for name, weight in info.weights.items() if weight.role == "linear"}
    everything = matrices(replace(info, task="feature-extraction"))
    assert {name for name, matrix in everything.items() if matrix.embedding} == {"model.embed_tokens.weight"}


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_candidates_have_places_of_their_own(bits: int) -> None:
    chosen = [*peer_candidates(bits), *edgeq_candidates(bits, ["rtn", "auto:best", "auto:best/sym"])]
    assert len({candidate.slug for candidate in chosen}) == len(chosen)
    assert {candidate.tool for candidate in chosen} == set(TITLES)
    assert all(identity(candidate)["versions"] for candidate in chosen if candidate.tool in REQUIREMENTS)


def test_edgeq_candidates_name_method_effort_and_grid() -> None:
    plain, best = edgeq_candidates(3, ["rtn", "auto:best/sym"])
    assert plain.name == "edgeq rtn"
    assert plain.options == {"method": "rtn", "effort": None, "group_size": 32, "symmetric": False}
    assert best.name == "edgeq auto best sym"
    assert best.options == {"method": "auto", "effort": "best", "group_size": 32, "symmetric": True}


def test_fingerprint_changes_with_the_texts_and_the_weights(tmp_path: Path) -> None:
    weights, text = tmp_path / "model.safetensors", tmp_path / "text.txt"
    weights.write_bytes(b"weights")
    text.write_bytes(b"text")
    before = quality.fingerprint(tmp_path, [text])
    text.write_bytes(b"other")
    other_text = quality.fingerprint(tmp_path, [text])
    weights.write_bytes(b"changed")
    assert len({before, other_text, quality.fingerprint(tmp_path, [text])}) == 3


def test_table_orders_by_loss_and_compares_with_plain_rounding_and_the_best_peer() -> None:
    lines = markdown_table(_results()).splitlines()
    assert [line.split("|")[2].strip() for line in lines[2:]] == [
        "edgeq auto",
        "HQQ g32",
        "edgeq rtn",
        "GPTQModel default",
    ]
    cells = [cell.strip() for cell in lines[2].split("|")]
    assert cells[3:9] == ["0.004000", "0.04000", "0.9500", "1.0100", "0.40", "0.50"]
    assert cells[9:15] == ["4.625", "0.50 MiB", "1.50 MiB", "12.0 s", "20.0 s", "300 MiB"]
    assert "no such model" in lines[5]
    assert len({line.count("|") for line in lines}) == 1


def test_table_of_an_encoder_shows_cosines() -> None:
    drift = {"cosine_mean": 0.99, "cosine_min": 0.9, "rank_correlation": 0.98}
    row = Result(candidate=edgeq_candidates(4, ["rtn"])[0], drift=drift, bits_per_weight=4.625)
    assert row.loss == pytest.approx(0.01)
    table = markdown_table([row])
    assert "mean cosine" in table
    assert "| 0.01000 | 0.9900 | 0.9000 | 0.9800 | 1.00 |" in table


def test_refusals_with_one_reason_share_a_line() -> None:
    rows = [
        Result(candidate=candidate, refused="no encoders")
        for candidate in peer_candidates(4)
        if candidate.tool == "gptqmodel"
    ]
    lines = markdown_table(rows).splitlines()
    assert len(lines) == 3
    assert "GPTQModel g32 default, GPTQModel g32 act-order static" in lines[2]


def test_autoround_samples_are_of_one_length() -> None:
    assert samples([(1, 2), (3, 4)]).tolist() == [[1, 2], [3, 4]]
    joined = samples([range(100), range(200)])
    assert joined.shape == (2, 128)
    assert joined[0, 99:102].tolist() == [99, 0, 1]


@pytest.mark.parametrize("symmetric", [False, True])
def test_embeddings_beside_autoround_are_rounded_to_the_nearest_level(symmetric: bool) -> None:
    values = torch.tensor(np.random.default_rng(0).normal(size=(6, 64)), dtype=torch.float32)
    values[0] = 0
    job = Job(inputs="", bits=4, threads=1, options={"group_size": 32, "symmetric": symmetric})
    found = rounded(values, job)
    assert not found[0].any()
    groups = values.reshape(6, 2, 32)
    steps = groups.abs().amax(-1) / 7.5 if symmetric else (groups.amax(-1) - groups.amin(-1)) / 15
    errors = (found - values).reshape(6, 2, 32).abs().amax(-1)
    assert bool((errors <= steps * 0.51 + 1e-6).all())
    assert all(len(group.unique()) <= 16 for group in found.reshape(-1, 32))


def test_plot_is_svg_with_a_line_per_quantizer() -> None:
    root = ElementTree.fromstring(plot(_results(), "demo & more"))  # noqa: S314
    space = "{http://www.w3.org/2000/svg}"
    texts = [text.text for text in root.iter(f"{space}text")]
    assert {"demo & more", "edgeq auto", "HQQ g32", "bits per weight", "0.001", "0.01"} <= set(texts)
    assert "GPTQModel default" not in texts
    circles = list(root.iter(f"{space}circle"))
    assert len(circles) == 3
    heights = {float(circle.attrib["cy"]) for circle in circles}
    assert len(heights) == 3
    assert plot([], "nothing") == ""


def _inputs() -> Inputs:
    return Inputs(
        model="model",
        task="text-generation",
        matrices={
            "a.weight": Matrix(outputs=64, inputs=32, transposed=False, embedding=False),
            "b.weight": Matrix(outputs=32, inputs=96, transposed=True, embedding=False),
        },
        other_bytes=10,
        calibration=((1, 2), (3, 4)),
        evaluation=((5,),),
    )


def _results() -> list[Result]:
    def row(candidate: Candidate, loss: float) -> Result:
        return Result(
            candidate=candidate,
            bits_per_weight=4.625,
            stored_bytes=2**19,
            total_bytes=3 * 2**19,
            seconds=12.0,
            cpu_seconds=20.0,
            peak_rss_bytes=300 * 2**20,
            drift={"kld_mean": loss, "kld_p999": 10 * loss, "top1_agreement": 0.95, "perplexity_ratio": 1.01},
        )

    plain, best = edgeq_candidates(4, ["rtn", "auto"])
    peer = Candidate(tool="hqq", variant="g32", bits=4, options={})
    refusing = Candidate(tool="gptqmodel", variant="default", bits=4, options={})
    return [
        row(plain, 0.01),
        row(peer, 0.008),
        row(best, 0.004),
        Result(candidate=refusing, refused="no such model"),
    ]
