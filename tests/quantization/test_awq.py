"""AWQ: the search against the textbook, what it promises, and the scales through the whole stage."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from edgeq.core.recipe import Plan, Recipe, Rule
from edgeq.core.scheme import Scheme
from edgeq.errors import CorruptInputError, UsageError
from edgeq.models.architecture import load_module
from edgeq.models.source import SourceModel, load
from edgeq.quantization import allocate, quantize
from edgeq.quantization import awq as module
from edgeq.quantization.awq import EXPONENTS, Pair, Reader, awq, search
from edgeq.quantization.grid import assemble, group, nearest
from edgeq.quantization.moments import Moments, loss
from edgeq.quantization.rtn import round_to_nearest
from edgeq.quantization.scale_search import weighted_grid
from edgeq.store import QuantizedModel
from edgeq.targets.profiles import load_profile
from runtime_tests.families import FAMILIES, save_random
from tests.oracles import awq as oracle
from tests.quantization.calibration_data import activations, gaussian, moments
from tests.tiny_models import tiny_llama

SCHEME = Scheme(bits=4)
SEQUENCES = tuple(tuple(np.random.default_rng(row).integers(5, 200, 24).tolist()) for row in range(12))


@pytest.fixture(scope="module", autouse=True)
def pool() -> Iterator[ThreadPoolExecutor]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with ThreadPoolExecutor(2) as threads:
        yield threads
    torch.set_num_threads(before)


def reader(weights: Tensor, scheme: Scheme = SCHEME) -> Reader:
    return Reader(weights=weights, quantize=lambda scaled, given: awq(scaled, given, scheme, "w"))


def pair(*weights: Tensor, x: Tensor | None = None, scheme: Scheme = SCHEME) -> Pair:
    x = activations() if x is None else x
    return Pair(
        readers=tuple(reader(matrix, scheme) for matrix in weights or (gaussian(),)),
        moments=Moments(hessian=x.t() @ x / len(x), cross=None, tokens=len(x)),
        magnitudes=x.abs().mean(0),
        columns=torch.arange(x.shape[1]),
    )


# -- rounding ---------------------------------------------------------------------------------------------------------


def test_awq_rounds_to_grids_that_the_inputs_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, given = gaussian(), moments()
    groups = group(weights.numpy(), SCHEME)
    expected = assemble(groups, grid := weighted_grid(groups, given.hessian.diagonal(), "w"), nearest(groups, grid))
    found = awq(weights, given, SCHEME, "w")
    monkeypatch.setattr(module, "ROWS", 5)
    for tensor in (found, awq(weights, given, SCHEME, "w")):
        np.testing.assert_array_equal(tensor.codes, expected.codes)
        np.testing.assert_array_equal(tensor.scales, expected.scales)
    plain = round_to_nearest(weights.numpy(), SCHEME, "w")
    errors = [loss(weights, torch.from_numpy(tensor.dequantize()), given) for tensor in (found, plain)]
    assert errors[0] < 0.8 * errors[1]


def test_what_cannot_be_rounded_is_refused() -> None:
    with pytest.raises(UsageError, match="awq"):
        awq(gaussian(), moments(), Scheme(bits=4, symmetric=True, codebook="nf4"), "w")
    broken = gaussian()
    broken[1, 2] = float("nan")
    with pytest.raises(CorruptInputError, match="'head'"):
        awq(broken, moments(), SCHEME, "head")


# -- search -----------------------------------------------------------------------------------------------------------


def test_scales_and_errors_are_the_textbook() -> None:
    matrices = (gaussian(), gaussian(5, seed=2))
    chosen = pair(*matrices)
    assert len(chosen.candidates()) == EXPONENTS == 20
    for step, scales in enumerate(chosen.candidates()):
        expected = oracle.scales(chosen.magnitudes.double().numpy(), step / 20)
        np.testing.assert_allclose(scales.numpy(), expected, rtol=1e-5)
        hessian = chosen.moments.hessian.double().numpy()
        scaled = replace(chosen.moments, hessian=chosen.moments.hessian / scales / scales[:, None])

        def quantized(weights: oracle.Doubles, scaled: Moments = scaled) -> oracle.Doubles:
            tensor = awq(torch.from_numpy(weights.astype(np.float32)), scaled, SCHEME, "w")
            return np.asarray(tensor.dequantize().astype(np.float64))

        doubles = scales.double().numpy()
        total = sum(oracle.error(weights.double().numpy(), hessian, doubles, quantized) for weights in matrices)
        assert chosen.error(scales) == pytest.approx(total, rel=0.02)  # ties round otherwise


def test_the_best_exponent_is_taken(pool: ThreadPoolExecutor) -> None:
    chosen = pair()
    (found,) = search([chosen], pool)
    assert found is not None
    errors = [chosen.error(scales) for scales in chosen.candidates()]
    assert chosen.error(found) == min(errors) < 0.95 * errors[0]


def test_a_loud_channel_is_kept_better(pool: ThreadPoolExecutor) -> None:
    x = activations()
    x[:, 7] *= 30 / x[:, 7].abs().mean()
    chosen = pair(x=x)
    (scales,) = search([chosen], pool)
    assert scales is not None
    assert chosen.error(scales) < 0.7 * chosen.error(torch.ones(88))
    hessian = chosen.moments.hessian / scales / scales[:, None]
    found = awq(gaussian() * scales, replace(chosen.moments, hessian=hessian), SCHEME, "w").dequantize()
    plain = awq(gaussian(), chosen.moments, SCHEME, "w").dequantize()
    errors = [(values - gaussian().numpy())[:, 7] for values in (found / scales.numpy(), plain)]
    assert np.square(errors[0]).sum() < np.square(errors[1]).sum()


def test_nothing_is_scaled_where_that_does_not_help(pool: ThreadPoolExecutor) -> None:
    alike = replace(pair(), magnitudes=torch.full((88,), 3.0))
    misleading = replace(pair(), moments=Moments(hessian=torch.eye(88), cross=None, tokens=1))
    silent = replace(pair(), magnitudes=torch.zeros(88))
    assert search([alike, misleading, silent], pool) == [None, None, None]


def test_units_and_the_order_of_rows_do_not_matter(pool: ThreadPoolExecutor) -> None:
    x, order = activations(), torch.randperm(12, generator=torch.manual_seed(1))
    once, louder, moved = search([pair(x=x), pair(x=4 * x), pair(gaussian()[order], x=x)], pool)
    assert once is not None
    assert louder is not None
    assert moved is not None
    torch.testing.assert_close(louder, once)
    torch.testing.assert_close(moved, once)


def test_inputs_that_share_a_channel_share_its_scale(pool: ThreadPoolExecutor) -> None:
    x = activations()
    columns = torch.arange(88) // 2
    chosen = replace(pair(x=x), columns=columns, magnitudes=x.abs().mean(0).reshape(44, 2).mean(1))
    (scales,) = search([chosen], pool)
    assert scales is not None
    assert scales.shape == (44,)
    repeated = replace(pair(x=x), magnitudes=chosen.magnitudes[columns])
    assert chosen.error(scales) == pytest.approx(repeated.error(scales[columns]))


def test_channels_that_no_token_used_keep_finite_scales(pool: ThreadPoolExecutor) -> None:
    x = activations()
    x[:, ::3] = 0.0
    (scales,) = search([pair(x=x)], pool)
    assert scales is not None
    assert torch.isfinite(scales).all()
    assert float(scales.min()) >= 0.01


def test_scales_that_no_grid_holds_lose_and_broken_weights_are_refused(pool: ThreadPoolExecutor) -> None:
    half = Scheme(bits=4, symmetric=True, scale_dtype="float16")
    weights = gaussian()
    weights[0, 0] = 60_000.0
    x = activations()
    x[:, 0] *= 100 / x[:, 0].abs().mean()
    large = pair(weights, x=x, scheme=half)
    assert large.error(large.candidates()[-1]) == float("inf")
    (found,) = search([large], pool)
    assert found is None or large.error(found) < float("inf")
    weights[0, 1] = float("nan")
    with pytest.raises(CorruptInputError, match="'w'"):
        search([pair(weights)], pool)


# -- through the stage ------------------------------------------------------------------------------------------------


def scaled_at_random(pairs: list[Pair], _pool: ThreadPoolExecutor) -> list[Tensor | None]:
    return [3 ** (2 * torch.rand(len(one.magnitudes), generator=torch.manual_seed(4)) - 1) for one in pairs]


def plan(model: SourceModel, bits: int, *rules: Rule, method: str = "awq") -> Plan:
    return allocate(model, Recipe(bits=bits, method=method, rules=rules), load_profile("edge"))


def floats_of(store: QuantizedModel) -> dict[str, bytes]:
    return {name: store.floating(name).tobytes() for name in store.names() if not store.is_quantized(name)}


def changed_floats(store: QuantizedModel, model: SourceModel) -> set[str]:
    names = [name for name in store.names() if not store.is_quantized(name)]
    return {name for name in names if not np.allclose(store.dequantized(name), model.read(name).astype(np.float32))}


def outputs(directory: Path, model: SourceModel, store: QuantizedModel | None) -> Tensor:
    """Hidden states or logits, with the weights of the store if there is one."""
    built, _ = load_module(directory, model.info.task, dtype="float32")
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if store is not None:
                parameter.copy_(torch.from_numpy(np.array(store.dequantized(name))))
        found = built(torch.tensor(SEQUENCES[:4]))
    result: Tensor = found.logits if model.info.task == "text-generation" else found.last_hidden_state
    return result


@pytest.mark.parametrize(
    ("name", "limit"), [("llama", 3), ("gemma2", 3), ("phi3", 3), ("gpt2", 1.2), ("gpt_neox", 1.2), ("bert", 1.2)]
)
def test_what_was_scaled_is_what_the_store_holds(
    name: str, limit: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 8 bits and any scales the model answers as it did. Any one norm that the store held unscaled would make the
    error 20 times that of rounding in the first three, whose codes grow coarser by such scales, and 1.3 in the others.
    """
    family = FAMILIES[name]
    model = load(save_random(family, tmp_path / "source"), task=family.task)
    monkeypatch.setattr(module, "search", scaled_at_random)
    store = quantize(model, plan(model, 8), tmp_path / "store", calibration=SEQUENCES)
    plain = quantize(model, plan(model, 8, method="rtn"), tmp_path / "rtn")
    expected, found, rounded = (outputs(tmp_path / "source", model, one) for one in (None, store, plain))
    assert float((found - expected).norm()) < limit * float((rounded - expected).norm())
    assert changed_floats(store, model)


