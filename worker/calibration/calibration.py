"""Calibration: the noise model under which repeat visits differ as much as they should.

For visits i and j of one star z = (x_i - x_j) / sqrt(e_i^2 + e_j^2) is drawn from a unit normal
when the uncertainties are right. Scale and offset of ``e = scale * raw_e + offset`` are fitted to
that for each label, exactly as they are applied. The peers' code fits its offset as a variance,
twice in each pair ((2 offset)^2 beside scale^2 raw_e^2), and then applies it linearly.

The fit's parameters are the logarithm of e at the median raw_e and the offset's share of it, for
these two hardly depend on each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.array_types import Floats
from worker.calibration.pair_fit import Differences, Fitted, Model, bootstrap, fit
from worker.calibration.repeats import Pairs, Visits
from worker.labels import LABELS
from worker.results.noise_model import RAW_RANGE, NoiseModel, SnrFactors
from worker.results.snr import LEAST_FREEDOM, hats, supported_places

#: The part of a Gaussian within one sigma.
ONE_SIGMA = 0.6827
#: 44 intervals (scale and offset of 22 labels) hold together with 95 per cent: Bonferroni.
JOINT_SIGMA = 3.26
#: Drawings of fewer stars look all the same, and would make errors too small, of one star zero.
LEAST_STARS = 10
#: When the offset's share of e is known no better than this, it is not fitted.
_WIDEST_SHARE = 0.25
_MOST_SHARE = 0.99


@dataclass(frozen=True)
class LabelCalibration:
    """The noise model of a label, and how well it is known.

    Attributes
    ----------
    scale, offset
        ``e = scale * raw_e + offset``.
    scale_error, offset_error, correlation
        One standard deviation of each, by bootstrap over stars; None where it is not fitted, or
        to too few stars.
    outliers
        The part of pairs that differ more than the noise explains.
    stars, pairs
        What it was fitted to.
    note
        A warning about the fit; empty where there is none.
    learnt
        Whether any visit has the label.
    by_snr
        The factor on e by S/N, where it was asked for and could be fitted.
    """

    scale: float = 1.0
    offset: float = 0.0
    scale_error: float | None = None
    offset_error: float | None = None
    correlation: float | None = None
    outliers: float = 0.0
    stars: int = 0
    pairs: int = 0
    note: str = ""
    by_snr: SnrFactors | None = None
    learnt: bool = True

    def interval(self, factor: str) -> tuple[float, float] | None:
        """Where the ``scale`` or ``offset`` is; all labels' hold together with 95 per cent."""
        value, error = getattr(self, factor), getattr(self, f"{factor}_error")
        if error is None:
            return None
        return value - JOINT_SIGMA * error, value + JOINT_SIGMA * error


def not_learnt(labels: Sequence[LabelCalibration]) -> list[str]:
    """The names of the labels that no visit has."""
    return [label.name for label, each in zip(LABELS, labels, strict=True) if not each.learnt]


def noise_model_of(labels: list[LabelCalibration]) -> NoiseModel:
    """The noise model of a calibration, as its file is read."""
    return NoiseModel(
        scale=np.array([each.scale for each in labels]),
        offset=np.array([each.offset for each in labels]),
        sha256=None,
        by_snr=tuple(each.by_snr for each in labels),
    )


def calibrate(
    visits: Visits, pairs: Pairs, *, times: int, seed: int, by_snr: bool = False
) -> Iterator[LabelCalibration]:
    """The calibration of each label, in the order of :data:`worker.labels.LABELS`.

    Parameters
    ----------
    times
        Drawings of the bootstrap.
    by_snr
        Also fit a factor by S/N.
    """
    for position in range(len(LABELS)):
        random = np.random.default_rng([seed, position])
        yield _calibrate_label(visits, pairs, position, times, random, by_snr=by_snr)


