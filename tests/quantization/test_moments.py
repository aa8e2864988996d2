"""Moments and what is made of them: means, the factor of the inverse, corrected weights, the loss."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from edgeq.errors import InternalError
from edgeq.quantization.moments import DAMPING, MomentSums, corrected, inverse_factor, loss
from tests.oracles import gptq as oracle
from tests.quantization.calibration_data import activations, gaussian, moments


def test_moments_are_means_of_outer_products() -> None:
    x, xq = activations(8, 5000).double(), activations(8, 5000, seed=2).double()
    sums = MomentSums(8)
    sums.add(x[:4500].float(), xq[:4500].float())
    sums.add(x[4500:].float(), xq[4500:].float())
    result = sums.result()
    assert result.tokens == 5000
    assert result.cross is not None
    torch.testing.assert_close(result.hessian, (xq.t() @ xq / 5000).float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(result.cross, (x.t() @ xq / 5000).float(), rtol=1e-4, atol=1e-4)


def test_moments_of_nothing_and_of_other_shapes_are_refused() -> None:
    sums = MomentSums(8)
    with pytest.raises(InternalError, match="no tokens"):
        sums.result()
    with pytest.raises(InternalError, match="8"):
        sums.add(activations(8), activations(9))


def test_the_factor_is_that_of_the_damped_inverse() -> None:
    hessian = moments(24).hessian
    hessian[3], hessian[:, 3] = 0.0, 0.0
    factor = inverse_factor(hessian, "w").double()
    added = torch.full((24,), DAMPING * float(hessian.diagonal().mean()), dtype=torch.float64)
    added[3] = 1.0
    inverse = torch.linalg.inv(hessian.double() + torch.diag(added))
    torch.testing.assert_close(factor.t() @ factor, inverse, rtol=1e-4, atol=1e-6)
    assert bool((factor.tril(-1) == 0).all())


def test_damping_grows_until_the_factor_exists() -> None:
    hessian = torch.eye(8)
    hessian[0, 1] = hessian[1, 0] = 1.05  # an eigenvalue of -0.05: more than the first damping, less than the second
    assert bool(inverse_factor(hessian, "w").isfinite().all())
    with pytest.raises(InternalError, match="negative eigenvalues"):
        inverse_factor(hessian * torch.sign(hessian - 0.5).clamp(max=1) * 5 - 9, "w")


def test_corrected_weights_give_the_outputs_of_the_float_model() -> None:
    x = activations(24, 2000)
    xq = x + 0.3 * activations(24, 2000, seed=5)
    sums = MomentSums(24)
    sums.add(x, xq)
    given, weights = sums.result(), gaussian(6, 24)

    def off(candidate: Tensor) -> float:
        return float((weights @ x.t() - candidate @ xq.t()).square().mean())

    exact = torch.linalg.lstsq(xq.double(), (weights @ x.t()).t().double()).solution.t()
    torch.testing.assert_close(corrected(weights, given, damping=1e-9).double(), exact, rtol=1e-3, atol=1e-4)
    steps = [off(corrected(weights, given, share)) for share in (0.0, 0.5, 1.0)]
    assert steps == sorted(steps, reverse=True)
    assert corrected(weights, given, 0.0) is weights
    assert corrected(weights, replace(given, cross=None)) is weights
    torch.testing.assert_close(corrected(weights, replace(given, cross=given.hessian)), weights)


def test_loss_is_the_relative_change_of_the_outputs() -> None:
    x, weights, other = activations(24), gaussian(6, 24), gaussian(6, 24, seed=3)
    sums = MomentSums(24)
    sums.add(x, x)
    expected = float(((weights - other) @ x.t()).square().sum() / (weights @ x.t()).square().sum())
    assert loss(weights, other, sums.result()) == pytest.approx(expected, rel=1e-4)
    assert oracle.loss(*(part.double().numpy() for part in (weights, other, sums.result().hessian))) == pytest.approx(
        expected, rel=1e-4
    )
    assert loss(torch.zeros(2, 24), torch.zeros(2, 24), sums.result()) == 0.0
