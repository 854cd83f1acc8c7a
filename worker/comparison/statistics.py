"""Numbers of a comparison: bias and scatter of labels, and whether their uncertainties hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.array_types import Floats
from worker.comparison.evaluation import Evaluated
from worker.comparison.parts import parts_of_diagram
from worker.labels import LABELS
from worker.results.noise_model import NoiseModel, by_snr_entry
from worker.results.snr import snr_bins

#: Parts of a Gaussian within 1, 2 and 3 sigma.
GAUSSIAN = (0.6827, 0.9545, 0.9973)
#: The standard deviation of a Gaussian over its median absolute deviation.
_MAD_TO_SIGMA = 1.4826

Numbers = dict[str, Any]


def label_numbers(evaluated: Evaluated, noise_model: NoiseModel) -> dict[str, Numbers]:
    """The numbers of :func:`numbers_with` for the uncertainties that a noise model makes.

    With each label's scale and factors by S/N. The parts within 1, 2 and 3 sigma are those of
    the spectra that it was not fitted to.
    """
    by_snr = noise_model.by_snr or (None,) * len(LABELS)
    numbers = numbers_with(evaluated, noise_model.apply(evaluated.e_predicted, evaluated.snr))
    for position, label in evaluated.learnt.items():
        factors = by_snr[position]
        numbers[label.name] |= {
            "scale": float(noise_model.scale[position]),
            "factors": None if factors is None else by_snr_entry(factors),
        }
    return numbers


def numbers_with(evaluated: Evaluated, e_labels: Floats) -> dict[str, Numbers]:
    """Statistics of each learnt label; plain numbers, None for no value.

    Of all spectra and by S/N (``by_snr``), and for dwarfs and giants, by Teff and by [Fe/H]
    (``by_part``), as the known labels have it.

    Parameters
    ----------
    e_labels
        ``(n, 22)`` uncertainties after a noise model, in the labels' units.
    """
    every = {"all": np.ones(len(evaluated.snr), dtype=bool)}
    by_snr = group_numbers(evaluated, e_labels, every | snr_bins(evaluated.snr))
    by_part = {
        part: group_numbers(evaluated, e_labels, groups)
        for part, groups in parts_of_diagram(evaluated.known).items()
    }
    return {
        label.name: {
            "unit": label.unit,
            "by_snr": by_snr[label.name],
            "by_part": {part: numbers[label.name] for part, numbers in by_part.items()},
        }
        for label in evaluated.learnt.values()
    }


def group_numbers(
    evaluated: Evaluated, e_labels: Floats, groups: Mapping[str, NDArray[np.bool_]]
) -> dict[str, dict[str, Numbers]]:
    """The numbers of each learnt label in each group of spectra.

    Offsets and scatter are those of all its spectra; the parts within 1, 2 and 3 sigma, the
    median pull and the width of pulls, those of the spectra that do not calibrate.
    """
    return {
        label.name: {
            name: _numbers(evaluated, position, rows, e_labels[:, position])
            for name, rows in groups.items()
        }
        for position, label in evaluated.learnt.items()
    }


def _numbers(
    evaluated: Evaluated, position: int, rows: NDArray[np.bool_], e_label: Floats
) -> Numbers:
    residual = evaluated.residuals[:, position]
    rows = rows & np.isfinite(residual)
    tested = rows & ~evaluated.calibrating
    pull = pulls(residual[tested], e_label[tested])
    about = spread(pull)
    return {
        "n": int(rows.sum()),
        **spread(residual[rows]),
        "median_e": _plain(np.nanmedian(e_label[rows])) if np.any(e_label[rows] > 0) else None,
        "n_tested": int(tested.sum()),
        "within_before": within(pulls(residual[tested], evaluated.e_predicted[tested, position])),
        "within_after": within(pull),
        "median_pull": about["bias"],
        "pull_width": about["scatter"],
    }


def pulls(residual: Floats, e_label: Floats) -> Floats:
    """Residuals in units of their uncertainty; NaN where there is none."""
    pull = np.full(residual.shape, np.nan)
    np.divide(residual, e_label, out=pull, where=e_label > 0)
    return pull


def spread(residual: Floats) -> Numbers:
    """Bias (median), scatter (1.4826 times the median absolute deviation) and rms."""
    residual = residual[np.isfinite(residual)]
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
    pulls = pulls[np.isfinite(pulls)]
    if not len(pulls):
        return None
    return [_plain(np.mean(np.abs(pulls) < sigma)) for sigma in (1, 2, 3)]


def _plain(value: np.floating[Any]) -> float:
    return float(value)