def test_awq_answers_better_than_the_search_without_text(tmp_path: Path) -> None:
    model = load(tiny_llama(tmp_path / "source"))
    errors = {}
    expected = outputs(tmp_path / "source", model, None)
    for method in ("awq", "rtn"):
        chosen = plan(model, 3, method=method)
        store = quantize(model, chosen, tmp_path / method, calibration=SEQUENCES)
        errors[method] = float((outputs(tmp_path / "source", model, store) - expected).norm())
    assert errors["awq"] < errors["rtn"]
    assert errors["awq"] > 0
    assert changed_floats(QuantizedModel.open(tmp_path / "awq"), model)
    assert not changed_floats(QuantizedModel.open(tmp_path / "rtn"), model)


def test_a_killed_run_continues_and_ends_with_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(tiny_llama(tmp_path / "source"))
    monkeypatch.setattr(module, "search", scaled_at_random)
    whole = quantize(model, plan(model, 3), tmp_path / "whole", calibration=SEQUENCES)

    def kill(done: int, total: int, label: str) -> None:
        if label == "block-0":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(model, plan(model, 3), tmp_path / "cut", calibration=SEQUENCES, progress=kill)
    again = quantize(model, plan(model, 3), tmp_path / "cut", calibration=SEQUENCES)
    assert again.weights_digest == whole.weights_digest
    assert floats_of(again) == floats_of(whole)


