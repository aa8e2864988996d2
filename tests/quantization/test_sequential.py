"""Calibrated methods through the whole stage: better answers, the same bytes again, nothing left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgeq.core.recipe import Plan, Recipe, Rule
from edgeq.core.scheme import Scheme
from edgeq.core.tensor import QuantizedTensor
from edgeq.errors import InternalError, OutputError
from edgeq.models.architecture import load_module
from edgeq.models.source import SourceModel, load
from edgeq.quantization import allocate, distillation, needs_calibration, quantize, trains
from edgeq.quantization.codebook_refit import calibrated_codebook
from edgeq.quantization.gptq import gptq
from edgeq.quantization.moments import Moments
from edgeq.store import QuantizedModel
from edgeq.targets.profiles import load_profile
from tests.tiny_models import tiny_gpt2, tiny_llama

SEQUENCES = tuple(tuple(np.random.default_rng(row).integers(5, 200, 24).tolist()) for row in range(24))
UNSEEN = torch.tensor([np.random.default_rng(row).integers(5, 200, 24).tolist() for row in range(100, 108)])
METHODS = ("gptq", "refit", "distill")


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough for models of two blocks."""
    monkeypatch.setattr(distillation, "STEPS", {3: 50, 4: 50})


def plan(model: SourceModel, method: str, bits: int = 3) -> Plan:
    return allocate(model, Recipe(bits=bits, method=method), load_profile("edge"))


def store(model: SourceModel, method: str, directory: Path) -> QuantizedModel:
    return quantize(model, plan(model, method), directory, calibration=SEQUENCES)


def divergence(model: SourceModel, quantized: QuantizedModel) -> float:
    """Of the next-token distributions, in nats."""
    module, _ = load_module(model.directory, "text-generation", dtype="float32")
    with torch.no_grad():
        wanted = module(input_ids=UNSEEN).logits.log_softmax(-1)
        for name, parameter in module.named_parameters():
            parameter.copy_(torch.from_numpy(np.array(quantized.dequantized(name))))
        found = module(input_ids=UNSEEN).logits.log_softmax(-1)
    return float((wanted.exp() * (wanted - found)).sum(-1).mean())


ORDER = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))


def textbook(model: SourceModel, chosen: Plan, *, prefix: bool) -> dict[str, QuantizedTensor]:
    """The whole model runs for each group of linears, with those before it quantized (or not: `prefix`)."""
    module, _ = load_module(model.directory, "text-generation", dtype="float32")
    parts = dict(module.named_modules())
    found = {}
    for layer in range(2):
        for group in ORDER:
            names = [name for name in parts if f"layers.{layer}." in name and name.endswith(group)]
            given: list[torch.Tensor] = []
            hook = parts[names[0]].register_forward_pre_hook(lambda _part, x, given=given: given.append(x[0]))
            with torch.no_grad():
                for sequence in SEQUENCES:
                    module(input_ids=torch.tensor([sequence]))
            hook.remove()
            x = torch.cat([one.flatten(0, 1) for one in given]).double()
            moments = Moments(hessian=(x.t() @ x / len(x)).float(), cross=None, tokens=len(x))
            for name in names:
                weight: torch.Tensor = parts[name].get_parameter("weight").detach()
                scheme = chosen.assignments[f"{name}.weight"].scheme
                found[f"{name}.weight"] = gptq(weight.clone(), moments, scheme, name)
            if prefix:
                for name in names:
                    values = torch.from_numpy(found[f"{name}.weight"].dequantize())
                    parts[name].get_parameter("weight").detach().copy_(values)
    return found


def same_codes(store_: QuantizedModel, expected: dict[str, QuantizedTensor]) -> float:
    """The share, over all weights but those of the first block's first group, which nothing precedes."""
    names = [name for name in expected if not ("layers.0." in name and "self_attn" in name)]
    return float(np.mean([np.mean(store_.quantized(name).codes == expected[name].codes) for name in names]))


def test_each_linear_is_given_what_the_quantized_ones_before_hand_over(tmp_path: Path) -> None:
    model = load(tiny_llama(tmp_path / "source"))
    found, chosen = store(model, "gptq", tmp_path / "gptq"), plan(model, "gptq")
    assert same_codes(found, textbook(model, chosen, prefix=True)) > 0.995
    assert same_codes(found, textbook(model, chosen, prefix=False)) < 0.98


def test_linears_with_other_methods_are_part_of_what_comes_behind(tmp_path: Path) -> None:
    model = load(tiny_llama(tmp_path / "source"))
    coarse = Rule(tensors="*.0.self_attn.?_proj.weight", scheme=Scheme(bits=2, group_size=32), method="rtn")
    recipe = Recipe(bits=3, method="gptq", rules=(coarse,))
    mixed = allocate(model, recipe, load_profile("edge"))
    found = quantize(model, mixed, tmp_path / "mixed", calibration=SEQUENCES)
    alone = store(model, "gptq", tmp_path / "gptq")
    name = "model.layers.0.mlp.down_proj.weight"
    assert found.tensor_digest(name) != alone.tensor_digest(name)