def _calibrate_label(
    visits: Visits,
    pairs: Pairs,
    position: int,
    times: int,
    random: np.random.Generator,
    *,
    by_snr: bool,
) -> LabelCalibration:
    if not np.isfinite(visits.labels[:, position]).any():
        return LabelCalibration(note="not learnt", learnt=False)
    used = chosen(visits, pairs, position)
    counted = LabelCalibration(stars=len(np.unique(pairs.star[used])), pairs=int(used.sum()))
    if pairs.weight[used].sum() < LEAST_FREEDOM:
        return replace(counted, note="too few repeat visits: left as it is")
    raw_e = visits.raw_e_labels[:, position]
    unit = float(np.median(raw_e[np.concatenate([pairs.first[used], pairs.second[used]])]))
    data = _differences(visits.labels[:, position] / unit, pairs, used)
    if np.median(data.squared) == 0:
        return replace(counted, note="repeat visits do not differ: left as it is")
    first, second = raw_e[pairs.first[used]] / unit, raw_e[pairs.second[used]] / unit
    least = min(float(raw_e[raw_e > 0].min()), RAW_RANGE[LABELS[position].unit][0]) / unit
    fitted = replace(counted, **_linear(data, (first, second), least, unit, times, random))
    if by_snr:
        e_label = fitted.scale * raw_e + fitted.offset
        factors = _by_snr(visits, pairs, used, position, e_label, times, random)
        fitted = replace(fitted, by_snr=factors)
    return fitted if fitted.stars >= LEAST_STARS else _without_errors(fitted)


def _without_errors(label: LabelCalibration) -> LabelCalibration:
    few = "too few stars to tell how well it is known"
    return replace(
        label,
        scale_error=None,
        offset_error=None,
        correlation=None,
        note=f"{label.note}; {few}" if label.note else few,
        by_snr=label.by_snr and replace(label.by_snr, error=None),
    )


def chosen(visits: Visits, pairs: Pairs, position: int) -> NDArray[np.bool_]:
    """Which pairs count for a label: its edges are left out, and visits without uncertainty."""
    raw_e = visits.raw_e_labels[:, position]
    good = np.isfinite(raw_e) & (raw_e > 0)
    within = pairs.within_edges[pairs.star, position]
    return np.asarray(within & good[pairs.first] & good[pairs.second])


def pulls(visits: Visits, pairs: Pairs, position: int, e_label: Floats) -> Floats:
    """``(m,)``: z of each pair for one label; NaN for those that do not count."""
    label = visits.labels[:, position]
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (label[pairs.first] - label[pairs.second]) / np.hypot(
            e_label[pairs.first], e_label[pairs.second]
        )
    return np.where(chosen(visits, pairs, position), z, np.nan)


def width(z: Floats, weights: Floats) -> float:
    """The absolute value below which 68.27 % of the weight lies; 1 for a unit normal."""
    z = np.abs(z)
    order = np.argsort(z)
    weights = weights[order]
    below = np.cumsum(weights) - 0.5 * weights
    return float(np.interp(ONE_SIGMA, below / weights.sum(), z[order]))


def _differences(label: Floats, pairs: Pairs, used: NDArray[np.bool_]) -> Differences:
    return Differences(
        squared=(label[pairs.first[used]] - label[pairs.second[used]]) ** 2,
        weight=pairs.weight[used],
        star=pairs.star[used],
    )


def _linear(
    data: Differences,
    raw_e: tuple[Floats, Floats],
    least: float,
    unit: float,
    times: int,
    random: np.random.Generator,
) -> dict[str, Any]:
    """Scale and offset; raw uncertainties and differences are in units of their median."""
    model = _linear_model(*raw_e)
    # An offset may be negative, but at half of the least raw_e of all visits e is not.
    half = 0.5 * least
    low, high = np.array([-np.inf, -half / (1 - half)]), np.array([np.inf, _MOST_SHARE])
    start = np.array([0.5 * np.log(np.median(data.squared) / 0.455 / 2), 0.0])
    note = ""
    if not _share_error(data, model, start) < _WIDEST_SHARE:
        low[1] = high[1] = 0.0
        note = "raw_e varies too little to tell scale from offset: the offset is not fitted"
    fitted = fit(data, model, start, low, high)
    free = np.array([True, low[1] < fitted.parameters[1] < high[1]])
    if not (free[1] or note):
        note = "the offset is at its bound, and the error of the scale is that for this offset"
    replicas = bootstrap(data, model, fitted, free, times, random)
    return {**_scale_and_offset(fitted, replicas, unit), "note": note}


