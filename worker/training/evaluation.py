"""What a trained network is worth on spectra that it has not seen, and its noise model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worker.errors import FatalError
from worker.labels import LABEL_NAMES
from worker.network.engine import Engine
from worker.results.calibration import width
from worker.training.data import Indices, TrainingSet, chunks
from worker.training.snr import snr_bins

#: With 100 passes each takes a millisecond or two on two cores.
MOST_EVALUATED = 1500
_CHUNK = 32
#: Fewer residuals than this say nothing about their percentiles.
_LEAST_RESIDUALS = 5
#: A bin of S/N with fewer spectra than this counts less.
_LEAST_IN_BIN = 30

#: What a reader of the numbers has to know.
NOTES = (
    "Labels are the means of MC dropout, as the stream gives them; at most "
    f"{MOST_EVALUATED} spectra are evaluated.",
    "Bias is the median residual, scatter 1.4826 times the median absolute deviation; e is the "
    "uncertainty after the noise model.",
    "The noise model is fitted to half of these stars, every bin of S/N counting the same, and the "
    "parts within 1, 2 and 3 sigma are those of the other half.",
)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Evaluated:
    """Labels of validation spectra as the network gives them, and as they are known.

    Attributes
    ----------
    predicted, e_predicted
        ``(n, 22)``: means and raw total uncertainties of MC dropout, in the labels' units.
    known
        ``(n, 22)``; NaN where missing.
    snr
        ``(n,)``; NaN where not known.
    calibrating
        ``(n,)``: which spectra the noise model is fitted to; it is tested on the others.
    """

    predicted: Floats
    e_predicted: Floats
    known: Floats
    snr: Floats
    calibrating: NDArray[np.bool_]

    @property
    def residuals(self) -> Floats:
        """Predicted less known."""
        return self.predicted - self.known


def sample(validation: Indices) -> Indices:
    """At most 1500 of the validation spectra, taken evenly."""
    return validation[:: max(1, -(-len(validation) // MOST_EVALUATED))]


def evaluate(
    engine: Engine, data: TrainingSet, chosen: Indices, finished: Callable[[int], None]
) -> Evaluated:
    """Labels of some spectra by the stream's own engine; half of their stars calibrate."""
    parts = []
    for chunk in chunks(chosen, _CHUNK):
        parts.append(engine(data.spectra(chunk), [data.keys[index] for index in chunk]))
        finished(len(chunk))
    predicted, e_predicted = (np.concatenate(column) for column in zip(*parts, strict=True))
    stars = [data.stars[index] for index in chosen]
    number = {star: i for i, star in enumerate(dict.fromkeys(stars))}
    return Evaluated(
        predicted=predicted,
        e_predicted=e_predicted,
        known=data.labels[chosen],
        snr=data.snr[chosen],
        calibrating=np.array([number[star] % 2 == 0 for star in stars]),
    )


def noise_scale(evaluated: Evaluated) -> Floats:
    """The factor of each label's uncertainty, ``(22,)``, that makes one sigma one sigma.

    It is the 68.27th percentile of ``abs(residual) / e`` over the calibrating spectra; 1 where too
    few of them have the label. The uncertainties of MC dropout follow S/N less than the
    residuals do, so each bin of S/N counts the same: what most of the spectra happen to have
    must not decide what the uncertainties of the others mean.
    """
    rows = evaluated.calibrating
    pulls = np.abs(evaluated.residuals[rows]) / evaluated.e_predicted[rows]
    weights = _weights(evaluated.snr[rows])
    scale = np.array([_weighted_percentile(column, weights) for column in pulls.T])
    return np.where(scale > 0, scale, 1.0)


def _weights(snr: Floats) -> Floats:
    """The weight of each spectrum: bins of S/N count the same, unless they are nearly empty."""
    weights = np.full(len(snr), 1 / max(np.isnan(snr).sum(), _LEAST_IN_BIN))
    for rows in snr_bins(snr).values():
        weights[rows] = 1 / max(rows.sum(), _LEAST_IN_BIN)
    return weights


def _weighted_percentile(pulls: Floats, weights: Floats) -> float:
    """Below it lies a weight of one sigma; 1 for too few pulls."""
    valid = np.isfinite(pulls)
    if valid.sum() < _LEAST_RESIDUALS:
        return 1.0
    return width(pulls[valid], weights[valid])


def write_noise_model(path: Path, scale: Floats) -> None:
    """Write the factors as ``worker.results.noise_model`` reads them.

    Raises
    ------
    FatalError
        The file cannot be written.
    """
    factors = {
        name: {"scale": float(value), "offset": 0.0}
        for name, value in zip(LABEL_NAMES, scale, strict=True)
    }
    try:
        path.write_text(json.dumps(factors, indent=1) + "\n")
    except OSError as error:
        raise FatalError(f"The corrections {path} cannot be written: {error.strerror}.") from error