def test_turned_matrices_are_calibrated_too(tmp_path: Path) -> None:
    model = load(tiny_gpt2(tmp_path / "source"))
    assert divergence(model, store(model, "gptq", tmp_path / "gptq")) < divergence(
        model, store(model, "rtn", tmp_path / "rtn")
    )


def test_what_reads_text_answers_more_like_the_float_model(tmp_path: Path) -> None:
    model = load(tiny_llama(tmp_path / "source"))
    plain = divergence(model, store(model, "rtn", tmp_path / "rtn"))
    found = {method: divergence(model, store(model, method, tmp_path / method)) for method in METHODS}
    assert found["gptq"] < plain
    assert found["refit"] < plain
    assert found["distill"] < found["gptq"]
    assert {path.name for path in tmp_path.iterdir()} == {"source", "rtn", *METHODS}
    assert not (tmp_path / "distill" / "draft").exists()


@pytest.mark.parametrize(("method", "at"), [("refit", "block-0"), ("distill", "block-1"), ("distill", "distilling")])
def test_a_killed_run_continues_and_ends_with_the_same_bytes(method: str, at: str, tmp_path: Path) -> None:
    model = load(tiny_llama(tmp_path / "source"))
    coarse = Rule(tensors="*.0.mlp.up_proj.weight", scheme=Scheme(bits=4, group_size=32), method="rtn")
    mixed = allocate(model, Recipe(bits=3, method=method, rules=(coarse,)), load_profile("edge"))
    whole = quantize(model, mixed, tmp_path / "whole", calibration=SEQUENCES)

    def kill(done: int, total: int, label: str) -> None:
        if label == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(model, mixed, tmp_path / "cut", calibration=SEQUENCES, progress=kill)
    again = quantize(model, mixed, tmp_path / "cut", calibration=SEQUENCES)
    assert again.weights_digest == whole.weights_digest
    assert not (tmp_path / "cut" / "draft").exists()


def test_a_directory_of_somebody_else_is_refused_before_the_work(tmp_path: Path) -> None:
    model = load(tiny_llama(tmp_path / "source"))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(OutputError):
        store(model, "distill", tmp_path / "photos")
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.jpg"]


def test_other_text_is_another_store(tmp_path: Path) -> None:
    model = load(tiny_llama(tmp_path / "source"))
    first = store(model, "gptq", tmp_path / "store")
    second = quantize(model, plan(model, "gptq"), tmp_path / "store", calibration=SEQUENCES[:3])
    assert first.weights_digest != second.weights_digest


def test_a_calibrated_method_must_be_given_text(tmp_path: Path) -> None:
    model = load(tiny_llama(tmp_path / "source"))
    assert needs_calibration(plan(model, "gptq"))
    assert not needs_calibration(plan(model, "mse"))
    assert trains(plan(model, "distill"))
    assert not trains(plan(model, "distill", bits=8))
    with pytest.raises(InternalError, match="nothing to read"):
        quantize(model, plan(model, "gptq"), tmp_path / "store")


@pytest.mark.parametrize("method", ["kmeans", "nf4"])
def test_codebooks_are_fitted_to_what_the_blocks_are_given(method: str, tmp_path: Path) -> None:
    """And stored as they are: what is read back has the codes, tables and scales of the function."""
    model = load(tiny_llama(tmp_path / "source"))
    ios = load_profile("ios")
    bits = 3 if method == "kmeans" else 4
    chosen = [allocate(model, Recipe(bits=bits, method=method), ios, has_text=has_text) for has_text in (False, True)]
    plain, fitted = (
        quantize(model, one, tmp_path / name, calibration=SEQUENCES if needs_calibration(one) else ())
        for one, name in zip(chosen, ("plain", "fitted"), strict=True)
    )
    assert divergence(model, fitted) < 0.9 * divergence(model, plain)
    name = "model.layers.0.self_attn.q_proj.weight"
    module, _ = load_module(model.directory, "text-generation", dtype="float32")
    given: list[torch.Tensor] = []
    linear = module.get_submodule(name.removesuffix(".weight"))
    linear.register_forward_pre_hook(lambda _part, x: given.append(x[0]))
    with torch.no_grad():
        for sequence in SEQUENCES:
            module(input_ids=torch.tensor([sequence]))
    x = torch.cat([one.flatten(0, 1) for one in given]).double()
    moments = Moments(hessian=(x.t() @ x / len(x)).float(), cross=None, tokens=len(x))
    weight = linear.get_parameter("weight").detach().clone()
    expected = calibrated_codebook(weight, moments, chosen[1].assignments[name].scheme, name)
    assert (fitted.quantized(name).codes == expected.codes).mean() > 0.98
    np.testing.assert_allclose(
        fitted.dequantized(name), expected.dequantize(), rtol=0, atol=0.02 * float(weight.std()) * 16
    )
    again = quantize(model, chosen[1], tmp_path / "again", calibration=SEQUENCES)
    assert again.weights_digest == fitted.weights_digest
