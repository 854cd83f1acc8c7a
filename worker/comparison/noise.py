"""The noise model that a comparison with known labels asks for.

It has the form of a calibration (``worker.calibration``), but is fitted to residuals from the
truth, not to differences between repeat visits. An uncertainty then is an accuracy.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from worker.array_types import Floats
from worker.calibration.calibration import width
from worker.comparison.evaluation import Evaluated
from worker.comparison.statistics import pulls
from worker.errors import FatalError
from worker.labels import LABEL_NAMES, LABELS
from worker.results.noise_model import NoiseModel, SnrFactors, by_snr_entry
from worker.results.snr import hats, snr_bins, supported_places

#: Fewer residuals than this say nothing about their percentiles.
_LEAST_RESIDUALS = 5
#: A bin of S/N with fewer spectra than this counts less.
_LEAST_IN_BIN = 30
#: Rounds of fitting the factors in turn, and the change at which they end.
_MOST_ROUNDS, _CONVERGED = 50, 1e-3

#: What a reader of the file has to know.
NOTES = (
    "e = scale * raw_e + offset, times the factor by S/N where there is one.",
    "Under it 68 per cent of the spectra it was fitted to are within e of their known labels, at "
    "each S/N: e is an accuracy, as far as those labels are the truth.",
)


def fit_noise_model(evaluated: Evaluated) -> NoiseModel:
    """The noise model under which 68.27 % of residuals are within one sigma, at each S/N.

    The scale is the 68.27th percentile of ``abs(residual) / raw_e``; 1 where too few spectra have
    the label. It alone serves spectra of unknown S/N. For the others there are factors at
    some S/N, such that around each of these, weighted as the interpolation does, the same part
    is within one sigma: the condition that quantile regression sets (Koenker & Bassett 1978),
    met by one factor after the other. A place with too few spectra near it is left out, which
    leaves them to its neighbours; with fewer than two places there are no factors.
    """
    rows = evaluated.calibrating
    off = np.abs(pulls(evaluated.residuals[rows], evaluated.e_predicted[rows]))
    snr = evaluated.snr[rows]
    weights = _weights(snr)
    scale = np.array([_scale(column, weights) for column in off.T])
    return NoiseModel(
        scale=scale,
        offset=np.zeros(len(LABELS)),
        sha256=None,
        by_snr=tuple(_by_snr(column, snr) for column in (off / scale).T),
    )


def _weights(snr: Floats) -> Floats:
    """The weight of each spectrum: bins of S/N count the same, unless they are nearly empty."""
    weights = np.full(len(snr), 1 / max(np.isnan(snr).sum(), _LEAST_IN_BIN))
    for rows in snr_bins(snr).values():
        weights[rows] = 1 / max(rows.sum(), _LEAST_IN_BIN)
    return weights


def _scale(pulls: Floats, weights: Floats) -> float:
    """The value below which 68.27 % of the weight lies; 1 for too few pulls."""
    valid = np.isfinite(pulls)
    if valid.sum() < _LEAST_RESIDUALS:
        return 1.0
    return width(pulls[valid], weights[valid]) or 1.0


def _by_snr(pulls: Floats, snr: Floats) -> SnrFactors | None:
    """The factors of a label; None where S/N is not known, or known of too few."""
    valid = np.isfinite(pulls) & (snr > 0)
    pulls, snr = pulls[valid], snr[valid]
    places = supported_places(snr, np.ones(len(snr)))
    if len(places) < 2:
        return None
    shares = hats(snr, places)
    factors = np.ones(len(places))
    for _ in range(_MOST_ROUNDS):
        before = factors.copy()
        for place, share in enumerate(shares.T):
            near = share > 0
            within = width(pulls[near] / (shares[near] @ factors), share[near])
            factors[place] *= within or 1.0  # as for the scale: a factor of 0 cannot be used
        if np.abs(factors / before - 1).max() < _CONVERGED:
            break
    return SnrFactors(places, factors)


def write_noise_model(path: Path, noise_model: NoiseModel) -> None:
    """Write the factors as ``worker.results.noise_model`` reads them.

    Raises
    ------
    FatalError
        The file cannot be written.
    """
    columns = (noise_model.scale, noise_model.offset, noise_model.by_snr)
    factors = {
        name: {
            "scale": float(scale),
            "offset": float(offset),
            **({} if by_snr is None else {"by_snr": by_snr_entry(by_snr)}),
        }
        for name, scale, offset, by_snr in zip(LABEL_NAMES, *columns, strict=True)
    }
    content = {**factors, "about": {"notes": NOTES}}
    try:
        path.write_text(json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise FatalError(f"The noise model {path} cannot be written: {error.strerror}.") from error
