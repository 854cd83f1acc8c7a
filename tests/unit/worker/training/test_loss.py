from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from worker.training.loss import robust_loss


def case(seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Outputs, known labels of which some are missing, and errors of which some are zero."""
    rng = np.random.default_rng(seed)
    predicted, log_variance, known = (torch.tensor(rng.normal(size=(7, 22))) for _ in range(3))
    variance = torch.tensor(rng.uniform(0, 0.5, (7, 22)))
    variance[rng.random((7, 22)) < 0.3] = 0.0
    known[torch.tensor(rng.random((7, 22)) < 0.4)] = torch.nan
    return predicted.requires_grad_(), log_variance.requires_grad_(), known, variance


def test_the_loss_is_the_equation_summed_in_a_loop() -> None:
    predicted, log_variance, known, variance = (values.detach() for values in case())
    total, count = 0.0, 0
    for row, column in np.ndindex(known.shape):
        y, y_hat = float(known[row, column]), float(predicted[row, column])
        if math.isnan(y):
            continue
        s = math.log(float(variance[row, column]) + math.exp(float(log_variance[row, column])))
        total += 0.5 * (y_hat - y) ** 2 * math.exp(-s) + 0.5 * s
        count += 1
    loss = float(robust_loss(predicted, log_variance, known, variance))
    assert loss == pytest.approx(total / count, rel=1e-12)


def test_missing_labels_have_no_gradient_and_all_others_a_finite_one() -> None:
    predicted, log_variance, known, variance = case()
    robust_loss(predicted, log_variance, known, variance).backward()
    for output in (predicted, log_variance):
        assert output.grad is not None
        missing = known.isnan()
        assert (output.grad[missing] == 0).all()
        assert output.grad[~missing].isfinite().all()
        assert (output.grad[~missing] != 0).all()


def test_what_is_predicted_for_a_missing_label_does_not_matter() -> None:
    predicted, log_variance, known, variance = case()
    loss = robust_loss(predicted, log_variance, known, variance)
    with torch.no_grad():
        predicted[known.isnan()] = torch.inf
        log_variance[known.isnan()] = torch.nan
        variance[known.isnan()] = torch.nan
    again = robust_loss(predicted, log_variance, known, variance)
    assert float(again.detach()) == float(loss.detach())
    again.backward()
    assert predicted.grad is not None
    assert predicted.grad.isfinite().all()


def test_a_batch_without_any_label_costs_nothing() -> None:
    predicted, log_variance, known, variance = case()
    loss = robust_loss(predicted, log_variance, torch.full_like(known, torch.nan), variance)
    loss.backward()
    assert float(loss.detach()) == 0
    assert predicted.grad is not None
    assert not predicted.grad.any()


def test_the_best_variance_is_the_squared_residual_less_the_known_variance() -> None:
    # dJ/ds = 0 at exp(s) = residual^2; the network has to explain the rest alone.
    residual, known_variance = 0.7, 0.2
    best = torch.tensor([[math.log(residual**2 - known_variance)]], requires_grad=True)
    zero = torch.zeros(1, 1)
    loss = robust_loss(zero + residual, best, zero, torch.full((1, 1), known_variance))
    loss.backward()
    assert best.grad is not None
    assert abs(float(best.grad)) < 1e-6
