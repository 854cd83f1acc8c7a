"""A robust fit of a model of noise to differences between pairs.

The differences of a pair are drawn from a Gaussian whose variance the model gives, or, a part of
them, from a wider one, which is what outliers are. Both parts are found by expectation and
maximisation: each pair gets a probability that it is none of the outliers and counts with that in
a step of Fisher's scoring. Without outliers this is maximum likelihood. A rule that
clips would be drawn off by outliers that it does not reach, a quantile by all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.array_types import Floats

_MOST_STEPS = 300
_LONGEST_STEP = 0.3
_CONVERGED = 1e-5
#: Outliers are at least this much wider than the rest; at first, and at most.
_WIDTHS = (4.0, 10.0, 1000.0)
_FIRST_OUTLIERS, _LEAST_OUTLIERS = 0.02, 1e-6
_DIFFERENCE = 1e-4

Integers = NDArray[np.int64]
#: Parameters to variances ``(m,)`` of the differences, and the derivatives ``(m, p)`` of half
#: their logarithm.
Model = Callable[[Floats], tuple[Floats, Floats]]


@dataclass(frozen=True)
class Differences:
    """Squared differences of pairs, their weights, and the numbers of their stars, ``(m,)`` each.

    Pairs of one star are not independent; stars are.
    """

    squared: Floats
    weight: Floats
    star: Integers


@dataclass(frozen=True)
class Fitted:
    """Parameters ``(p,)``, the part of outliers and how much wider they are."""

    parameters: Floats
    outliers: float
    width: float


def fit(data: Differences, model: Model, start: Floats, low: Floats, high: Floats) -> Fitted:
    """The parameters between ``low`` and ``high`` for which the differences are most likely."""
    parameters, outliers, width = start, _FIRST_OUTLIERS, _WIDTHS[1]
    total = data.weight.sum()
    for _ in range(_MOST_STEPS):
        fitted = Fitted(parameters, outliers, width)
        z_squared, derivatives, inlying = _expect(data, model, fitted)
        weight = data.weight * inlying
        score = derivatives.T @ (weight * (z_squared - 1))
        information = 2 * derivatives.T @ (weight[:, np.newaxis] * derivatives)
        step = _bounded_step(score, information, parameters, low, high)
        parameters = parameters + step
        outlying = data.weight - weight
        outliers = max(float(outlying.sum() / total), _LEAST_OUTLIERS)
        width = float(np.sqrt((outlying * z_squared).sum() / (outliers * total)))
        width = min(max(width, _WIDTHS[0]), _WIDTHS[2])
        if np.abs(step).max() < _CONVERGED:
            break
    return Fitted(parameters, outliers, width)


def _expect(data: Differences, model: Model, fitted: Fitted) -> tuple[Floats, Floats, Floats]:
    """Squared z, the model's derivatives, and the probability that a pair is no outlier."""
    variance, derivatives = model(fitted.parameters)
    z_squared = data.squared / variance
    # The ratio of both densities; a difference beyond all bounds would be inf / inf.
    exponent = np.minimum(0.5 * z_squared * (1 - fitted.width**-2), 700.0)
    odds = fitted.outliers / (1 - fitted.outliers) / fitted.width * np.exp(exponent)
    return z_squared, derivatives, 1 / (1 + odds)


def _bounded_step(
    score: Floats, information: Floats, parameters: Floats, low: Floats, high: Floats
) -> Floats:
    """Fisher's step; what would leave its bounds goes to them, and the rest is solved again."""
    free = low < high
    step = np.zeros_like(parameters)
    while free.any():
        solved = np.linalg.lstsq(information[np.ix_(free, free)], score[free])[0]
        step[free] = np.clip(solved, -_LONGEST_STEP, _LONGEST_STEP)
        there = parameters + step
        stuck = free & ((there < low) | (there > high))
        if not stuck.any():
            break
        step[stuck] = np.clip(there, low, high)[stuck] - parameters[stuck]
        free &= ~stuck
    return step


def bootstrap(
    data: Differences,
    model: Model,
    fitted: Fitted,
    free: NDArray[np.bool_],
    times: int,
    random: np.random.Generator,
) -> Floats:
    """Parameters ``(times, p)`` as they would be for other drawings of the stars.

    Each star counts a Poisson number of times. Instead of fitting anew, one step of Newton is
    taken from the fit, with the gradient and its derivatives of the stars that were drawn; so
    the pairs are summed up by star once. The bounds do not hold these parameters.
    """
    n_stars = int(data.star.max()) + 1
    n_free = int(free.sum())

    def gradient(parameters: Floats) -> Floats:
        at = Fitted(parameters, fitted.outliers, fitted.width)
        z_squared, derivatives, inlying = _expect(data, model, at)
        terms = derivatives[:, free] * (data.weight * inlying * (z_squared - 1))[:, np.newaxis]
        return np.stack([np.bincount(data.star, each, n_stars) for each in terms.T], axis=1)

    steps = _DIFFERENCE * np.eye(len(free))[free]
    slopes = np.stack(
        [
            (gradient(fitted.parameters + step) - gradient(fitted.parameters - step))
            / (2 * _DIFFERENCE)
            for step in steps
        ],
        axis=2,
    )
    sums = np.concatenate([gradient(fitted.parameters), slopes.reshape(n_stars, -1)], axis=1)
    drawn = np.stack([random.poisson(1.0, n_stars) @ sums for _ in range(times)])
    gradients, slopes = drawn[:, :n_free], drawn[:, n_free:].reshape(-1, n_free, n_free)
    replicas = np.tile(fitted.parameters, (times, 1))
    replicas[:, free] -= (np.linalg.pinv(slopes) @ gradients[..., np.newaxis])[..., 0]
    return replicas
