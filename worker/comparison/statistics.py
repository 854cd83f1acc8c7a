"""Numbers of an evaluation: bias and scatter of labels, and whether their uncertainties hold."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.array_types import Floats
from worker.comparison.evaluation import Evaluated
from worker.labels import LABELS
from worker.results.noise_model import NoiseModel, by_snr_entry
from worker.results.snr import snr_bins

#: Parts of a Gaussian within 1, 2 and 3 sigma.
GAUSSIAN = (0.6827, 0.9545, 0.9973)
#: The standard deviation of a Gaussian over its median absolute deviation.
_MAD_TO_SIGMA = 1.4826

Numbers = dict[str, Any]


def label_numbers(evaluated: Evaluated, noise_model: NoiseModel) -> dict[str, Numbers]:
    """Statistics of each learnt label, of all spectra and by S/N; plain numbers, None for no value.

    Offsets and scatter are those of all spectra; the parts within 1, 2 and 3 sigma, before
    and after the noise model, those of the spectra that it was not fitted to.
    """
    by_snr = noise_model.by_snr or (None,) * len(LABELS)
    e_labels = noise_model.apply(evaluated.e_predicted, evaluated.snr)
    bins = {"all": np.ones(len(evaluated.snr), dtype=bool), **snr_bins(evaluated.snr)}
    return {
        label.name: {
            "unit": label.unit,
            "scale": float(noise_model.scale[position]),
            "factors": None if factors is None else by_snr_entry(factors),
            "by_snr": {
                name: _numbers(evaluated, position, rows, e_labels[:, position])
                for name, rows in bins.items()
            },
        }
        for position, label in evaluated.learnt.items()
        for factors in [by_snr[position]]
    }


def _numbers(
    evaluated: Evaluated, position: int, rows: NDArray[np.bool_], e_label: Floats
) -> Numbers:
    residual = evaluated.residuals[:, position]
    raw_e_label = evaluated.e_predicted[:, position]
    rows = rows & np.isfinite(residual)
    tested = rows & ~evaluated.calibrating
    return {
        "n": int(rows.sum()),
        **spread(residual[rows]),
        "median_e": _plain(np.median(e_label[rows])) if rows.any() else None,
        "n_tested": int(tested.sum()),
        "within_before": within(residual[tested] / raw_e_label[tested]),
        "within_after": within(residual[tested] / e_label[tested]),
    }


def spread(residual: Floats) -> Numbers:
    """Bias (median), scatter (1.4826 times the median absolute deviation) and rms."""
    if not len(residual):
        return {"bias": None, "scatter": None, "rms": None}
    bias = np.median(residual)
    return {
        "bias": _plain(bias),
        "scatter": _plain(_MAD_TO_SIGMA * np.median(np.abs(residual - bias))),
        "rms": _plain(np.sqrt(np.mean(residual**2))),
    }


def within(pulls: Floats) -> list[float] | None:
    """The parts of residuals within 1, 2 and 3 of their sigma."""
    if not len(pulls):
        return None
    return [_plain(np.mean(np.abs(pulls) < sigma)) for sigma in (1, 2, 3)]


def _plain(value: np.floating[Any]) -> float:
    return float(value)