def test_what_becomes_float16_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(tiny_llama(tmp_path / "source"))
    monkeypatch.setattr(module, "search", scaled_at_random)
    half = Rule(tensors="*.v_proj.weight", scheme=Scheme(bits=16), method="none")
    store = quantize(model, plan(model, 8, half), tmp_path / "store", calibration=SEQUENCES)
    changed = {name for name in changed_floats(store, model) if "norm" in name}
    assert changed == {f"model.layers.{layer}.post_attention_layernorm.weight" for layer in range(2)}


def test_readers_with_other_methods_are_scaled_with_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(tiny_llama(tmp_path / "source"))
    monkeypatch.setattr(module, "search", scaled_at_random)
    rules = [
        Rule(tensors=f"*.{name}.weight", scheme=Scheme(bits=8), method=method)
        for name, method in {"k_proj": "rtn", "up_proj": "gptq", "down_proj": "mse"}.items()
    ]
    store = quantize(model, plan(model, 8, *rules), tmp_path / "store", calibration=SEQUENCES)
    plain = quantize(model, plan(model, 8, method="rtn"), tmp_path / "rtn")
    expected, found, rounded = (outputs(tmp_path / "source", model, one) for one in (None, store, plain))
    assert float((found - expected).norm()) < 3 * float((rounded - expected).norm())
    assert len(changed_floats(store, model)) == 4