def _share_error(data: Differences, model: Model, start: Floats) -> float:
    """How well the pairs could tell the offset's share of e, by their raw_e alone."""
    _, derivatives = model(start)
    information = 2 * derivatives.T @ (data.weight[:, np.newaxis] * derivatives)
    return float(np.sqrt(np.linalg.pinv(information)[1, 1]) or np.inf)


def _scale_and_offset(fitted: Fitted, replicas: Floats, unit: float) -> dict[str, Any]:
    middle, share = np.exp(fitted.parameters[0]), fitted.parameters[1]
    middles, shares = np.exp(np.clip(replicas[:, 0], -50, 50)), replicas[:, 1]
    scales, offsets = middles * (1 - shares), unit * middles * shares
    fixed = np.ptp(shares) == 0
    return {
        "scale": float(middle * (1 - share)),
        "offset": float(unit * middle * share),
        "scale_error": _spread(scales),
        "offset_error": None if fixed else _spread(offsets),
        "correlation": None if fixed else _rank_correlation(scales, offsets),
        "outliers": fitted.outliers,
    }


def _linear_model(first: Floats, second: Floats) -> Model:
    def model(parameters: Floats) -> tuple[Floats, Floats]:
        middle, share = np.exp(2 * parameters[0]), parameters[1]
        e_first, e_second = share + (1 - share) * first, share + (1 - share) * second
        variance = e_first**2 + e_second**2
        by_share = (e_first * (1 - first) + e_second * (1 - second)) / variance
        return middle * variance, np.stack([np.ones_like(by_share), by_share], axis=1)

    return model


def _by_snr(
    visits: Visits,
    pairs: Pairs,
    used: NDArray[np.bool_],
    position: int,
    e_label: Floats,
    times: int,
    random: np.random.Generator,
) -> SnrFactors | None:
    """The factor on e at some S/N, linear between them; None where S/N is not known."""
    known = visits.snr > 0
    used = used & known[pairs.first] & known[pairs.second]
    sides = np.concatenate([pairs.first[used], pairs.second[used]])
    places = supported_places(visits.snr[sides], np.tile(pairs.weight[used], 2))
    if len(places) < 2:
        return None
    data = _differences(visits.labels[:, position], pairs, used)
    model = _snr_model(hats(visits.snr, places), e_label, pairs.first[used], pairs.second[used])
    bound = np.full(len(places), 3.0)
    fitted = fit(data, model, np.zeros(len(places)), -bound, bound)
    replicas = bootstrap(data, model, fitted, bound > 0, times, random)
    factors: Floats = np.exp(fitted.parameters)
    errors = [factor * _spread(each) for factor, each in zip(factors, replicas.T, strict=True)]
    return SnrFactors(places, factors, np.array(errors))


def _snr_model(shares: Floats, e_label: Floats, first: NDArray[Any], second: NDArray[Any]) -> Model:
    """``shares``: ``(n, p)``, what each place contributes to a visit's factor."""

    def model(parameters: Floats) -> tuple[Floats, Floats]:
        parts = shares * np.exp(parameters)
        factor = parts.sum(axis=1)
        squares = (factor * e_label) ** 2
        slopes = parts * (factor * e_label**2)[:, np.newaxis]
        variance = squares[first] + squares[second]
        return variance, (slopes[first] + slopes[second]) / variance[:, np.newaxis]

    return model


def _spread(values: Floats) -> float:
    """Half of the middle 68 per cent: a few drawings that cannot be solved do no harm."""
    low, high = np.percentile(values, [50 * (1 - ONE_SIGMA), 50 * (1 + ONE_SIGMA)])
    return float(high - low) / 2


def _rank_correlation(one: Floats, other: Floats) -> float:
    """Spearman's: a few drawings that cannot be solved do no harm."""
    ranks = np.argsort(np.argsort(np.stack([one, other])))
    return float(np.asarray(np.corrcoef(ranks))[0, 1])
