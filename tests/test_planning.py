"""`edgeq plan` and `--bits auto`: budgets that are met, costs without weights, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeq import cli, pipeline, planner
from edgeq.bundle.memory import RUNTIME_BYTES
from edgeq.core.recipe import Recipe
from edgeq.core.recipe_text import recipe_from_toml
from edgeq.core.records import from_plain, to_plain
from edgeq.costs import bits_costs, file_bytes
from edgeq.errors import UsageError
from edgeq.models import source
from edgeq.models.structure import read_structure
from edgeq.planning import Budget, budget_for
from edgeq.quantization.allocate import plan_for
from edgeq.reports.json import read_report
from edgeq.summary import Origin
from edgeq.targets.profiles import load_profile
from tests.tiny_models import tiny_llama
from tests.tiny_tasks import tiny_convnext

LLAMA_7B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}


@pytest.fixture
def llama_7b(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_7B))
    return tmp_path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("tiny"), hidden=128, intermediate=256, vocabulary=2048)


def test_seven_billion_parameters_from_a_configuration_alone(llama_7b: Path) -> None:
    report = planner.plan(llama_7b, target="rpi5-8gb").report
    assert report.parameters == 6_738_415_616
    costs = {cost.bits: cost for cost in report.costs}
    nominal = {bits: cost.nominal_bytes / 1e9 for bits, cost in costs.items()}
    assert nominal == pytest.approx({16: 13.5, 8: 6.74, 4: 3.37, 3: 2.53, 2: 1.68}, rel=0.01)
    linears = 6_738_415_616 - 2 * 32000 * 4096 - 65 * 4096
    tables = 2 * 32000 * 4096
    bits_of_four = 4 + (32 + 4) / 64  # float32 scales and 4-bit zero points in groups of 64
    assert costs[4].weights_bytes == round((linears + tables) * bits_of_four / 8) + 65 * 4096 * 4
    assert costs[4].embedding_bytes == round(tables * bits_of_four / 8)
    assert costs[4].cache_bytes == 2 * 32 * 4096 * 4 * 4096
    assert costs[3].file_bytes > costs[3].weights_bytes  # ONNX Runtime's kernels take 4 bits
    assert costs[16].fits == ()
    assert "rpi5-8gb" in costs[2].fits
    assert report.frontier == ()


def test_costs_are_the_same_with_and_without_weights(tiny: Path) -> None:
    target = load_profile("android")
    structure = read_structure(tiny, "tiny")
    assert structure.cache == ((2, 32),) * 2
    info = source.load(tiny).info
    for cost in bits_costs(info, structure.cache, target, "onnx"):
        plan = plan_for(info, Recipe(bits=cost.bits), target)
        assert cost.file_bytes == file_bytes(structure.info, plan, target, "onnx")


def test_a_model_of_images_has_costs_and_no_frontier(tmp_path: Path) -> None:
    directory = tiny_convnext(tmp_path)
    report = planner.plan(directory, target="android").report
    costs = {cost.bits: cost for cost in report.costs}
    filters = 4 * (32 * 3 * 4 * 4 + 64 * 32 * 2 * 2)  # in float32, beside the file
    assert costs[4].needed_bytes == costs[4].file_bytes + filters + RUNTIME_BYTES
    assert costs[4].file_bytes < costs[8].file_bytes < costs[16].file_bytes
    assert report.frontier == ()
    with pytest.raises(UsageError, match="does not choose bits"):
        planner.plan(directory, target="android", max_size=10**6)


def test_a_size_is_met_within_one_percent_by_plan_and_export(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size, recipe, plot = 700_000, tmp_path / "r.toml", tmp_path / "p.svg"
    arguments = ["plan", str(tiny), "--max-size", str(size), "--output", str(recipe), "--plot", str(plot)]
    assert cli.run([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert 0.99 * size <= report["bundle_bytes"] <= size
    assert report["chosen"]["drift"] > 0
    assert plot.read_text().startswith("<svg ")
    assert recipe_from_toml(recipe.read_text(), "r").rules
    (exported,) = pipeline.export_formats(tiny, recipe=recipe, output=tmp_path / "out", validate=False)
    inside = [path for path in (tmp_path / "out" / "assets").rglob("*") if path.is_file()]
    without_golden = 0.99 * size - 3072  # nothing was run, so there are no golden cases
    assert without_golden <= sum(path.stat().st_size for path in inside) <= size
    assert exported.weights.bits_per_weight < 16
    assert cli.run(arguments) == 2  # the files exist
    assert "exists" in capsys.readouterr().err


def test_too_small_a_size_names_the_least(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["plan", str(tiny), "--max-size", "100kB"]) == 2
    message = capsys.readouterr().err
    assert "cannot be met" in message
    least = int(message.split("Give --max-size ")[1].split()[0])
    assert 150_000 < least < 700_000
    assert cli.run(["plan", str(tiny), "--max-size", str(least)]) == 0
    shown = capsys.readouterr().out
    assert "frontier" in shown
    assert "chosen" in shown


def test_a_store_within_a_drift(tiny: Path, tmp_path: Path) -> None:
    store = pipeline.quantize(tiny, output=tmp_path / "store", bits="auto", method="mse", max_drift=0.02)
    assert {store.plan.assignments[name].scheme.bits for name in store.plan.assignments} <= {2, 4, 8, 16}
    with pytest.raises(UsageError, match="least drift within the other limits"):
        pipeline.quantize(tiny, output=tmp_path / "two", bits="auto", method="mse", max_drift=1e-5, max_size=700_000)
    assert not (tmp_path / "two").exists()


def test_the_report_says_what_the_budget_chose_from(tiny: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    (report,) = pipeline.export_formats(tiny, bits="auto", method="mse", max_drift=0.02, output=output, validate=False)
    found = read_report(output / "report.json").frontier
    assert found == report.frontier
    assert found is not None
    assert found.chosen is not None
    assert 0 < found.chosen.drift <= 0.02
    assert [point.bytes for point in found.points] == sorted(point.bytes for point in found.points)
    assert not any(p.bytes <= found.chosen.bytes and p.drift < found.chosen.drift for p in found.points)
    assert {point.is_uniform for point in found.uniform} == {True}
    (plain,) = pipeline.export_formats(tiny, method="mse", output=tmp_path / "plain", validate=False)
    assert plain.frontier is None
    kept = Origin(notes=("one",), frontier=found)
    assert from_plain(Origin, json.loads(json.dumps(to_plain(kept))), "origin") == kept


def test_a_budget_needs_a_limit_and_weights(llama_7b: Path) -> None:
    with pytest.raises(UsageError, match="no budget"):
        budget_for("auto", max_size=None, max_memory=None, max_drift=None)
    assert budget_for(4, max_size=1, max_memory=None, max_drift=None) is None
    assert Budget(max_memory=5).limits() == {"--max-memory": 5}
    with pytest.raises(UsageError, match="no weights"):
        planner.plan(llama_7b, max_size=10**9)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["plan", "--output", "r.toml"], "Without a budget"),
        (["export", "--bits", "auto"], "There is no budget"),
        (["export", "--bits", "many"], "no value of --bits"),
        (["export", "--recipe", "absent.toml"], "cannot be read"),
        (["export", "--bits", "8", "--recipe", "absent.toml"], "already says"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(
    arguments: list[str],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(arguments) == 2
    assert complaint in capsys.readouterr().err
